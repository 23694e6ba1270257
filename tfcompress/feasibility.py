"""What can be done to a model, asked before anything is: of every technique and of the converter, layer by layer.

There is no list of layers here: the techniques ask their registries, the converter converts the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.proof import BOUNDARY, OUTPUT_LAYER, prove_integer
from tfcompress.convert.settings import ConversionSettings
from tfcompress.enabling import Rewriting, enabled, opened
from tfcompress.models.loading import check_one_input_and_output, load_model
from tfcompress.models.rewrites import offers
from tfcompress.preparation import with_promises
from tfcompress.recipe import Recipe
from tfcompress.techniques.base import (
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
from tfcompress.vocabulary.errors import ModelError, TfcompressError
from tfcompress.vocabulary.state import State

CONVERSION = "int8"
"""The column of the conversion, beside those that have the techniques' names."""

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
        model: the model that was asked about; None when it could not be loaded.
    """

    layers: tuple[tuple[str, str], ...]
    columns: Mapping[str, tuple[Verdict, ...]]
    of_model: tuple[str, ...] = ()
    model: Any = field(default=None, repr=False, compare=False)

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
        if self.model is None:
            return tuple(found)
        try:
            with_promises(recipe, enabled(recipe, State(self.model)).state)
        except TfcompressError as error:
            found.append(str(error))
        integer = recipe.number_format == "int8" and not recipe.conversion.allow_float
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
    custom_objects: Mapping[str, Any] | None = None,
    unsafe: bool = False,
) -> Report:
    """What every technique and the converter can do with every layer of `model`; all findings at once.

    Args:
        model: a model or its path, as `load_model` takes it. It is converted once, and never changed.
        recipe: ask its steps, with their settings. Defaults to every technique with its defaults.
        custom_objects: classes and functions that a model file names.
        unsafe: execute byte code that a model file holds. Defaults to refusing it.

    Example:
        >>> report = preflight("trained.h5")  # doctest: +SKIP
        >>> [(column, verdict.layer, verdict.outcome) for column, verdict in report.findings]  # doctest: +SKIP
        [('quantization', 'lstm', 'by calibration')]
    """
    loaded, of_model = None, ()
    try:
        loaded = load_model(model, custom_objects, unsafe)
        check_one_input_and_output(loaded)
    except ModelError as error:
        # Its layers can be asked about where it has a graph of them.
        if loaded is None and isinstance(model, kd.keras.Model) and model.inputs:
            loaded = model
        of_model = (str(error),)
    if loaded is None:
        return Report((), {}, of_model)
    found = sorted(techniques().values(), key=lambda technique: STAGES.index(technique.stage))
    steps = recipe.steps if recipe else [technique() for technique in found]
    columns = _asked(loaded, steps)
    if not of_model:
        columns[CONVERSION], refusals = _converted(loaded)
        of_model = refusals
    kinds = tuple((layer.name, type(layer).__name__) for layer in loaded.layers)
    return Report(kinds, columns, of_model, loaded)


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


def _converted(model: Any) -> tuple[tuple[Verdict, ...], tuple[str, ...]]:
    """The converter's verdict on each layer, and its refusals that name none."""
    try:
        converted = opened(State(model)).state.model
        content = quantized_tflite(converted, "int8", ConversionSettings(allow_float=True), _samples(converted))
    except TfcompressError as error:
        return _refused(model, str(error))
    left: dict[str, list[str]] = {}
    for finding in prove_integer(Flatbuffer(content)).findings:
        if finding.operator not in BOUNDARY:
            layer = model.output_names[0] if finding.layer == OUTPUT_LAYER else finding.layer
            left.setdefault(layer, []).append(f"{finding.operator}: {finding.reason}")
    remedy = "replace it by layers with an integer form, or set conversion.allow_float=true to ship it in float"
    verdicts = tuple(
        Verdict(layer.name, FLOAT_ONLY, "; ".join(dict.fromkeys(left[layer.name])), remedy)
        if layer.name in left
        else Verdict(layer.name, NOTHING if isinstance(layer, kd.keras.layers.InputLayer) else YES)
        for layer in model.layers
    )
    unplaced = left.keys() - {layer.name for layer in model.layers}
    return verdicts, tuple(f"{name}: {'; '.join(left[name])}. Remedy: {remedy}" for name in sorted(unplaced))


def _refused(model: Any, message: str) -> tuple[tuple[Verdict, ...], tuple[str, ...]]:
    """The verdicts of a converter that refused: `NO` for the layers it named; it has not come to judge the others."""
    said: dict[str, str] = {}
    for reason, place in _REFUSED.findall(message):
        for part in place.split("/"):
            said.setdefault(part, reason)
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
    layers = [*model.layers, *model.submodules]
    tables = [layer.input_dim for layer in layers if isinstance(layer, kd.keras.layers.Embedding)]
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
