"""How much each hole of a search decides about a measure: the permutation importance of a random forest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress.tuning.holes import Hole

FEWEST = 10
"""Trials below which nothing is said."""
_FOLDS, _TREES, _REPEATS = 5, 50, 5
_INACTIVE = -1.0


@dataclass(frozen=True)
class Importance:
    """Of every hole, for one measure.

    Args:
        by_hole: by how much the squared error of the forest grows on trials that it has not seen when the hole's values
            are shuffled among them, as a share of the measure's variance; negative ones are chance.
        explained: the share of the variance of such trials that the forest explains (R²). Where it is near 0 or below,
            the importances mean nothing.
    """

    by_hole: Mapping[str, float]
    explained: float


def importance(
    holes: Sequence[Hole], recipes: Sequence[Mapping[str, Any]], measured: Sequence[float]
) -> Importance | None:
    """The importance of each hole for a measure of some trials.

    A random forest learns the measure from the holes' values, five times on four fifths of the trials; on the rest
    each hole is shuffled in turn (L. Breiman, "Random Forests", 2001). It depends on the trials alone.

    Args:
        holes: of the space.
        recipes: the values of each trial; a hole that is not active there has none.
        measured: of each trial.

    Returns:
        None for fewer than ten trials, or where all measure the same.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import KFold

    targets = np.asarray(measured, np.float64)
    if len(targets) < FEWEST or not np.ptp(targets):
        return None
    points = np.array([[_coordinate(hole, values) for hole in holes] for values in recipes])
    total, predicted = np.zeros(len(holes)), np.empty(len(targets))
    for seen, unseen in KFold(_FOLDS, shuffle=True, random_state=0).split(points):
        forest = RandomForestRegressor(_TREES, random_state=0).fit(points[seen], targets[seen])
        predicted[unseen] = forest.predict(points[unseen])
        found = permutation_importance(
            forest,
            points[unseen],
            targets[unseen],
            scoring="neg_mean_squared_error",
            n_repeats=_REPEATS,
            random_state=0,
        )
        total += found.importances_mean * len(unseen)
    variance = targets.var()
    by_hole = total / len(targets) / variance
    return Importance(
        {hole.name: float(share) for hole, share in zip(holes, by_hole, strict=True)},
        float(1 - np.mean((predicted - targets) ** 2) / variance),
    )


def _coordinate(hole: Hole, values: Mapping[str, Any]) -> float:
    if hole.name not in values:
        return _INACTIVE
    value = values[hole.name]
    if hole.values:
        return float(hole.values.index(value))
    return math.log(value) if hole.sampling == "log" else float(value)
