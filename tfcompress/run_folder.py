"""The folder of a run: everything it made, written so that a kill at any moment leaves whole files only."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.atomic import TEMPORARY, write_atomically
from tfcompress.vocabulary.errors import RunFolderError

RECORD_FILE = "run.json"
"""What run a folder belongs to."""

LOCK_FILE = ".lock"
"""Held by the process that uses the folder."""


class RunFolder(contextlib.AbstractContextManager):
    """A folder that belongs to one run, knows which, and is used by one process at a time.

    Args:
        path: the folder; made when it does not exist.
        identity: what the run is, as plain values (recipe, model, data, seed). The same command has the same
            identity, and goes on in the folder where it stopped.

    Raises:
        RunFolderError: the folder cannot be written, holds other files, belongs to another run, or another
            process is running in it.

    Example:
        >>> with RunFolder("tflite_models/mine", {"seed": 0}) as folder:  # doctest: +SKIP
        ...     folder.write("note.txt", "whole or not at all")
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._lock: Any = None
        made = [p for p in (self.path, *self.path.parents) if not p.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with _removing(made, self.path / LOCK_FILE):
                self._claim(identity)
                (self.path / "checkpoints").mkdir(exist_ok=True)
        except OSError as error:
            self.close()
            raise RunFolderError(
                f"The output folder must be writable. {self.path}: {error.strerror}. Remedy: choose another --out."
            ) from error
        except RunFolderError:
            self.close()
            raise
        for leftover in self.path.rglob(f"{TEMPORARY}*"):
            leftover.unlink()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process, or another run of this one, have the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _claim(self, identity: Mapping[str, Any]) -> None:
        record = self.path / RECORD_FILE
        others = [p.name for p in self.path.iterdir() if p.name != LOCK_FILE and not p.name.startswith(TEMPORARY)]
        if others and not record.exists():
            raise RunFolderError(
                f"The output folder must be new, empty, or of this run. {self.path} holds other files. "
                "Remedy: choose another --out."
            )
        self._take_lock()
        earlier = recorded_identity(self.path)
        if earlier is None:
            self.write_json(RECORD_FILE, identity)
        else:
            refuse_another_run(self.path, earlier, identity)

    def _take_lock(self) -> None:
        self._lock = open(self.path / LOCK_FILE, "a")  # noqa: SIM115 - held until close()
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFolderError(
                f"Another process is running in {self.path}. Remedy: wait for it, or choose another --out."
            ) from error

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
        """The arrays of an `.npz`, or None when it was not written.

        Raises:
            RunFolderError: the file is damaged.
        """
        path = self.file(name)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                return {key: stored[key] for key in stored.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise RunFolderError(
                f"{path} is damaged: {error}. Remedy: remove it, and this part of the run is done again."
            ) from error

    def read_json(self, name: str) -> Any:
        """The plain values of a JSON file, or None when it was not written.

        Raises:
            RunFolderError: the file is damaged.
        """
        path = self.file(name)
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        except ValueError as error:
            raise RunFolderError(
                f"{path} is damaged: {error}. Remedy: remove it, and this part of the run is done again."
            ) from error

    def log(self, line: str) -> None:
        """Add a line to the run's log."""
        path = self.file("log.txt")
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise RunFolderError(f"Cannot write {path}: {error.strerror}. Remedy: free space.") from error


def measured_name(index: int, name: str) -> str:
    """What the step `name` at `index` measured to prepare its model, in a run's folder, beside its checkpoint."""
    return f"checkpoints/{index:02d}-{name}.json"


def recorded_identity(folder: Path) -> dict[str, Any] | None:
    """The run that `folder` belongs to; None where it is of none.

    Raises:
        RunFolderError: the record is damaged.
    """
    record = folder / RECORD_FILE
    if not record.exists():
        return None
    try:
        return json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFolderError(f"{record} is damaged: {error}. Remedy: choose another --out.") from error


def refuse_another_run(folder: Path, earlier: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Refuse `folder`, which belongs to the run `earlier`, for a run of another `identity`.

    Raises:
        RunFolderError: they differ; it says in what.
    """
    identity = json.loads(json.dumps(identity))
    if earlier != identity:
        changed = ", ".join(_differences(earlier, identity))
        raise RunFolderError(
            f"The output folder {folder} belongs to another run; it differs in: {changed}. "
            "Remedy: choose another --out, or remove the folder."
        )


@contextlib.contextmanager
def _removing(folders: Sequence[Path], lock: Path) -> Iterator[None]:
    """Remove the folders just made, innermost first, when claiming them fails."""
    try:
        yield
    except (OSError, RunFolderError):
        if folders:
            lock.unlink(missing_ok=True)
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
