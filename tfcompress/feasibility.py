"""What can be done to a model, asked before anything is: of every technique and of the converter, layer by layer.

There is no list of layers here: the techniques ask their registries, the converter converts the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.proof import BOUNDARY, OUTPUT_LAYER, Finding, prove_integer
from tfcompress.convert.settings import ConversionSettings
from tfcompress.data.settings import DataSettings
from tfcompress.distillation.faculty import gathered
from tfcompress.enabling import Enabled, Rewriting, enabled, opened
from tfcompress.models import zoo
from tfcompress.models.loading import check_one_input_and_output
from tfcompress.models.rewrites import offers
from tfcompress.preparation import (
    built,
    check_feeds,
    given_state,
    load_for,
    refuse_broken_promises,
    with_promises,
)
from tfcompress.recipe import Recipe
from tfcompress.techniques.base import (
    ANY_STAGE,
    BY_CALIBRATION,
    FLOAT_ONLY,
    NO,
    NOTHING,
    STAGES,
    YES,
    Technique,
    Verdict,
    techniques,
)
from tfcompress.vocabulary.changes import Change, summary
from tfcompress.vocabulary.errors import ModelError, TfcompressError
from tfcompress.vocabulary.state import State

CONVERSION = "int8"
"""The column of the conversion, beside those that have the techniques' names."""

_INTEGER = ("int8", "int16x8")
_NO_FLOAT = "replace it by layers with an integer form, or set conversion.allow_float=true to ship it in float"
_SAMPLES = 2
_LENGTH = 16
"""Taken for an axis of open length."""
_REFUSED = re.compile(r"^\s*(\w+ at (\S+?): .*)$", re.MULTILINE)


@dataclass(frozen=True)
class Report:
    """What can be done to a model.

    Args:
        layers: the name and the class of every layer, in the model's order.
        columns: by the name of a technique, or `CONVERSION`, its verdict on every layer, in the same order.
        of_model: what stands in the way of the model as a whole; empty when nothing does.
        converted: what was converted for the column of the conversion, in a few lines; empty when nothing was.
        state: what was asked about; None when it could not be loaded.
    """

    layers: tuple[tuple[str, str], ...]
    columns: Mapping[str, tuple[Verdict, ...]]
    of_model: tuple[str, ...] = ()
    converted: tuple[str, ...] = ()
    state: State | None = field(default=None, repr=False, compare=False)

    @property
    def findings(self) -> tuple[tuple[str, Verdict], ...]:
        """Every verdict that says why something cannot be done, or not at once, behind the name of its column."""
        return tuple(
            (column, verdict) for column, verdicts in self.columns.items() for verdict in verdicts if verdict.reason
        )

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """The report as a table: a layer a row, its name, its class, and an outcome for each column."""
        outcomes = zip(*(tuple(v.outcome for v in verdicts) for verdicts in self.columns.values()), strict=True)
        return tuple((*layer, *row) for layer, row in zip(self.layers, outcomes, strict=True))

    def problems(self, recipe: Recipe) -> tuple[str, ...]:
        """What forbids carrying out `recipe` on the model, each with its remedy; empty when nothing does."""
        found = list(self.of_model)
        if self.state is None:
            return tuple(found)
        try:
            refuse_broken_promises(self.state, recipe)
            with_promises(recipe, enabled(recipe, opened(self.state).state).state)
        except TfcompressError as error:
            found.append(str(error))
        integer = recipe.number_format in _INTEGER and not recipe.conversion.allow_float
        refused = (NO, FLOAT_ONLY) if integer else (NO,)
        found += [
            f"{verdict.layer}: {verdict.reason}. Remedy: {verdict.remedy}"
            for verdict in self.columns.get(CONVERSION, ())
            if verdict.outcome in refused
        ]
        return tuple(found)


