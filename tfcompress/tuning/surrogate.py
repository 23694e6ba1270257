"""A Gaussian process over recipes: what a measure is expected to be at recipes that were not tried, and how surely.

The kernel says what is known of recipes beforehand: a measure is nearly a sum of the holes' effects (bytes are exactly
that), each effect is nearly linear in its value or smooth in its rank, and what two holes do together is smooth too:

    k(x, x') = 4 + sum_h r_h^2 (a^2 v_h v'_h + b^2 m_h) + c^2 mean_{g<h} m_g m_h + f f' / 2 + n^2 [x = x']

with v the hole's value, m_h the Matern 5/2 kernel of its ranks in x and x', and f what is foreseen of the recipe, which
is the mean as well. A product of all m_h would say that recipes are alike only where all holes are, which a few dozen
trials teach little about. Additive kernels of first and second order: Duvenaud, Nickisch, Rasmussen 2011, "Additive
Gaussian processes"; fitting and prediction: Rasmussen, Williams 2006, algorithm 2.1 and equation 5.9; the parameters
have log-normal priors.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

_MEAN_VARIANCE = 4.0
_FORESIGHT_VARIANCE = 0.5
_JITTER = 1e-8
_SHARED = 4
"""Parameters that all holes share: of the linear part, of effects, of pairs, and of the noise."""

# Medians and widths of the log-normal priors; measures are scaled to a standard deviation of 1.
_PRIOR_MEDIANS = (0.7, 0.5, 0.4, 0.05)
_PRIOR_WIDTHS = (1.0, 1.0, 1.0, 1.2)
_SCALE_PRIOR = (1.0, 0.8)
_LENGTH_PRIOR = (0.8, 0.7)


@dataclass(frozen=True)
class Points:
    """Recipes as the kernel sees them.

    Attributes:
        rank: `[points, holes]`, 0 to 1, the place of each value among its hole's values.
        value: `[points, holes]`, -1 to 1, the value itself; 0 where it has no size.
        active: `[points, holes]`, whether the hole exists in the recipe.
        categorical: `[holes]`, whether two values are only equal or not.
        foreseen: `[points]`, of a standard deviation of 1, what is foreseen of the measure; 0 where nothing is.
    """

    rank: np.ndarray
    value: np.ndarray
    active: np.ndarray
    categorical: np.ndarray
    foreseen: np.ndarray

    def __len__(self) -> int:
        return len(self.rank)

    def __getitem__(self, rows: np.ndarray | list[int]) -> Points:
        return Points(self.rank[rows], self.value[rows], self.active[rows], self.categorical, self.foreseen[rows])

    def joined(self, others: Points) -> Points:
        """These points and then the others."""
        pairs = ((getattr(self, name), getattr(others, name)) for name in ("rank", "value", "active"))
        foreseen = np.concatenate([self.foreseen, others.foreseen])
        return Points(*(np.concatenate(pair) for pair in pairs), self.categorical, foreseen)


@dataclass(frozen=True)
class _Pairs:
    """What the kernel needs of every pair of points: hole by hole `[holes, n, m]`, and the part of no parameter."""

    distance: np.ndarray
    product: np.ndarray
    both_active: np.ndarray
    fixed: np.ndarray

    @classmethod
    def between(cls, left: Points, right: Points) -> _Pairs:
        distance = np.abs(left.rank.T[:, :, None] - right.rank.T[:, None, :])
        distance = np.where(left.categorical[:, None, None], distance > 0, distance)
        product = left.value.T[:, :, None] * right.value.T[:, None, :]
        both_active = left.active.T[:, :, None] * right.active.T[:, None, :] * 1.0
        fixed = _MEAN_VARIANCE + _FORESIGHT_VARIANCE * np.outer(left.foreseen, right.foreseen)
        return cls(distance, product, both_active, fixed)


class Surrogate:
    """One measure, learned from the recipes where it is known.

    Args:
        points: `[n]` recipes.
        targets: `[n]` the measure there.
    """

    def __init__(self, points: Points, targets: np.ndarray) -> None:
        self._center, self._scale = float(np.mean(targets)), float(np.std(targets)) or 1.0
        residuals = (targets - self._center) / self._scale - points.foreseen
        self._theta = _fit(_Pairs.between(points, points), residuals)
        self._learn(points, residuals)

    def _learn(self, points: Points, residuals: np.ndarray) -> None:
        self._points, self._residuals = points, residuals
        kernel = _kernel(self._theta, _Pairs.between(points, points))
        kernel[np.diag_indices_from(kernel)] += _noise(self._theta)
        self._factor = cholesky(kernel, lower=True)
        self._weights = cho_solve((self._factor, True), residuals)

    def believing(self, points: Points) -> Surrogate:
        """This surrogate after measurements at `points` that found what it expects there (the Kriging believer:

        Ginsbourger, Le Riche, Carraro 2010): its means stay, and it is surer of what lies near.
        """
        mean, _ = self._standard(points)
        believer = copy(self)
        believer._learn(self._points.joined(points), np.concatenate([self._residuals, mean]))
        return believer

    def predict(self, points: Points) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation `[m]` of a measurement at each of `points`, noise included."""
        mean, deviation = self._standard(points)
        return self._center + self._scale * (mean + points.foreseen), self._scale * deviation

    def _standard(self, points: Points) -> tuple[np.ndarray, np.ndarray]:
        across = _kernel(self._theta, _Pairs.between(points, self._points))
        half = solve_triangular(self._factor, across.T, lower=True)
        variance = _diagonal(self._theta, points) + _noise(self._theta) - np.sum(half**2, axis=0)
        return across @ self._weights, np.sqrt(np.maximum(variance, _JITTER))


