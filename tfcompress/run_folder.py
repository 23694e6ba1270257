"""The folder of a run: everything it made, written so that a kill at any moment leaves whole files only."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.vocabulary.errors import RunFolderError

_TEMPORARY = ".writing-"


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds either what it held before or all of it.

    Raises:
        RunFolderError: the file cannot be written (read-only, no space left); nothing of it is left behind.
    """
    save_atomically(path, lambda temporary: temporary.write_bytes(content))


def save_atomically(path: Path, save: Callable[[Path], Any]) -> None:
    """Let `save` write a file beside `path`, of the same ending, and put it in its place when it is whole.

    Raises:
        RunFolderError: the file cannot be written; nothing of it is left behind.
    """
    temporary = path.with_name(f"{_TEMPORARY}{path.name}")
    try:
        save(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RunFolderError(
            f"Cannot write {path}: {error.strerror or error}. Remedy: free space, or choose another --out."
        ) from error


class RunFolder:
    """A folder that belongs to one run and knows which.

    Args:
        path: the folder; made when it does not exist.
        identity: what the run is, as plain values (recipe, model, data, seed). The same command has the same
            identity, and goes on in the folder where it stopped.

    Raises:
        RunFolderError: the folder cannot be written, holds other files, or belongs to another run.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any]) -> None:
        self.path = Path(path)
        known = json.loads(json.dumps(identity))
        made = [p for p in (self.path, *self.path.parents) if not p.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with _removing(made):
                self._claim(known)
                (self.path / "checkpoints").mkdir(exist_ok=True)
        except OSError as error:
            raise RunFolderError(
                f"The output folder must be writable. {self.path}: {error.strerror}. Remedy: choose another --out."
            ) from error
        for leftover in self.path.rglob(f"{_TEMPORARY}*"):
            leftover.unlink()

    def _claim(self, identity: dict[str, Any]) -> None:
        record = self.path / "run.json"
        if not record.exists():
            if any(not entry.name.startswith(_TEMPORARY) for entry in self.path.iterdir()):
                raise RunFolderError(
                    f"The output folder must be new, empty, or of this run. {self.path} holds other files. "
                    "Remedy: choose another --out."
                )
            self.write_json("run.json", identity)
            return
        earlier = json.loads(record.read_text(encoding="utf-8"))
        if earlier != identity:
            changed = ", ".join(_differences(earlier, identity))
            raise RunFolderError(
                f"The output folder {self.path} belongs to another run; it differs in: {changed}. "
                "Remedy: choose another --out, or remove the folder."
            )

    def file(self, name: str) -> Path:
        """The path of the run's file `name`."""
        return self.path / name

    def write(self, name: str, content: bytes | str) -> Path:
        """Write a file whole; returns its path."""
        path = self.file(name)
        write_atomically(path, content.encode() if isinstance(content, str) else content)
        return path

    def write_json(self, name: str, tree: Any) -> Path:
        """Write plain values as JSON."""
        return self.write(name, json.dumps(tree, indent=2) + "\n")

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> Path:
        """Write named arrays as an uncompressed `.npz`."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return self.write(name, buffer.getvalue())

    def read_arrays(self, name: str) -> dict[str, np.ndarray] | None:
        """The arrays of an `.npz`, or None when it was not written."""
        path = self.file(name)
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}

    def log(self, line: str) -> None:
        """Add a line to the run's log."""
        with open(self.file("log.txt"), "a", encoding="utf-8") as file:
            file.write(line + "\n")


@contextlib.contextmanager
def _removing(folders: Sequence[Path]) -> Iterator[None]:
    """Remove the folders just made, innermost first, when claiming them fails."""
    try:
        yield
    except (OSError, RunFolderError):
        for folder in folders:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _differences(old: Any, new: Any, at: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            yield from _differences(old.get(key), new.get(key), f"{at}.{key}" if at else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differences(before, after, f"{at}[{index}]")
    elif old != new:
        yield f"{at} ({_short(old)} there, {_short(new)} now)"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
