"""Taking over from an earlier run what this run would train once more: the steps with which both begin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfcompress.atomic import TEMPORARY
from tfcompress.distillation.teachers import OUTPUTS_FOLDER
from tfcompress.run_folder import RECORD_FILE, RunFolder
from tfcompress.techniques.base import Technique, techniques
from tfcompress.training import checkpoint_name
from tfcompress.vocabulary.errors import RunFolderError


def take_over(folder: RunFolder, earlier: Path, identity: Mapping[str, Any]) -> tuple[str, ...]:
    """Copy the checkpoints of the leading steps that the run in `earlier` shares with this one.

    A step is shared where all that its weights depend on is the same: model, data, preprocessing, seed, versions, and
    the recipe's task, data, `train`, conversion and steps up to it. The first step that is not may still begin like
    that one: where it only trains for more epochs, and neither its rate nor its technique looks ahead to the last of
    them. What is copied is what this run would compute itself, bit for bit.

    Args:
        folder: of this run; checkpoints that it has stay.
        earlier: the folder of a run, finished or not.
        identity: of this run, as its folder was claimed with.

    Returns:
        The names of the steps of which something was taken.

    Raises:
        RunFolderError: `earlier` is not the folder of a run, or its record is damaged.
    """
    theirs, mine = read_record(earlier), json.loads(json.dumps(identity))
    recipe, other = mine.pop("recipe"), theirs.pop("recipe", {})
    if mine != theirs:
        return ()
    taken = []
    for name, place in shared_checkpoints(recipe, other).items():
        measured = str(Path(place).with_suffix(".json"))
        # What this run measured itself decides its models, which other checkpoints may not fit.
        if folder.file(measured).exists():
            continue
        for part in (measured, place):
            source = earlier / part
            if source.is_file() and not folder.file(part).exists():
                folder.write(part, source.read_bytes())
                taken.append(name)
    _take_outputs_of_teachers(folder, earlier)
    return tuple(dict.fromkeys(taken))


def _take_outputs_of_teachers(folder: RunFolder, earlier: Path) -> None:
    """Copy what teachers said, whose names tell all that it depends on."""
    for source in sorted((earlier / OUTPUTS_FOLDER).glob("*.npz")):
        # What is being written by the run, or was when it was killed, is not whole.
        if source.name.startswith(TEMPORARY):
            continue
        place = f"{OUTPUTS_FOLDER}/{source.name}"
        if not folder.file(place).exists():
            folder.write(place, source.read_bytes())


def shared_checkpoints(recipe: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, str]:
    """The checkpoints that a run of `recipe` can take over from one of `other`, all beside the recipe being the same.

    Args:
        recipe: as plain values.
        other: likewise.

    Returns:
        Their places in the run's folder, by the names of the steps.
    """
    if any(recipe[key] != other.get(key) for key in ("task", "data", "train", "conversion")):
        return {}
    names = [("train", 0)]
    # What a run measured to be faster changes the model of its last step.
    count = len(recipe["steps"]) - bool(recipe["conversion"]["faster"])
    for index, (step, same) in enumerate(zip(recipe["steps"][:count], other["steps"], strict=False), start=1):
        if step == same or _longer(step, same):
            names.append((step["name"], index))
        if step != same:
            break
    return {name: checkpoint_name(index, name) for name, index in names}


def read_record(folder: Path) -> dict[str, Any]:
    """What run `folder` belongs to, as `RunFolder` was given it; raises as `take_over`."""
    path = folder / RECORD_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"Only from the folder of a run can something be taken over. {path}: {error}. Remedy: leave it out."
        ) from error


def _longer(step: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether `step` is `other` trained for more epochs, and begins like it."""
    kind: type[Technique] = techniques()[step["technique"]]
    fit, shorter = step["fit"], other["fit"]
    return (
        kind.open_ended
        and fit["decay"] == "constant"
        and fit["epochs"] > shorter["epochs"]
        and not _temperature_falls(fit)
        and {**step, "fit": {**fit, "epochs": shorter["epochs"]}} == other
    )


def _temperature_falls(fit: Mapping[str, Any]) -> bool:
    """Whether the temperature of a distillation looks ahead to the last epoch."""
    return isinstance((fit["distillation"] or {}).get("temperature"), Mapping)
