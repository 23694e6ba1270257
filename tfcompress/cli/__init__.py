"""The command line: thin absl programs, one a file."""
