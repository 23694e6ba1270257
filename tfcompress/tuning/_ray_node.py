"""What the processes of a Ray cluster run for `on_ray`: trials, and what these need and leave on a node's disk."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfcompress.contained import Children, Limits
from tfcompress.measure import versions
from tfcompress.tuning.executor import Outcome, attempt
from tfcompress.tuning.parcel import pack, unpack
from tfcompress.tuning.trial_run import Shared, Task
from tfcompress.vocabulary.errors import SearchError

_FLOAT_FOLDER, _SHARED_FILE = "float", "shared.pickle"


@dataclass(frozen=True)
class Start:
    """What all trials of a search start from, as it travels.

    Args:
        name: of its folder on a node; another for another search, and the same when that search goes on.
        content: one reference to a `Luggage`. In a tuple, for Ray would fetch it for every task otherwise.
        versions: of the libraries of the machine that searches.
        environment: variables of the process that runs a trial.
        limits: of a trial.
    """

    name: str
    content: tuple[Any]
    versions: Mapping[str, str]
    environment: Mapping[str, str]
    limits: Limits | None


@dataclass(frozen=True)
class Luggage:
    """`Shared` and the files of its float model's folder."""

    shared: Shared
    files: Mapping[str, bytes]


def run_trial(
    start: Start, number: int, task: Task, files: Mapping[str, bytes], earlier: Sequence[Mapping[str, bytes]]
) -> tuple[Outcome, dict[str, bytes]]:
    """What comes of `task`, and the files of its folder.

    Args:
        start: what all trials start from.
        number: of the outcome.
        task: its folders are of the machine that searches, and not used.
        files: what its folder holds there.
        earlier: what it can take over from each earlier run.

    Raises:
        SearchError: this node cannot run trials of this search.
    """
    _refuse_other_versions(start.versions)
    place = _unpacked(start)
    # A folder for this attempt alone: one on another node that Ray takes for lost may still be at work.
    with tempfile.TemporaryDirectory(prefix="trial-", dir=place) as own:
        run = Path(own) / "run"
        unpack(files, run)
        reuse = tuple(Path(own) / f"earlier-{index}" for index in range(len(earlier)))
        for folder, taken in zip(reuse, earlier, strict=True):
            unpack(taken, folder)
        children = Children(environment=start.environment)
        try:
            here = replace(task, folder=run, reuse=reuse)
            outcome = attempt(children, number, place / _SHARED_FILE, here, start.limits)
        finally:
            children.end()
        return outcome, pack(run)


def clear(name: str) -> None:
    """Remove what the search called `name` has left on this node."""
    shutil.rmtree(_own_folder() / name, ignore_errors=True)


def nodes(address: str) -> list[dict[str, float]]:
    """The resources of every node of the cluster at `address`, by name.

    Raises:
        RuntimeError: there is none, or it is of another Ray or Python.
    """
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except ConnectionError as error:
        # To the process that has a child call this, that name says that the way to its child is closed.
        raise RuntimeError(str(error)) from error
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    ray.shutdown()
    return found


def _refuse_other_versions(wanted: Mapping[str, str]) -> None:
    found = versions()
    others = [f"{name} {found[name]} there, {wanted[name]} here" for name in found if found[name] != wanted[name]]
    if others:
        raise SearchError(
            f"Every node must have the libraries of the machine that searches. On {os.uname().nodename}: "
            f"{', '.join(others)}. Remedy: install the same there; the same command then goes on."
        )


def _unpacked(start: Start) -> Path:
    """The folder with what all trials start from, which the first of them on a node makes."""
    place = _own_folder() / start.name
    if not place.exists():
        import ray

        luggage = ray.get(start.content[0])
        with tempfile.TemporaryDirectory(dir=_own_folder()) as own:
            made = Path(own) / start.name
            unpack(luggage.files, made / _FLOAT_FOLDER)
            shared = replace(luggage.shared, model=place / _FLOAT_FOLDER)
            (made / _SHARED_FILE).write_bytes(pickle.dumps(shared, protocol=5))
            # Not empty where another trial has been faster: then that one's is as good.
            with contextlib.suppress(OSError):
                made.rename(place)
    return place


def _own_folder() -> Path:
    """A folder of this user on this node, which no other can write to: it will hold pickles."""
    folder = Path(tempfile.gettempdir()) / f"tfcompress-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    known = folder.lstat()
    if not stat.S_ISDIR(known.st_mode) or known.st_uid != os.getuid() or known.st_mode & 0o022:
        raise SearchError(
            f"{folder} must be a folder that only this user can write to. On {os.uname().nodename} it is not. "
            "Remedy: remove it, or give Ray another TMPDIR."
        )
    return folder