def preflight(
    model: Any,
    recipe: Recipe | None = None,
    *,
    data: Any = None,
    data_dir: str | Path | None = None,
    seed: int = 0,
    custom_objects: Mapping[str, Any] | None = None,
    unsafe: bool = False,
) -> Report:
    """What every technique and the converter can do with every layer of `model`; all findings at once.

    Args:
        model: what `tfcompress.compress` takes. It is converted once, and never changed.
        recipe: ask its steps, with their settings, and convert what its run would: the model after the exact
            rewrites that it makes for its steps. Defaults to every technique with its defaults, and the conversion
            to int8 of the model as it came.
        data: see `load_data`: whether it fits the model is checked too. Defaults to none; a network of the zoo, which
            is built for its data, needs it.
        data_dir: where TFDS keeps its data sets. Defaults to TFDS's own place.
        seed: of a network of the zoo, and of the split of `data`.
        custom_objects: classes and functions that a model file names.
        unsafe: execute byte code that a model file holds. Defaults to refusing it.

    Example:
        >>> report = preflight("trained.h5")  # doctest: +SKIP
        >>> [(column, verdict.layer, verdict.outcome) for column, verdict in report.findings]  # doctest: +SKIP
        [('quantization', 'lstm', 'by calibration')]
    """
    state, problems = None, []
    settings = recipe.data if recipe else DataSettings()
    in_zoo = isinstance(model, str) and zoo.is_zoo(model)
    try:
        if in_zoo:
            state = _of_zoo(model, data, settings, data_dir, seed)
        else:
            state = given_state(model, custom_objects, unsafe)
            check_one_input_and_output(state.model)
    except TfcompressError as error:
        problems.append(str(error))
        # Its layers can be asked about where it has a graph of them.
        if state is None and isinstance(model, kd.keras.Model) and model.inputs:
            state = State(model)
    if state is None:
        return Report((), {}, tuple(problems))
    columns, converted = _asked(state.model, _steps(recipe)), ()
    if recipe is not None and not problems:
        problems += _unteachable(recipe, state, custom_objects, unsafe)
    if not problems:
        columns[CONVERSION], refusals, converted = _converted(state, recipe)
        problems += refusals
        if data is not None and not in_zoo:
            problems += _misfits(opened(state).state.model, data, settings, data_dir, seed)
    kinds = tuple((layer.name, type(layer).__name__) for layer in state.model.layers)
    return Report(kinds, columns, tuple(problems), converted, state)


def _unteachable(recipe: Recipe, state: State, custom_objects: Mapping[str, Any] | None, unsafe: bool) -> Iterable[str]:
    """Why teachers that `recipe` names cannot teach the model; nothing when they can."""
    try:
        start = opened(state).state
        student = enabled(recipe, start).state.model
    except TfcompressError:
        # What stands in the way of the steps is theirs to say.
        return []
    return gathered(recipe, custom_objects, unsafe).problems(recipe, student, start.model)


def _of_zoo(spec: str, data: Any, settings: DataSettings, data_dir: str | Path | None, seed: int) -> State:
    if data is None:
        raise ModelError(
            f"A network of the zoo is built for the inputs and classes of its data. Received {spec} without any. "
            "Remedy: name the data set too, as in --dataset=digits."
        )
    return built(spec, load_for(spec, data, settings, data_dir, seed), seed)


def _misfits(model: Any, data: Any, settings: DataSettings, data_dir: str | Path | None, seed: int) -> list[str]:
    """Why `data` cannot be fed to `model`; nothing when it can."""
    try:
        check_feeds(load_for(model, data, settings, data_dir, seed), model)
    except TfcompressError as error:
        return [str(error)]
    return []


def _steps(recipe: Recipe | None) -> Iterable[Technique]:
    if recipe:
        return recipe.steps
    order = (ANY_STAGE, *STAGES)
    found = sorted(techniques().values(), key=lambda technique: order.index(technique.stage))
    return [technique() for technique in found]


def _asked(model: Any, steps: Iterable[Technique]) -> dict[str, tuple[Verdict, ...]]:
    """The columns of the techniques that judge by layers."""
    rewriting = Rewriting(model)
    nearest = {offer.layer: f"{offer.instead}: {offer.why}" for offer in offers(model)}
    columns = {step.name: rewriting.verdicts(step) for step in steps}
    return {
        name: tuple(
            replace(v, remedy=nearest[v.layer]) if v.outcome == BY_CALIBRATION and v.layer in nearest else v
            for v in verdicts
        )
        for name, verdicts in columns.items()
        if verdicts
    }