def _split(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    holes = (len(theta) - _SHARED) // 2
    values = np.exp(theta)
    return values[:_SHARED], values[_SHARED : _SHARED + holes], values[_SHARED + holes :]


def _noise(theta: np.ndarray) -> float:
    return float(np.exp(2 * theta[3])) + _JITTER


def _kernel(theta: np.ndarray, pairs: _Pairs) -> np.ndarray:
    (linear, additive, joint, _), scales, lengths = _split(theta)
    smooth, _ = _matern(pairs.distance, lengths)
    effects = linear**2 * pairs.product + additive**2 * pairs.both_active * smooth
    return pairs.fixed + np.tensordot(scales**2, effects, axes=1) + joint**2 * _of_pairs(smooth)


def _of_pairs(smooth: np.ndarray) -> np.ndarray:
    """The mean of the products of two holes' kernels, `[holes, n, m]` to `[n, m]`; 0 where there is one hole."""
    sums = smooth.sum(axis=0)
    return (sums**2 - (smooth**2).sum(axis=0)) / (2 * _pair_count(smooth))


def _pair_count(smooth: np.ndarray) -> float:
    return max(len(smooth) * (len(smooth) - 1) / 2, 1.0)


def _diagonal(theta: np.ndarray, points: Points) -> np.ndarray:
    (linear, additive, joint, _), scales, _ = _split(theta)
    fixed = _MEAN_VARIANCE + _FORESIGHT_VARIANCE * points.foreseen**2
    return (
        fixed + (linear**2 * points.value**2 + additive**2 * points.active) @ scales**2 + joint**2 * (len(scales) > 1)
    )


def _matern(distance: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matern 5/2 and its derivative by the logarithm of the length, `[holes, n, m]`."""
    s = np.sqrt(5) * distance / lengths[:, None, None]
    decay = np.exp(-s)
    return (1 + s + s**2 / 3) * decay, s**2 / 3 * (1 + s) * decay


def _fit(pairs: _Pairs, targets: np.ndarray) -> np.ndarray:
    """The parameters of the largest posterior density, in logarithms."""
    holes = len(pairs.distance)
    medians = [*_PRIOR_MEDIANS, *[_SCALE_PRIOR[0]] * holes, *[_LENGTH_PRIOR[0]] * holes]
    widths = np.array([*_PRIOR_WIDTHS, *[_SCALE_PRIOR[1]] * holes, *[_LENGTH_PRIOR[1]] * holes])
    center = np.log(medians)
    starts = [center]
    noisy = center.copy()
    noisy[3] = np.log(0.4)
    starts.append(noisy)
    found = [
        minimize(
            _energy,
            start,
            args=(pairs, targets, center, widths),
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(center - 3 * widths, center + 3 * widths, strict=True)),
            options={"maxiter": 60},
        )
        for start in starts
    ]
    return min(found, key=lambda result: result.fun).x


def _energy(
    theta: np.ndarray, pairs: _Pairs, targets: np.ndarray, center: np.ndarray, widths: np.ndarray
) -> tuple[float, np.ndarray]:
    """The negative logarithm of the posterior density of `theta`, but for a constant, and its gradient."""
    (linear, additive, joint, _), scales, lengths = _split(theta)
    smooth, slope = _matern(pairs.distance, lengths)
    squares = (scales**2)[:, None, None]
    lines = linear**2 * squares * pairs.product
    curves = additive**2 * squares * pairs.both_active * smooth
    together = joint**2 * _of_pairs(smooth)
    identity = np.eye(len(targets))
    kernel = pairs.fixed + lines.sum(axis=0) + curves.sum(axis=0) + together + _noise(theta) * identity
    factor = cho_factor(kernel, lower=True)
    weights = cho_solve(factor, targets)
    misfit = (theta - center) / widths
    energy = 0.5 * targets @ weights + np.log(np.diag(factor[0])).sum() + 0.5 * misfit @ misfit
    inner = cho_solve(factor, identity) - np.outer(weights, weights)
    others = joint**2 * (smooth.sum(axis=0) - smooth) / _pair_count(smooth)
    by_length = (additive**2 * squares * pairs.both_active + others) * slope
    gradient = np.concatenate(
        [
            [np.sum(inner * part) for part in (lines.sum(axis=0), curves.sum(axis=0), together)],
            [np.exp(2 * theta[3]) * np.trace(inner)],
            np.einsum("nm,hnm->h", inner, lines + curves),
            0.5 * np.einsum("nm,hnm->h", inner, by_length),
        ]
    )
    return float(energy), gradient + misfit / widths
