"""The sensitivity analysis: each layer alone at each bit-width and sparsity, as real files, without training."""

from __future__ import annotations

import gc
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import yaml
from pydantic import ValidationError

from tfcompress import keras_door as kd
from tfcompress.convert.converter import float_tflite, warm_up
from tfcompress.evaluate import drop_points, predict, score
from tfcompress.evaluate.metric import Score
from tfcompress.pipeline import train
from tfcompress.preparation import Job, JobOptions, open_job
from tfcompress.recipe import Recipe, load_recipe
from tfcompress.run_folder import RECORD_FILE, RunFolder
from tfcompress.techniques.base import STAGES, Technique
from tfcompress.training import own_random_numbers, seed_everything
from tfcompress.tuning.cells import AXES, Cell, Level, Table, alone, checked_levels
from tfcompress.tuning.effects import effects
from tfcompress.tuning.foresight import Sensitivity
from tfcompress.tuning.heat_map import heat_map
from tfcompress.tuning.space import Space, draft, read_space
from tfcompress.tuning.template import Layers
from tfcompress.tuning.trial_run import measured_of_file
from tfcompress.vocabulary.errors import RunFolderError, SearchError, TfcompressError
from tfcompress.vocabulary.state import State
from tfcompress.vocabulary.training import Fit

TABLE_FILE, PICTURE_FILE = "sensitivity.json", "sensitivity.svg"
FLOAT_FOLDER = "float"
CELL_FILE, CELL_RECIPE = "cell.json", "recipe.yaml"
_REFERENCE = "reference"


@dataclass(frozen=True)
class SensitivityResult:
    """What an analysis found.

    Args:
        table: every cell.
        folder: of the analysis: `sensitivity.json`, `sensitivity.svg`, and for each cell its record and recipe.
    """

    table: Table
    folder: Path


def sensitivity(
    model: Any,
    data: Any,
    recipe: str | Path | Mapping[str, Any] = "bits_and_sparsity",
    *,
    bits: Sequence[int] = AXES["bits"].levels,
    sparsities: Sequence[float] = AXES["sparsity"].levels,
    samples: int = 500,
    out: str | Path | None = None,
    **options: Unpack[JobOptions],
) -> SensitivityResult:
    """Try each layer alone at each bit-width and each sparsity, by calibration only.

    Every cell is a real file, converted and run by LiteRT: all layers at 8 bits but for one, or one layer with the
    smallest of its weights zero. A cell that fails is recorded with the reason. An analysis that was interrupted goes
    on where it stopped when it is called again with the same arguments and `out`. A search takes the result as
    `sensitivity=<folder>`.

    Args:
        model: as `tfcompress.compress` takes it; a network of the zoo is trained first.
        data: as `tfcompress.compress` takes it.
        recipe: with or without holes: what of its steps is no bit-width and no sparsity holds for every cell, and so do
            task, data and conversion. Steps of other techniques are left out. Defaults to the shipped space.
        bits: of the weights, 2...8. Defaults to 2, 3, 4, 6, 8.
        sparsities: shares of zeros, above 0 and below 1. Defaults to 0.5, 0.7, 0.9.
        samples: of the validation split, drawn by the seed; all where there are fewer. Defaults to 500.
        out: the analysis's folder. Defaults to `tflite_models/<model>-<data>-<recipe>-sensitivity`.
        **options: as those of `tfcompress.compress`.

    Raises:
        SearchError, RecipeError, ModelError, DataError: it cannot be carried out as asked; nothing has run then.

    Example:
        >>> found = sensitivity("lenet300", "digits")  # doctest: +SKIP
        >>> found.table.by_damage()[0].layer  # doctest: +SKIP
        'fc3'
    """
    if samples < 2:
        raise SearchError(f"samples must be at least 2. Received: {samples}.")
    levels = checked_levels({"bits": bits, "sparsity": sparsities})
    warm_up()
    overrides = options.pop("overrides", ())
    default = draft(recipe, overrides)
    job = open_job(model, data, default, **options)
    start = job.enabled.state.model
    steps = _analysed(read_space(recipe, overrides, lambda step: step.layers_with_values(start)))
    reference = _reference(job.recipe, steps)
    plain = {key: value for key, value in reference.plain().items() if key not in ("name", "description", "evaluation")}
    identity = {**job.identity, "recipe": plain, "levels": levels, "samples": samples}
    place = out or Path("tflite_models") / f"{job.default_name}-sensitivity"
    with own_random_numbers(), RunFolder(place, identity) as folder:
        if job.from_zoo:
            trained = folder.file(FLOAT_FOLDER)
            train(model, data, job.recipe, out=trained, **options)
            job = open_job(trained, job.data.dataset, default, **options)
        return _Analysis(replace(job, recipe=reference), steps, levels, samples, folder).run()


