"""The state of a run that another run can go on from, in the run's folder and read back from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tfcompress.atomic import save_atomically
from tfcompress.models.graph import output_axis
from tfcompress.models.loading import clone, load_model
from tfcompress.preprocessing_file import sidecar_of, sidecar_text
from tfcompress.recipe import problems_in
from tfcompress.run_folder import RECORD_FILE, RunFolder
from tfcompress.vocabulary.errors import ModelError, PromiseError, RunFolderError
from tfcompress.vocabulary.preprocessing import Preprocessing
from tfcompress.vocabulary.promises import Promise, broken_by
from tfcompress.vocabulary.schema import Schema
from tfcompress.vocabulary.state import Lineage, State

MODEL_FILE, STATE_FILE = "model.keras", "state.json"


class _Record(Schema):
    """What is known of the model beside it: `state.json`."""

    promises: tuple[Promise, ...]
    lineage: Lineage


def write_state(folder: RunFolder, state: State, preprocessing: Preprocessing) -> Path:
    """Write `state`, whose model is plain Keras, into the run's folder.

    Args:
        folder: of the run; gets `model.keras`, `model.preprocessing.yaml` beside it and, last of all, `state.json`.
        state: no step has chosen its arithmetic yet.
        preprocessing: what the model is fed.

    Returns:
        The path of `model.keras`.

    Raises:
        ModelError: Keras cannot save the model.
    """
    path = folder.file(MODEL_FILE)
    folder.write(sidecar_of(path).name, sidecar_text(preprocessing))
    try:
        # Not .h5: activations of one's own, which a translated model may have, are read back from .keras only.
        save_atomically(path, lambda part: state.model.save(part, save_format="keras"))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"A model must be one that Keras can save as .keras. {state.model.name} is not: {error}"
        ) from error
    promises = [asdict(promise) for promise in state.promises]
    folder.write_json(STATE_FILE, {"promises": promises, "lineage": state.lineage.plain()})
    return path


def is_run_folder(path: Path) -> bool:
    """Whether `path` is the folder of a run, finished or not."""
    return (path / RECORD_FILE).is_file()


def read_state(path: Path, custom_objects: Mapping[str, Any] | None = None, unsafe: bool = False) -> State:
    """The state that the run in the folder `path` reached before its file's arithmetic was chosen.

    Args:
        path: see `is_run_folder`.
        custom_objects: classes and functions of the model that Keras does not know, by name.
        unsafe: execute byte code that the model's file holds. Defaults to refusing it.

    Raises:
        RunFolderError: the run has not come so far, or `state.json` is damaged.
        ModelError: `model.keras` cannot be read.
        PromiseError: the weights do not keep what `state.json` promises; all that is broken is named.
    """
    record = path / STATE_FILE
    remedy = "Remedy: give the command of that run again, which goes on or writes it anew."
    if not record.is_file():
        raise RunFolderError(
            f"A run can be gone on from when all its steps but the last are done. {path} has no {STATE_FILE} yet. "
            f"{_runs_inside(path) or remedy}"
        )
    try:
        tree = json.loads(record.read_bytes())
        known = _Record.model_validate(tree)
    except ValidationError as error:
        problems = problems_in(error, tree, {}, _Record)
        raise RunFolderError(f"{record} is damaged. {remedy}\n  {problems}") from None
    except ValueError as error:
        raise RunFolderError(f"{record} is damaged: {error}. {remedy}") from None
    model = clone(load_model(path / MODEL_FILE, custom_objects, unsafe))
    state = State(model, known.promises, known.lineage)
    broken = _broken(state)
    if broken:
        raise PromiseError(
            f"The weights in {path / MODEL_FILE} must keep the promises in {STATE_FILE}. {remedy}\n  "
            + "\n  ".join(broken)
        )
    return state


def _runs_inside(path: Path) -> str:
    """Which runs to name instead of a folder that holds them, as that of a search does; empty when there are none."""
    runs = [str(record.parent) for record in sorted(path.rglob(STATE_FILE))]
    return f"Remedy: name a run inside it: {', '.join(runs[:3])}{', ...' if runs[3:] else ''}." if runs else ""


def _broken(state: State) -> list[str]:
    problems = []
    for promise in state.promises:
        layer, _, attribute = state.lineage.place(promise.weight).rpartition("/")
        try:
            owner = state.model.get_layer(layer)
            problems += broken_by(attrgetter(attribute)(owner).numpy(), [promise], output_axis(owner))
        except (ValueError, AttributeError) as error:
            problems.append(f"{promise.weight}, promised {promise.kind}, must be a weight of the model: {error}")
    return problems
