"""`tfcompress COMMAND --flags`: finds the command, parses its flags, and turns failures into exit codes.

Exit codes: 0 done (and help), 1 a named failure, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from absl import flags

from tfcompress.vocabulary.errors import TfcompressError

COMMANDS = {
    "compress": "run a recipe: a model and data in, one verified .tflite file and its evidence out",
    "search": "fill the holes of a recipe, and find the Pareto front of real files",
    "sensitivity": "try each layer alone at each bit-width and sparsity, without training",
    "train": "train a network of the zoo, or go on training a model",
    "check": "say what can be done to a model: every layer x every technique and the conversion",
    "convert": "convert a trained model by calibration alone, and prove the file",
    "evaluate": "measure .tflite files: metric, size, latency, delegation",
    "recipes": "list the recipes that ship",
}
_HELP = {"-h", "--help", "-help", "--helpfull"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: arguments without the program's name. Defaults to the process's.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe has seen enough; what Python flushes at exit must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"tfcompress: cannot write to standard output: {error.strerror}.", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in (*_HELP, "help"):
        print(_overview())
        return 0 if arguments else 2
    name = arguments[0]
    if name not in COMMANDS:
        print(f"tfcompress: there is no command {name}.\n\n{_overview()}", file=sys.stderr)
        return 2
    # The banners of native code would drown the messages meant for a person.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    command = importlib.import_module(f"tfcompress.cli.{name}")
    values = flags.FlagValues()
    command.define_flags(values)
    flags.DEFINE_bool("verbose", False, "Show the traceback of a failure.", flag_values=values)
    if any(argument in _HELP for argument in arguments[1:]):
        print(_usage(name, values))
        return 0
    given = arguments[1:]
    positional = getattr(command, "POSITIONAL", None)
    if positional and given and not given[0].startswith("-"):
        given[0] = f"--{positional}={given[0]}"
    try:
        rest = values([name, *given])[1:]
        if rest:
            raise flags.Error(f"Only flags are taken. Received: {' '.join(rest)}")
        if empty := [f"--{flag}=" for flag in values if values[flag].present and values[flag].value == ""]:
            raise flags.Error(f"A flag that is given must have a value. Received: {' '.join(empty)}")
    except flags.Error as error:
        print(f"tfcompress {name}: {error}\nRemedy: see `tfcompress {name} --help`.", file=sys.stderr)
        return 2
    return _run(command, values)


def _run(command: Any, values: flags.FlagValues) -> int:
    try:
        code = command.run(values)
    except KeyboardInterrupt:
        resumes = " The same command goes on where it stopped." if getattr(command, "RESUMES", False) else ""
        print(f"tfcompress: interrupted.{resumes}", file=sys.stderr)
        return 130
    except TfcompressError as error:
        _explain(values, f"tfcompress: {error}")
        return 1
    except BrokenPipeError:
        raise
    except Exception as error:  # a failure nobody named must not reach a user as a traceback
        _explain(
            values,
            f"tfcompress: unexpected {type(error).__name__}: {error}\n"
            "This is a defect of tfcompress. Remedy: report it with what --verbose shows.",
        )
        return 1
    return code or 0


def _explain(values: flags.FlagValues, message: str) -> None:
    if values.verbose:
        traceback.print_exc()
    print(message, file=sys.stderr)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(["Usage: tfcompress COMMAND --flags", "", *lines, "", "Flags: tfcompress COMMAND --help"])


def _usage(name: str, values: flags.FlagValues) -> str:
    lines = [f"tfcompress {name}: {COMMANDS[name]}", ""]
    for flag in sorted(values, key=lambda flag: (flag == "verbose", flag)):
        entry = values[flag]
        default = "" if entry.default in (None, False, "", []) else f" (default: {entry.default})"
        lines.append(f"  --{flag}\n      {entry.help}{default}")
    lines += ["", "  --flagfile", "      A file with one flag a line."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