def _converted(state: State, recipe: Recipe | None) -> tuple[tuple[Verdict, ...], tuple[str, ...], tuple[str, ...]]:
    """The converter's verdict on each layer, its refusals that name none, and what it was given."""
    number_format = recipe.number_format if recipe else "int8"
    settings = (recipe.conversion if recipe else ConversionSettings()).model_copy(update={"allow_float": True})
    came, changes = state.model, ()
    said = (f"Converted for the column {CONVERSION}: the model as it came, to {number_format}.",)
    try:
        opening = opened(state)
        enabling = enabled(recipe, opening.state) if recipe else Enabled(opening.state)
        model, changes = enabling.state.model, (*opening.changes, *enabling.changes)
        if changes:
            by = f"the recipe {recipe.name}" if recipe else "every run"
            what = f"the model after the exact rewrites that {by} begins with, to {number_format}"
            said = (f"Converted for the column {CONVERSION}: {what}.", *summary(changes))
        content = quantized_tflite(model, number_format, settings, _samples(model))
    except TfcompressError as error:
        return *_refused(came, str(error), _Origins(came, changes)), said
    findings = prove_integer(Flatbuffer(content)).findings if number_format in _INTEGER else ()
    left = _left_in_float(findings, model.output_names[0], _Origins(came, changes))
    verdicts = tuple(
        Verdict(layer.name, FLOAT_ONLY, "; ".join(dict.fromkeys(left[layer.name])), _NO_FLOAT)
        if layer.name in left
        else Verdict(layer.name, NOTHING if isinstance(layer, kd.keras.layers.InputLayer) else YES)
        for layer in came.layers
    )
    unplaced = left.keys() - {layer.name for layer in came.layers}
    return verdicts, tuple(f"{name}: {'; '.join(left[name])}. Remedy: {_NO_FLOAT}" for name in sorted(unplaced)), said


def _left_in_float(findings: Iterable[Finding], last: str, origins: _Origins) -> dict[str, list[str]]:
    """Why operators are not integer, by the caller's layer that they come from; `last` is the model's last layer."""
    left: dict[str, list[str]] = {}
    for finding in findings:
        if finding.operator not in BOUNDARY:
            name = last if finding.layer == OUTPUT_LAYER else finding.layer
            layer = origins.of(name)
            instead = "" if layer == name else f"{name} in its place: "
            left.setdefault(layer, []).append(f"{instead}{finding.operator}: {finding.reason}")
    return left


class _Origins:
    """Which of the caller's layers the layers of a rewritten model come from.

    Args:
        model: the caller's.
        changes: what was done to it.
    """

    def __init__(self, model: Any, changes: Iterable[Change]) -> None:
        self._own = {layer.name for layer in model.layers}
        self._origin = {name: change.layer for change in changes for name in change.became}

    def of(self, name: str) -> str:
        """The caller's layer for `name`; a nested model for what was in it."""
        origin = name if name in self._own else self._origin.get(name, name)
        return origin if origin in self._own else origin.partition("/")[0]


def _refused(model: Any, message: str, origins: _Origins) -> tuple[tuple[Verdict, ...], tuple[str, ...]]:
    """The verdicts of a converter that refused: `NO` for the layers it named; it has not come to judge the others."""
    said: dict[str, str] = {}
    for reason, place in _REFUSED.findall(message):
        for part in place.split("/"):
            said.setdefault(origins.of(part), reason)
    verdicts = tuple(
        Verdict(layer.name, NO, said[layer.name], "replace it, or leave what it does to the program that runs the file")
        if layer.name in said
        else Verdict(layer.name, NOTHING)
        for layer in model.layers
    )
    return verdicts, () if any(verdict.outcome == NO for verdict in verdicts) else (message,)


def _samples(model: Any) -> np.ndarray:
    """A few random inputs that `model` takes, `[n, ...]`: token ids where an Embedding looks them up."""
    shape = (_SAMPLES, *(size or _LENGTH for size in model.input_shape[1:]))
    rng = np.random.default_rng(0)
    tables = [layer.input_dim for layer in model._flatten_layers() if isinstance(layer, kd.keras.layers.Embedding)]
    if tables or model.inputs[0].dtype.is_integer:
        return rng.integers(0, min(tables, default=2), shape).astype(np.float32)
    return rng.normal(size=shape).astype(np.float32)


def lines(findings: Sequence[tuple[str, Verdict]]) -> list[str]:
    """One line a person can read for each of a report's findings; those alike for several columns stand once."""
    columns: dict[Verdict, list[str]] = {}
    for column, verdict in findings:
        columns.setdefault(verdict, []).append(column)
    return [
        f"{v.layer}, {', '.join(names)}: {v.outcome}. {v.reason}. Remedy: {v.remedy}" for v, names in columns.items()
    ]
