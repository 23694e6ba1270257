"""A run's folder as a value: how it goes from one machine to another that shares no disk with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfcompress.atomic import TEMPORARY, write_atomically
from tfcompress.pipeline import EVIDENCE_FILE
from tfcompress.recipe import load_recipe
from tfcompress.reuse import read_record, shared_checkpoints
from tfcompress.run_folder import LOCK_FILE, RECORD_FILE


def pack(folder: Path) -> dict[str, bytes]:
    """The files of the run in `folder` by their paths in it; none where there is no such folder.

    The checkpoints are among them: without them, measuring the run on another split would train it once more, and on
    other hardware to other weights than those of its file.
    """
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LOCK_FILE and not path.name.startswith(TEMPORARY)
    }


def unpack(files: Mapping[str, bytes], folder: Path) -> None:
    """Write `files` into `folder`, each whole or not at all, over those of the same names.

    A kill leaves what a kill of the run itself can leave: the record of whose folder it is comes first, the evidence
    last.

    Raises:
        RunFolderError: a file cannot be written.
    """
    for name in sorted(files, key=lambda name: (name != RECORD_FILE, name == EVIDENCE_FILE, name)):
        write_atomically(folder / name, files[name])


def pack_reusable(
    tree: Mapping[str, Any], earlier: Sequence[Path], known: Mapping[str, bytes]
) -> list[dict[str, bytes]]:
    """Of the folders of `earlier` runs, what a run of a recipe may take over (`tfcompress.reuse`), each as `pack` does.

    Args:
        tree: of the recipe.
        earlier: in the order of preference; each checkpoint is taken of the first that has it.
        known: the files that the run has already.

    Raises:
        RunFolderError: one is not the folder of a run, or its record is damaged.
    """
    recipe = load_recipe(tree).plain()
    packed, done = [], set(known)
    for folder in earlier:
        record = read_record(folder)
        places = shared_checkpoints(recipe, record["recipe"]).values()
        wanted = [place for place in places if place not in done and (folder / place).is_file()]
        if wanted:
            files = {place: (folder / place).read_bytes() for place in wanted}
            packed.append({RECORD_FILE: (folder / RECORD_FILE).read_bytes(), **files})
            done.update(wanted)
    return packed
