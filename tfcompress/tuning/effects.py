"""What a sensitivity analysis says about the holes of a space: the sum of what a hole's value does to each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfcompress.recipe import Recipe, load_recipe
from tfcompress.tuning.cells import AXES, Level, Table
from tfcompress.tuning.foresight import Sensitivity
from tfcompress.tuning.holes import Hole
from tfcompress.tuning.space import Space
from tfcompress.tuning.template import Layers

_TRIED = 17
"""Values of a hole that has too many to try all of them."""

Curve = Mapping[Level, Mapping[str, float]]
"""By a layer's value, what each measure is more than the reference's."""


def effects(table: Table, space: Space, layers: Layers) -> Sensitivity:
    """What is foreseen of each hole of `space` that changes the bits or the sparsity of layers.

    A recipe is taken to change a measure by the sum of what its layers' values change alone. Between two values of a
    layer that were analysed the line through both is taken, beyond them the nearest line. An effect is against the
    hole's default.

    Args:
        table: of the analysis.
        space: of which the holes are.
        layers: see `load_space`.

    Example:
        >>> effects(table, space, layers)["quantization.per_layer.conv1"][2]["drop_points"]  # doctest: +SKIP
        41.5
    """
    curves = {axis: {layer: _curve(table, axis, layer) for layer in table.along(axis)} for axis in AXES}
    found: dict[str, dict[Any, Mapping[str, float]]] = {}
    for hole in space.holes:
        around = space.default() | dict(space.parents(hole))

        def changes(value: Any, hole: Hole = hole, around: Mapping[str, Any] = around) -> dict[str, float]:
            return _changes(curves, load_recipe(space.fill({**around, hole.name: value})), layers)

        neutral = changes(hole.default)
        own = {value: _less(changes(value), neutral) for value in _tried(hole)}
        if any(any(effect.values()) for effect in own.values()):
            found[hole.name] = own
    return found


def _tried(hole: Hole) -> tuple[Any, ...]:
    """The hole's values, or some from end to end."""
    if hole.count is not None and hole.count <= _TRIED:
        return hole.grid()
    return tuple(dict.fromkeys([hole.low, *(hole.at(share) for share in np.linspace(0, 1, _TRIED)[1:-1]), hole.high]))


def _curve(table: Table, axis: str, layer: str) -> Curve:
    """The analysed values of a layer, the neutral one among them."""
    curve = {
        value: {measure: table.change(cell, measure) for measure in cell.measured}
        for value, cell in table.along(axis)[layer].items()
        if cell.status == "completed"
    }
    return {**curve, AXES[axis].neutral: dict.fromkeys(table.reference.measured, 0.0)}


def _changes(curves: Mapping[str, Mapping[str, Curve]], recipe: Recipe, layers: Layers) -> dict[str, float]:
    """By measure, the sum of what the layers' values change."""
    total: dict[str, float] = {}
    for axis, by_layer in curves.items():
        for step in recipe.steps:
            if step.technique != AXES[axis].technique:
                continue
            for layer in layers(step):
                if layer in by_layer:
                    for measure, change in _at(by_layer[layer], AXES[axis].of(step, layer)).items():
                        total[measure] = total.get(measure, 0.0) + change
    return total


def _at(curve: Curve, value: Level) -> dict[str, float]:
    if value in curve or len(curve) == 1:
        return dict(curve.get(value, {}))
    known = sorted(curve)
    right = min(max(int(np.searchsorted(known, value)), 1), len(known) - 1)
    low, high = known[right - 1], known[right]
    share = (value - low) / (high - low)
    return {measure: (1 - share) * curve[low][measure] + share * curve[high][measure] for measure in curve[low]}


def _less(left: Mapping[str, float], right: Mapping[str, float]) -> dict[str, float]:
    return {measure: left.get(measure, 0.0) - right.get(measure, 0.0) for measure in {**left, **right}}
