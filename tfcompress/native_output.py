"""What native code writes to standard error, past Python's `sys.stderr`."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator


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
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)

        def lines() -> list[str]:
            sys.stderr.flush()
            size = os.fstat(file.fileno()).st_size
            return os.pread(file.fileno(), size, 0).decode(errors="replace").splitlines()

        try:
            yield lines
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