def read_table(folder: str | Path) -> Table:
    """What the analysis in `folder` found.

    Raises:
        SearchError: there is no finished analysis.
        RunFolderError: its file is damaged.
    """
    path = Path(folder) / TABLE_FILE
    if not path.is_file():
        raise SearchError(
            f"A sensitivity analysis must be finished to be used. {folder} has no {TABLE_FILE}. Remedy: "
            "run tfcompress sensitivity with this folder as --out."
        )
    try:
        return Table.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RunFolderError(
            f"{path} is damaged: {error.errors()[0]['msg']}. Remedy: run tfcompress sensitivity again, which writes it."
        ) from error


def foreseen_by(folder: str | Path, job: Job, space: Space, layers: Layers) -> Sensitivity:
    """What the analysis in `folder` says about the holes of `space`, see `tfcompress.tuning.effects`.

    Raises:
        SearchError: it is not finished, is of another model or other data than `job`, or says nothing of any hole.
        RunFolderError: a file of it is damaged.
    """
    table = read_table(folder)
    identity = json.loads(Path(folder, RECORD_FILE).read_bytes())
    here = json.loads(json.dumps(job.identity))
    others = [what for what in ("model", "data", "preprocessing") if identity[what] != here[what]]
    if others:
        raise SearchError(
            f"A sensitivity analysis must be of the search's own model and data. {folder} differs in its "
            f"{' and '.join(others)}. Remedy: run tfcompress sensitivity with the same flags."
        )
    found = effects(table, space, layers)
    if not found:
        raise SearchError(
            f"A sensitivity analysis must say something of a hole. {folder} is of bits and sparsity of "
            f"{', '.join(dict.fromkeys(cell.layer for cell in table.cells))}, and the holes are "
            f"{', '.join(hole.name for hole in space.holes)}. Remedy: search without it."
        )
    return found


def _analysed(space: Space) -> dict[str, Technique]:
    """The steps that a space has or may have, by technique, each as it first comes."""
    found: dict[str, Technique] = {}
    probes = [(hole, value) for hole in space.holes for value in hole.ends()]
    for values in ({}, *({**dict(space.parents(hole)), hole.name: value} for hole, value in probes)):
        for step in load_recipe(space.fill(space.default() | values)).steps:
            found.setdefault(step.technique, step)
    if not any(axis.technique in found for axis in AXES.values()):
        names = " or ".join(axis.technique for axis in AXES.values())
        raise SearchError(
            f"{space.origin}: a sensitivity analysis is of bits and sparsity. The recipe must have a step of {names}, "
            f"and has {', '.join(found)}. Remedy: --recipe=bits_and_sparsity."
        )
    return found


def _reference(recipe: Recipe, steps: Mapping[str, Technique]) -> Recipe:
    """The recipe in which every layer is neutral."""
    last = steps.get(AXES["bits"].technique) or recipe.steps[-1]
    changes: dict[str, Any] = {"fit": Fit(epochs=0)}
    if last.technique == AXES["bits"].technique:
        changes |= {"weight_bits": AXES["bits"].neutral, "per_layer": {}}
    return recipe.model_copy(
        update={
            "name": _REFERENCE,
            "description": "Every layer neutral.",
            "steps": [last.model_copy(update=changes)],
            # What a rewrite gains in speed is no matter of bits and zeros, and costs two measurements a cell.
            "conversion": recipe.conversion.model_copy(update={"faster": False, "c_array": False}),
        }
    )


