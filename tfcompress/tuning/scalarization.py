"""Several objectives as one number, in many directions: what each direction would gain, and what it would choose."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri
from scipy.stats import qmc

_DIRECTIONS = 64
_SEED = 0
"""Directions and draws are a fixed lattice: nothing about a search is random but its seed."""


def directions(objectives: int) -> np.ndarray:
    """Unit vectors `[128, objectives]` spread evenly over the positive part of the sphere; one when there is one."""
    if objectives == 1:
        return np.ones((1, 1))
    if objectives == 2:
        angle = (np.arange(_DIRECTIONS) + 0.5) / _DIRECTIONS * np.pi / 2
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    normals = np.abs(normal_draws(_DIRECTIONS, objectives))
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def normal_draws(count: int, dimensions: int) -> np.ndarray:
    """Standard normal draws `[count, dimensions]`, spread more evenly than chance would (Sobol)."""
    uniform = qmc.Sobol(dimensions, seed=_SEED).random(count)
    return ndtri(np.clip(uniform, 1e-6, 1 - 1e-6))


def reach(vectors: np.ndarray, reference: np.ndarray, along: np.ndarray) -> np.ndarray:
    """How far from `reference` each vector dominates in each direction, to the power of the number of objectives.

    Its mean over the directions, times a constant, is the hypervolume of one vector; of a set, the mean of the
    largest (Deng, Zhang 2019, "Approximating hypervolume and hypervolume contributions using polar coordinate").

    Args:
        vectors: `[..., objectives]`, all to be minimised.
        reference: `[objectives]`, what is no better than it counts nothing.
        along: `[directions, objectives]` of `directions`.

    Returns:
        `[..., directions]`.
    """
    room = np.maximum(reference - vectors, 0.0)
    # Objective by objective: a reduction over so short an axis takes several times as long.
    nearest = room[..., :1] / along[:, 0]
    for objective in range(1, len(reference)):
        np.minimum(nearest, room[..., objective, None] / along[:, objective], out=nearest)
    return nearest ** len(reference)


def chebyshev(vectors: np.ndarray, violations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Augmented Chebyshev scores `[n]`, the smaller the better, of vectors scaled to what was seen so far.

    ParEGO: Knowles 2006, equation 2, with rho = 0.05. A violated bound costs 1, the whole range seen, and its
    violation.

    Args:
        vectors: `[n, objectives]`, all to be minimised.
        violations: `[n]` of the bounds, 0 where all are met.
        weights: `[objectives]`, not negative, of sum 1.
    """
    lowest = vectors.min(axis=0)
    scaled = weights * (vectors - lowest) / np.where(np.ptp(vectors, axis=0) > 0, np.ptp(vectors, axis=0), 1.0)
    return scaled.max(axis=1) + 0.05 * scaled.sum(axis=1) + np.where(violations > 0, 1.0 + violations, 0.0)
