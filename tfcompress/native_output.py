"""What native code writes to standard error, past Python's `sys.stderr`."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator

_own_record = False


def record_own_stderr() -> None:
    """Leave standard error where it is from now on, for it is a file that can be read back.

    So it is in a contained child, whose parent reads the file when a crash keeps the child from telling.
    """
    global _own_record
    _own_record = True


@contextlib.contextmanager
def captured_stderr() -> Iterator[Callable[[], list[str]]]:
    """Catch everything that is written to file descriptor 2 meanwhile.

    Yields:
        A function that gives the lines caught so far.

    Example:
        >>> with captured_stderr() as lines:
        ...     _ = os.write(2, b"noise")
        ...     caught = lines()
        >>> caught
        ['noise']
    """
    sys.stderr.flush()
    if _own_record:
        begin = os.fstat(2).st_size
        yield lambda: _lines(2, begin)
        return
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: _lines(file.fileno(), 0)
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)


def _lines(file: int, begin: int) -> list[str]:
    sys.stderr.flush()
    return os.pread(file, os.fstat(file).st_size - begin, begin).decode(errors="replace").splitlines()
