"""The sensitivity analysis: each layer alone at each bit-width and sparsity, as real files, without training."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import yaml
from pydantic import ValidationError

from tfcompress.convert.converter import warm_up
from tfcompress.preparation import Job, JobOptions, open_job
from tfcompress.recipe import Recipe, load_recipe
from tfcompress.run_folder import RECORD_FILE, RunFolder
from tfcompress.techniques.base import STAGES, Technique
from tfcompress.training import own_random_numbers
from tfcompress.tuning.cell_run import CellRun, SharedByCells, run_cell
from tfcompress.tuning.cells import AXES, Cell, Level, Table, alone, checked_levels
from tfcompress.tuning.effects import effects
from tfcompress.tuning.executor import Executor
from tfcompress.tuning.foresight import Sensitivity
from tfcompress.tuning.heat_map import heat_map
from tfcompress.tuning.local import LocalExecutor
from tfcompress.tuning.shared import keep_float_model, keep_shared
from tfcompress.tuning.space import Space, draft, read_space
from tfcompress.tuning.template import Layers
from tfcompress.vocabulary.errors import RunFolderError, SearchError
from tfcompress.vocabulary.training import Fit

TABLE_FILE, PICTURE_FILE = "sensitivity.json", "sensitivity.svg"
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
    workers: int = 1,
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
        workers: cells at a time: one in this process, several each in a process of its own, with equal results.
            Defaults to 1.
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
    if workers < 1:
        raise SearchError(f"workers must be at least 1. Received: {workers}.")
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
        if job.from_zoo or workers > 1:
            place = keep_float_model(job, model, options, folder)
        if job.from_zoo:
            job = open_job(place, job.data.dataset, default, **options)
        elsewhere = None
        if workers > 1:
            shared = SharedByCells(
                place,
                job.data.dataset,
                default,
                reference.plain(),
                samples,
                job.seed,
                options.get("custom_objects"),
                options.get("unsafe", False),
            )
            elsewhere = partial(LocalExecutor, keep_shared(shared, folder), workers, run=run_cell)
        here = CellRun(replace(job, recipe=reference), samples)
        return _Analysis(here, elsewhere, steps, levels, folder).run()


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
        changes |= {"weight_bits": AXES["bits"].neutral, "per_layer": {}, "budget": None, "levels": "uniform"}
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
        here: runs cells in this process.
        elsewhere: makes what runs them in others; None where all run here.
        steps: by technique, as the space has them.
        levels: by axis.
        folder: of the analysis.
    """

    def __init__(
        self,
        here: CellRun,
        elsewhere: Callable[[], Executor] | None,
        steps: Mapping[str, Technique],
        levels: Mapping[str, Sequence[Level]],
        folder: RunFolder,
    ) -> None:
        self.here, self.elsewhere, self.steps, self.levels, self.folder = here, elsewhere, steps, levels, folder
        self.job = here.job

    def run(self) -> SensitivityResult:
        """Measure what is not measured yet, and write table and picture."""
        reference = self._reference()
        cells = [Cell(axis=axis, layer=layer, value=level) for axis, layer, level in self._planned()]
        recipes: dict[int, Recipe] = {}
        for number, cell in enumerate(cells):
            if cell.value == AXES[cell.axis].neutral:
                same = ("measured", "output_error", "sha256")
                cells[number] = cell.model_copy(update={name: getattr(reference, name) for name in same})
            elif (record := self.folder.file(_record(number))).exists():
                cells[number] = _read(record)
            else:
                recipes[number] = self._recipe(cell)
                self._keep_recipe(number, recipes[number])
        known = len(cells) - len(recipes)
        self.job.reporter.progress("sensitivity", known, len(cells))
        with contextlib.closing(self._attempted(recipes)) as attempted:
            for done, (number, found) in enumerate(attempted, start=known + 1):
                cells[number] = self._ended(number, cells[number], recipes[number].name, found)
                self.job.reporter.progress("sensitivity", done, len(cells), recipes[number].name)
        of_reference, of_float = reference.measured.get("accuracy"), self.here.float_score
        table = Table(
            metric=of_float.name if of_float else None,
            samples=self.here.split.count,
            standard_error=None if of_reference is None else of_float.standard_error,
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

    def _recipe(self, cell: Cell) -> Recipe:
        step = alone(cell.axis, self.steps[AXES[cell.axis].technique], cell.layer, cell.value)
        last = self.job.recipe.steps[-1]
        return self.job.recipe.model_copy(
            update={
                "name": f"{cell.layer}-{cell.axis}-{cell.value:g}",
                "description": f"{cell.layer} alone at {cell.axis} {cell.value:g}.",
                "steps": [step] if step.stage == STAGES[-1] else [step, last],
            }
        )

    def _reference(self) -> Cell:
        """Of the recipe in which every layer is neutral; without it there is nothing to compare with."""
        record = self.folder.file(_record(_REFERENCE))
        if record.exists():
            return _read(record)
        self._keep_recipe(_REFERENCE, self.job.recipe)
        began = time.perf_counter()
        found = self.here.found(self.job.recipe)
        seconds = round(time.perf_counter() - began, 3)
        return self._keep(_REFERENCE, Cell(axis="", layer="", value=0, seconds=seconds, **found))

    def _attempted(self, recipes: Mapping[int, Recipe]) -> Iterator[tuple[int, dict[str, Any]]]:
        """What cells say of their recipes, each with its number, in the order in which they end."""
        if self.elsewhere is None or not recipes:
            yield from ((number, self.here.attempted(recipe)) for number, recipe in recipes.items())
            return
        with self.elsewhere() as executor:
            for number, recipe in recipes.items():
                executor.submit(number, recipe.plain())
            for _ in recipes:
                outcome = executor.next()
                crashed = {"status": "failed", "reason": outcome.reason, "seconds": round(outcome.seconds, 3)}
                yield outcome.number, outcome.measured or crashed

    def _ended(self, number: int, cell: Cell, name: str, found: Mapping[str, Any]) -> Cell:
        """Record what became of a cell."""
        if reason := found.get("reason"):
            self.folder.log(f"{name}: {reason}")
            self.job.reporter.message(f"{name} failed: {reason.splitlines()[0]}")
        return self._keep(number, cell.model_copy(update=found))

    def _keep_recipe(self, number: int | str, recipe: Recipe) -> None:
        self.folder.write(f"{_place(number)}/{CELL_RECIPE}", yaml.safe_dump(recipe.plain(), sort_keys=False))

    def _keep(self, number: int | str, cell: Cell) -> Cell:
        self.folder.write(_record(number), cell.model_dump_json(indent=2) + "\n")
        return cell


def _place(number: int | str) -> str:
    """The folder of a cell."""
    return f"cells/{number if isinstance(number, str) else f'{number:04d}'}"


def _record(number: int | str) -> str:
    return f"{_place(number)}/{CELL_FILE}"


def _read(record: Path) -> Cell:
    try:
        return Cell.model_validate_json(record.read_bytes())
    except ValidationError as error:
        raise RunFolderError(
            f"{record} is damaged: {error.errors()[0]['msg']}. Remedy: remove it; the cell is measured again."
        ) from error
