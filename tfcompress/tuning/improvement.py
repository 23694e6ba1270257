"""What recipes are expected to gain, by draws of what would be measured of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tfcompress.tuning.scalarization import directions, reach

_BLOCK = 256
"""Recipes at a time, to stay within some tens of megabytes."""


@dataclass(frozen=True)
class Limits:
    """Within what a gain counts; every array is `[measures]`, the objectives first, all to be minimised.

    Attributes:
        objectives: how many of the measures are objectives.
        bounds: what each measure may be at most, infinite where nothing bounds it.
        reference: what is no better than it in an objective gains nothing.
    """

    objectives: int
    bounds: np.ndarray
    reference: np.ndarray

    def violation(self, values: np.ndarray) -> np.ndarray:
        """The sum of the relative excesses, `[..., measures]` to `[...]`."""
        relative = np.where(np.isfinite(self.bounds) & (self.bounds != 0), np.abs(self.bounds), 1.0)
        return np.maximum((values - self.bounds) / relative, 0.0).sum(axis=-1)


def expected_gain(seen: np.ndarray, known: int, draws: np.ndarray, limits: Limits) -> np.ndarray:
    """The mean over the draws of the hypervolume gained; while nothing is within the bounds, of the violation lost.

    Args:
        seen: `[trials, measures]`, the first `known` of them measured, the others believed.
        known: see `seen`.
        draws: `[recipes, draws, measures]`.
        limits: see there.

    Returns:
        `[recipes]`, in no unit.
    """
    if np.all(limits.violation(seen[:known]) > 0):
        return np.maximum(limits.violation(seen).min() - limits.violation(draws), 0.0).mean(axis=1)
    count = limits.objectives
    reference = limits.reference[:count]
    scale = np.maximum(reference - seen[:known, :count].min(axis=0), 1e-12)
    along = directions(count)

    def reached(values: np.ndarray) -> np.ndarray:
        within = limits.violation(values) <= 0
        return reach((values[..., :count] - reference) / scale, np.zeros(count), along) * within[..., None]

    best = reached(seen).max(axis=0)
    blocks = (draws[start : start + _BLOCK] for start in range(0, len(draws), _BLOCK))
    return np.concatenate([np.maximum(reached(block) - best, 0.0).mean(axis=(1, 2)) for block in blocks])