class _Analysis:
    """One execution of an analysis in its folder.

    Args:
        job: whose recipe is the reference.
        steps: by technique, as the space has them.
        levels: by axis.
        samples: of the validation split.
        folder: of the analysis.
    """

    def __init__(
        self,
        job: Job,
        steps: Mapping[str, Technique],
        levels: Mapping[str, Sequence[Level]],
        samples: int,
        folder: RunFolder,
    ) -> None:
        self.job, self.steps, self.levels, self.folder = job, steps, levels, folder
        split = job.data.dataset.validation
        chosen = np.sort(np.random.default_rng(job.seed).permutation(split.count)[:samples])
        self.split = split.at(chosen)

    def run(self) -> SensitivityResult:
        """Measure what is not measured yet, and write table and picture."""
        reference = self._cell(_REFERENCE, Cell(axis="", layer="", value=0), self.job.recipe, may_fail=False)
        planned = [Cell(axis=axis, layer=layer, value=level) for axis, layer, level in self._planned()]
        cells = []
        for number, cell in enumerate(planned):
            self.job.reporter.progress("sensitivity", number, len(planned), f"{cell.layer}, {cell.axis} {cell.value:g}")
            cells.append(self._measured(f"{number:04d}", cell, reference))
        self.job.reporter.progress("sensitivity", len(planned), len(planned))
        of_reference = reference.measured.get("accuracy")
        table = Table(
            metric=self._float_score.name if self._float_score else None,
            samples=self.split.count,
            standard_error=None if of_reference is None else self._float_score.standard_error,
            reference=reference,
            cells=tuple(cells),
        )
        self.folder.write(TABLE_FILE, table.model_dump_json(indent=2) + "\n")
        self.folder.write(PICTURE_FILE, heat_map(table))
        return SensitivityResult(table, self.folder.path)

    def _planned(self) -> list[tuple[str, str, Level]]:
        model = self.job.enabled.state.model
        return [
            (axis, layer, level)
            for axis, levels in self.levels.items()
            if AXES[axis].technique in self.steps
            for layer in self.steps[AXES[axis].technique].layers_with_values(model)
            for level in levels
        ]

    def _measured(self, name: str, cell: Cell, reference: Cell) -> Cell:
        axis = AXES[cell.axis]
        if cell.value == axis.neutral:
            found = {"measured": reference.measured, "output_error": reference.output_error, "sha256": reference.sha256}
            return cell.model_copy(update=found)
        step = alone(cell.axis, self.steps[axis.technique], cell.layer, cell.value)
        last = self.job.recipe.steps[-1]
        recipe = self.job.recipe.model_copy(
            update={
                "name": f"{cell.layer}-{cell.axis}-{cell.value:g}",
                "description": f"{cell.layer} alone at {cell.axis} {cell.value:g}.",
                "steps": [step] if step.stage == STAGES[-1] else [step, last],
            }
        )
        return self._cell(name, cell, recipe)

    def _cell(self, name: str, cell: Cell, recipe: Recipe, *, may_fail: bool = True) -> Cell:
        """The record of a cell: the one that lies in its folder, else what comes of it now."""
        place = f"cells/{name}"
        record = self.folder.file(f"{place}/{CELL_FILE}")
        if record.exists():
            return _read(record)
        self.folder.write(f"{place}/{CELL_RECIPE}", yaml.safe_dump(recipe.plain(), sort_keys=False))
        began = time.perf_counter()
        try:
            found = self._found(recipe)
        except Exception as error:
            # Whatever a layer does to native code or to tfmot: the other cells can be had.
            if not may_fail:
                raise
            known = isinstance(error, TfcompressError)
            found = {"status": "failed", "reason": str(error) if known else f"{type(error).__name__}: {error}"}
            self.folder.log(f"{recipe.name}: {found['reason']}")
            self.job.reporter.message(f"{recipe.name} failed: {found['reason'].splitlines()[0]}")
        finally:
            # Else the graphs of all cells would stay.
            kd.keras.backend.clear_session()
            gc.collect()
        cell = cell.model_copy(update={**found, "seconds": round(time.perf_counter() - began, 3)})
        self.folder.write(f"{place}/{CELL_FILE}", cell.model_dump_json(indent=2) + "\n")
        return cell

    def _found(self, recipe: Recipe) -> dict[str, Any]:
        content = self._shipped(recipe)
        outputs = predict(content, self._inputs(in_graph=recipe.conversion.preprocessing_in_graph))
        measured = measured_of_file(content)
        if self._float_score is not None:
            of_file = self._score(outputs)
            measured |= {"accuracy": of_file.value, "drop_points": drop_points(self._float_score, of_file)}
        error = np.sqrt(np.mean((outputs - self._float_outputs) ** 2))
        scale = np.sqrt(np.mean(self._float_outputs**2))
        return {
            "measured": measured,
            "output_error": float(error / scale) if scale else None,
            "sha256": hashlib.sha256(content).hexdigest(),
        }

    def _shipped(self, recipe: Recipe) -> bytes:
        """The file that `tfcompress.compress` would ship by a recipe without training."""
        job, state = replace(self.job, recipe=recipe), self._start
        for index, step in enumerate(recipe.steps, start=1):
            seed_everything(job.seed, index, 0)
            state = step.finish(step.prepare(state, job.plan_for(index, step)))
        return job.ship(state).content

    @property
    def _start(self) -> State:
        return self.job.enabled.state

    @cached_property
    def _float_outputs(self) -> np.ndarray:
        content = float_tflite(self._start.model, self.job.recipe.conversion)
        return predict(content, self._inputs(in_graph=False))

    @cached_property
    def _float_score(self) -> Score | None:
        return None if self.split.targets is None else self._score(self._float_outputs)

    def _score(self, outputs: np.ndarray) -> Score:
        return score(self.job.data.task, self.split.targets, outputs, from_logits=self.job.data.from_logits)

    def _inputs(self, *, in_graph: bool) -> np.ndarray:
        """What a file is fed: raw values where it does the preprocessing itself."""
        if in_graph:
            return self.split.inputs.astype(np.float32)
        return self.job.data.preprocessing.apply(self.split.inputs)


def _read(record: Path) -> Cell:
    try:
        return Cell.model_validate_json(record.read_bytes())
    except ValidationError as error:
        raise RunFolderError(
            f"{record} is damaged: {error.errors()[0]['msg']}. Remedy: remove it; the cell is measured again."
        ) from error
