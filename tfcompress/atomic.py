"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfcompress.vocabulary.errors import RunFolderError

TEMPORARY = ".writing-"
"""How the names of files begin that are still being written."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds either what it held before or all of it.

    Raises:
        RunFolderError: the file cannot be written (read-only, no space left); nothing of it is left behind.
    """
    save_atomically(path, lambda temporary: temporary.write_bytes(content))


def save_atomically(path: Path, save: Callable[[Path], Any]) -> None:
    """Let `save` write a file beside `path`, of the same ending, and put it in its place when it is whole.

    The folder is made when missing.

    Raises:
        RunFolderError: the file cannot be written; nothing of it is left behind.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(temporary)
        _flush(temporary)
        os.replace(temporary, path)
        # The name, too, must outlast a loss of power.
        _flush(path.parent)
    except OSError as error:
        raise RunFolderError(
            f"Cannot write {path}: {error.strerror or error}. Remedy: free space, or choose another --out."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
