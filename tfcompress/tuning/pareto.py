"""Which trials are better than which, when several objectives and bounds decide. Plain arithmetic on vectors.

Everywhere `vectors` is `[n, objectives]`, all to be minimised, and `violations` is `[n]`, 0 where all bounds are met.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def dominance(vectors: ArrayLike, violations: ArrayLike) -> np.ndarray:
    """Whether row `i` dominates column `j`, `[n, n]`.

    It does when it violates the bounds less, or as much and is no worse in any objective and better in one
    (constraint domination: Deb, Pratap, Agarwal, Meyarivan 2002, "A fast and elitist multiobjective genetic
    algorithm: NSGA-II", section VI).
    """
    points, missed = _checked(vectors, violations)
    no_worse = np.all(points[:, None] <= points[None], axis=2)
    better = np.any(points[:, None] < points[None], axis=2)
    return (missed[:, None] < missed[None]) | ((missed[:, None] == missed[None]) & no_worse & better)


def front(vectors: ArrayLike, violations: ArrayLike) -> list[int]:
    """The indices of those that none dominates, in their order; when none meets the bounds, of the nearest.

    Example:
        >>> front([[1, 5], [2, 2], [3, 3]], [0, 0, 0])
        [0, 1]
    """
    return np.flatnonzero(~dominance(vectors, violations).any(axis=0)).tolist()


def hypervolume(vectors: ArrayLike, reference: Sequence[float]) -> float:
    """The volume that the vectors dominate, as far as `reference`; exact for any number of objectives.

    A vector that is not better than the reference in every objective dominates nothing of it. By slicing objectives
    (While, Hingston, Barone, Huband 2006, "A faster algorithm for calculating hypervolume"), whose time grows with
    `n ** (objectives - 1)`.

    Raises:
        ValueError: the lengths of the vectors and of the reference differ.

    Example:
        >>> hypervolume([[1, 2], [2, 1]], (3, 3))
        3.0
    """
    limit = np.asarray(reference, float)
    points = np.asarray(vectors, float)
    if not points.size:
        return 0.0
    if points.ndim != 2 or points.shape[1] != len(limit):
        raise ValueError(
            f"Vectors and reference must have the same length. Received: vectors of shape {points.shape}, "
            f"a reference of {len(limit)}."
        )
    return _volume(points[np.all(points < limit, axis=1)], limit)


def _volume(points: np.ndarray, limit: np.ndarray) -> float:
    if not len(points):
        return 0.0
    if len(limit) == 1:
        return float(limit[0] - points.min())
    points = points[front(points, np.zeros(len(points)))]
    points = points[np.argsort(points[:, -1], kind="stable")]
    heights = np.append(points[1:, -1], limit[-1]) - points[:, -1]
    return sum(
        float(height) * _volume(points[: slices + 1, :-1], limit[:-1])
        for slices, height in enumerate(heights)
        if height > 0
    )


def _checked(vectors: ArrayLike, violations: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    points, missed = np.asarray(vectors, float), np.asarray(violations, float)
    points = points.reshape(len(missed), -1)
    if np.isnan(points).any() or np.isnan(missed).any():
        raise ValueError("Vectors and violations must be numbers. Received: NaN. Remedy: leave failed trials out.")
    return points, missed
