"""Recipes as numbers: where each hole's value stands among the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfcompress.tuning.candidates import is_ordered
from tfcompress.tuning.holes import Hole
from tfcompress.tuning.surrogate import Points

_MIDDLE = 0.5


def coordinates(holes: Sequence[Hole], recipes: Sequence[Mapping[str, Any]]) -> Points:
    """The recipes, each the values of its active holes by name, as the surrogate's points.

    Numbers of a choice are ranked by size, others keep their place in their range, `log` ranges by their logarithm.
    Values that are no numbers are only equal or not. A hole that does not exist in a recipe stands in the middle.
    """
    rank = np.full((len(recipes), len(holes)), _MIDDLE)
    size = np.zeros_like(rank)
    active = np.zeros(rank.shape, bool)
    for column, hole in enumerate(holes):
        for row, recipe in enumerate(recipes):
            if hole.name in recipe:
                rank[row, column], size[row, column] = _place(hole, recipe[hole.name])
                active[row, column] = True
    categorical = np.array([not is_ordered(hole) for hole in holes], bool)
    return Points(rank, size, active, categorical, np.zeros(len(recipes)))


def _place(hole: Hole, value: Any) -> tuple[float, float]:
    """Rank in 0...1 and size in -1...1 of one value."""
    if not is_ordered(hole):
        return float(hole.values.index(value)), 0.0
    if hole.values:
        levels = sorted(hole.values)
        extent = float(levels[-1] - levels[0])
        return levels.index(value) / max(len(levels) - 1, 1), 2 * (value - levels[0]) / extent - 1 if extent else 0.0
    if hole.sampling == "log":
        share = math.log(value / hole.low) / math.log(hole.high / hole.low)
    else:
        share = (value - hole.low) / (hole.high - hole.low)
    return share, 2 * share - 1
