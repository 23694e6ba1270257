"""Compression techniques, one file each: the schema a recipe speaks, and its Keras half."""
