"""Which recipe to try next, so that the front of all tried ones gains most.

Each measure that the goal needs is learned from the trials so far by a Gaussian process (`surrogate.py`); the recipe
whose expected gain of hypervolume within the bounds is largest is tried next (expected hypervolume improvement:
Emmerich, Giannakoglou, Naujoks 2006, here by quasi-random draws and directions, for any number of objectives). The
first few recipes fill the space, or are those that a sensitivity analysis foresees on the front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from tfcompress.tuning import pareto
from tfcompress.tuning.candidates import Recipe, distinct, enumerable, sampled
from tfcompress.tuning.coordinates import coordinates
from tfcompress.tuning.foresight import Sensitivity, check_sensitivity, foreseen
from tfcompress.tuning.improvement import Limits, expected_gain
from tfcompress.tuning.measures import Goal, to_minimise
from tfcompress.tuning.scalarization import normal_draws
from tfcompress.tuning.space import Space
from tfcompress.tuning.surrogate import Points, Surrogate
from tfcompress.tuning.warp import Warp

_FIRST = 6
"""Trials before the surrogates decide: the defaults, two corners, and three that lie far from them."""
_CHANCE = 0.3
"""How much nearer than the farthest a recipe may lie that is chosen to fill the space."""
_DRAWS = 64
_MARGIN = 0.3
"""Where nothing bounds an objective: how far behind the worst of the front the reference lies, of its extent."""


@dataclass(frozen=True)
class Past:
    """A trial that was begun.

    Attributes:
        values: of its active holes.
        measured: what was measured of it; None when it failed or goes on.
        failed: whether it ended without a measurement.
    """

    values: Mapping[str, Any]
    measured: Mapping[str, float] | None = None
    failed: bool = False


class Proposer:
    """Chooses recipes of a space for a goal; the same trials and seed give the same choice.

    Args:
        space: what can be tried.
        goal: what for.
        seed: of the choices among equals, and of the samples of a space too large to be enumerated.
        sensitivity: see `Sensitivity`; None when nothing is foreseen.
    """

    def __init__(self, space: Space, goal: Goal, seed: int, sensitivity: Sensitivity | None = None) -> None:
        self._space, self._goal, self._seed, self._sensitivity = space, goal, seed, sensitivity
        self._names = tuple(dict.fromkeys((*goal.objectives, *goal.bounds)))
        if sensitivity is not None:
            check_sensitivity(sensitivity, space.holes)

    def next(self, past: Sequence[Past]) -> Recipe | None:
        """The recipe to try after `past`, none of which it repeats; None when nothing is left to try."""
        random = np.random.default_rng([self._seed, len(past)])
        tried = {self._space.canonical(trial.values) for trial in past}
        left = self._left(past, tried, random)
        if not left:
            return None
        if len(past) < _FIRST:
            return self._first(past, left, random)
        known = [trial for trial in past if trial.measured is not None]
        if not known:
            return left[_farthest(self._points([trial.values for trial in past]), self._points(left), random)]
        return left[int(np.argmax(self._gain(past, known, left)))]

    @cached_property
    def _all(self) -> list[Recipe]:
        return list(distinct(self._space, self._space.grid()))

    def _left(self, past: Sequence[Past], tried: set[tuple], random: np.random.Generator) -> list[Recipe]:
        if enumerable(self._space):
            return [values for values in self._all if tuple(values.items()) not in tried]
        known = [trial for trial in past if trial.measured is not None]
        good = [dict(known[index].values) for index in self._front(known)] if known else []
        fresh = list(distinct(self._space, sampled(self._space, good, random), but=tried))
        if fresh or self._space.size is None:
            return fresh
        return [next(distinct(self._space, self._space.grid(), but=tried))] if len(tried) < self._space.size else []

    def _front(self, known: Sequence[Past]) -> list[int]:
        measured = [trial.measured for trial in known]
        return pareto.front([self._goal.vector(m) for m in measured], [self._goal.violation(m) for m in measured])

    def _points(self, recipes: Sequence[Mapping[str, Any]]) -> Points:
        return coordinates(self._space.holes, recipes)

    def _first(self, past: Sequence[Past], left: Sequence[Recipe], random: np.random.Generator) -> Recipe:
        """The defaults, then what is foreseen on the front or the corners, then what lies far from all these."""
        if not past:
            return dict(self._space.canonical(self._space.default()))
        if self._sensitivity is not None:
            return left[self._foreseen_on_front([*left, *(trial.values for trial in past)], len(left), random)]
        points = self._points(left)
        if len(past) <= 2:
            corner = float(len(past) - 1)
            return left[int(np.argmin(np.abs(points.rank - corner).sum(axis=1)))]
        return left[_farthest(self._points([trial.values for trial in past]), points, random)]

    def _foreseen_on_front(self, recipes: Sequence[Recipe], left: int, random: np.random.Generator) -> int:
        """Of the first `left` recipes one on the foreseen front, far from the others; sums keep who dominates whom."""
        vectors = np.stack([self._foreseen(name, recipes) for name in self._goal.objectives], axis=1)
        ahead = pareto.front(vectors[:left], np.zeros(left))
        distance = np.linalg.norm(vectors[ahead, None] - vectors[None, left:], axis=2).min(axis=1)
        return ahead[int(np.argmax(distance + 1e-9 * random.random(len(ahead))))]

    def _foreseen(self, name: str, recipes: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """What is foreseen of a measure, scaled to a standard deviation of 1."""
        if self._sensitivity is None:
            return np.zeros(len(recipes))
        sums = foreseen(self._sensitivity, self._space.holes, recipes, name)
        sums = Warp.around(sums, float(np.median(sums))).forward(sums)
        return (sums - sums.mean()) / (sums.std() or 1.0)

    def _gain(self, past: Sequence[Past], known: Sequence[Past], left: Sequence[Recipe]) -> np.ndarray:
        """What each of `left` is expected to add, `[left]`."""
        failed = [trial for trial in past if trial.failed]
        pending = [trial for trial in past if trial.measured is None and not trial.failed]
        measured = np.array([[to_minimise(name, trial.measured[name]) for name in self._names] for trial in known])
        # What fails is as bad as the worst, in every measure: its neighbours lose their attraction.
        targets = np.concatenate([measured, np.repeat(measured.max(axis=0)[None], len(failed), axis=0)])
        bounds = np.array(
            [
                to_minimise(name, self._goal.bounds[name]) if name in self._goal.bounds else np.inf
                for name in self._names
            ]
        )
        reference = self._reference(known, measured, bounds)
        recipes = [trial.values for trial in (*known, *failed, *pending)]
        points = self._points([*recipes, *left])
        ended, begun = len(known) + len(failed), len(recipes)
        noise = normal_draws(_DRAWS, len(self._names))
        draws = np.empty((len(left), _DRAWS, len(self._names)))
        believed = np.empty((len(pending), len(self._names)))
        for column, name in enumerate(self._names):
            warp = Warp.around(targets[:, column], min(reference[column], bounds[column]))
            seen = replace(points, foreseen=self._foreseen(name, [*recipes, *left]))
            model = Surrogate(seen[:ended], warp.forward(targets[:, column]))
            if pending:
                believed[:, column] = warp.back(model.predict(seen[ended:begun])[0])
                model = model.believing(seen[ended:begun])
            mean, deviation = model.predict(seen[begun:])
            draws[:, :, column] = warp.back(mean[:, None] + deviation[:, None] * noise[:, column])
        limits = Limits(len(self._goal.objectives), bounds, reference)
        return expected_gain(np.concatenate([measured, believed]), len(known), draws, limits)

    def _reference(self, known: Sequence[Past], measured: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        """For each measure what is no better than it counts nothing: its bound, else just behind the front."""
        ahead = measured[self._front(known)]
        extent = np.ptp(ahead, axis=0)
        extent = np.where(extent > 0, extent, np.ptp(measured, axis=0))
        behind = ahead.max(axis=0) + _MARGIN * np.where(extent > 0, extent, 1.0)
        return np.where(np.isfinite(bounds), bounds, behind)


def _farthest(tried: Points, left: Points, random: np.random.Generator) -> int:
    """Which of `left` lies farthest from all tried ones, with some chance among the far ones."""
    distance = np.linalg.norm(left.rank[:, None] - tried.rank[None], axis=2).min(axis=1)
    return int(np.argmax(distance + random.uniform(0, _CHANCE, len(distance))))
