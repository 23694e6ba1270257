"""A space as KerasTuner's HyperParameters, and their values as the space's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from tfcompress import keras_door as kd
from tfcompress.tuning.candidates import share_of
from tfcompress.tuning.holes import Hole
from tfcompress.tuning.space import Space


def to_hyperparameters(space: Space) -> Any:
    """A `keras_tuner.HyperParameters` with one entry a hole, under the same conditions.

    A choice, and a range of floats with a step, is a Choice of the values' JSON texts: KerasTuner's own take values of
    one type only, have no null, and lose the upper end of a range whose step is no binary fraction.
    """
    parameters = kd.keras_tuner.HyperParameters()
    by_name = {hole.name: hole for hole in space.holes}
    for hole in space.holes:
        # KerasTuner knows a parent only within the conditions that the parent itself stands under.
        with ExitStack() as conditions:
            for parent, value in space.parents(hole):
                conditions.enter_context(parameters.conditional_scope(parent, [_encoded(by_name[parent], value)]))
            _add(parameters, hole)
    return parameters


def to_values(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """The holes' values as `HyperParameters.values` holds them."""
    return {hole.name: _encoded(hole, values[hole.name]) for hole in space.holes if hole.name in values}


def from_values(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """The holes' values of `HyperParameters.values`; entries of other names, such as Hyperband's, are left out."""
    return {hole.name: _decoded(hole, values[hole.name]) for hole in space.holes if hole.name in values}


def _is_listed(hole: Hole) -> bool:
    return hole.kind == "choice" or (hole.kind == "float" and hole.sampling == "linear" and hole.count is not None)


def _encoded(hole: Hole, value: Any) -> Any:
    return json.dumps(value) if _is_listed(hole) else value


def _decoded(hole: Hole, value: Any) -> Any:
    if _is_listed(hole):
        return json.loads(value)
    # KerasTuner's steps on a logarithmic range are factors, ours differences: it draws freely, and this rounds.
    return hole.at(share_of(hole, value)) if hole.sampling == "log" and hole.step is not None else value


def _add(parameters: Any, hole: Hole) -> None:
    default = _encoded(hole, hole.default)
    if _is_listed(hole):
        texts = [_encoded(hole, value) for value in hole.grid()]
        # KerasTuner refuses a default that is not listed; the middle of a continuous range never comes here.
        parameters.Choice(hole.name, texts, default=default)
    elif hole.kind == "bool":
        parameters.Boolean(hole.name, default=default)
    elif hole.kind == "int":
        step = int(hole.step) if hole.sampling == "linear" else None
        parameters.Int(hole.name, hole.low, hole.high, step=step, sampling=hole.sampling, default=default)
    else:
        parameters.Float(hole.name, hole.low, hole.high, sampling=hole.sampling, default=default)
