"""The range of an activation, chosen from what calibration samples show of it.

Two passes over the samples: the first finds each tensor's `Extremes`, the second counts its values in a `Histogram`
between them. Every range holds 0, which integers represent exactly, and is then divided into 255 steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

RangeMethod = Literal["min_max", "percentile", "moving_average", "mse", "entropy"]
Percentile = Annotated[float, Field(ge=90, le=100)]
Range = tuple[float, float]

BINS = 8192
"""Of a histogram: 32 in each of the 255 steps of the whole range."""
DECAY = 0.9
"""Of the moving average of batches: how much of it a new batch leaves."""
STEPS = 255
"""Of an 8-bit range."""

_ON_A_HALF = 1e-3
"""How near to the middle between two steps counts as there, in steps."""
_HAIR = 1 + 2**-10
"""A range so much wider is moved by less than half a step at its ends, and by far more than rounding errors within."""

_COARSE = np.arange(1, 33) / 32
_FINE = np.linspace(-1, 1, 9)
_REFINEMENTS = 3
_ENTROPY_BINS = 2048
_ENTROPY_STRIDE = 8


DEFAULT_PERCENTILE = 99.99
"""Of the values of an activation, at either end."""


def percentile_problems(ranges: RangeMethod, percentile: float) -> list[str]:
    """Why a recipe's `percentile` cannot stand beside its `ranges`; nothing when it can."""
    if ranges == "percentile" or percentile == DEFAULT_PERCENTILE:
        return []
    return [
        f"percentile is the value of ranges: percentile. Received: percentile={percentile} with ranges={ranges}. "
        "Remedy: remove it, or set ranges to percentile"
    ]


@dataclass(frozen=True)
class RangeChoice:
    """How the ranges of activations are chosen.

    Args:
        method: ``min_max`` holds every value; ``percentile`` leaves out a share at each end; ``moving_average`` is the
            average over batches of their least and largest values (Jacob et al. 2018, section 3.1); ``mse`` has the
            least mean squared rounding and clipping error, found by search (Choukroun et al., "Low-bit Quantization
            of Neural Networks for Efficient Inference", 2019; Banner et al., "Post training 4-bit quantization of
            convolutional networks for rapid-deployment", 2019, find it for assumed distributions); ``entropy`` has
            the least Kullback-Leibler divergence (Migacz, "8-bit Inference with TensorRT", 2017).
        percentile: of the values at either end, for that method.
    """

    method: RangeMethod = "min_max"
    percentile: float = DEFAULT_PERCENTILE

    def of(self, extremes: Extremes, histogram: Histogram | None) -> Range:
        """The least and the largest value to represent; `histogram` is not needed where `needs_histogram` is false."""
        if self.method == "min_max":
            return extremes.low, extremes.high
        if self.method == "moving_average":
            return extremes.average_low, extremes.average_high
        if self.method == "percentile":
            return by_percentile(histogram, self.percentile)
        return by_squared_error(histogram) if self.method == "mse" else by_entropy(histogram)

    @property
    def needs_histogram(self) -> bool:
        """Whether extremes alone do not tell."""
        return self.method in ("percentile", "mse", "entropy")


MIN_MAX = RangeChoice()
"""Ranges that hold every value."""


class Extremes:
    """The least and the largest value of a tensor, 0 included, over all batches and as an average over them."""

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self.average_low = self.average_high = 0.0
        self._batches = 0

    def observe(self, values: np.ndarray) -> None:
        """Take in one batch."""
        low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
        self.low, self.high = min(self.low, low), max(self.high, high)
        kept = DECAY if self._batches else 0.0
        self.average_low = kept * self.average_low + (1 - kept) * low
        self.average_high = kept * self.average_high + (1 - kept) * high
        self._batches += 1


class Histogram:
    """How often a tensor takes which values.

    Args:
        low: the least value it will take, at most 0.
        high: the largest, at least 0 and above `low`.
    """

    def __init__(self, low: float, high: float) -> None:
        self.edges = np.linspace(low, high, BINS + 1)
        """Of the bins, `[BINS + 1]`."""
        self.counts = np.zeros(BINS, np.int64)
        """Of values other than 0, which every range represents exactly, `[BINS]`."""
        self.zeros = 0
        """The count of 0, of which a ReLU gives many."""

    def observe(self, values: np.ndarray) -> None:
        """Take in one batch."""
        others = values[values != 0]
        self.zeros += values.size - others.size
        self.counts += np.histogram(others, BINS, (self.edges[0], self.edges[-1]))[0]

    @property
    def centers(self) -> np.ndarray:
        """Of the bins, `[BINS]`."""
        return (self.edges[:-1] + self.edges[1:]) / 2

    @property
    def all_counts(self) -> np.ndarray:
        """Of all values, 0 among them, `[BINS]`."""
        counts = self.counts.copy()
        counts[min(int(np.searchsorted(self.edges, 0, side="right")) - 1, BINS - 1)] += self.zeros
        return counts


def by_percentile(histogram: Histogram, percentile: float) -> Range:
    """The narrowest range of whole bins beyond whose ends lie at most ``100 - percentile`` percent of values each."""
    counts, edges = histogram.all_counts, histogram.edges
    # A hair more, because 100 - 99.9 is a hair less than 0.1.
    beyond = (100 - percentile) / 100 * counts.sum() + 1e-6
    first = int(np.searchsorted(np.cumsum(counts), beyond, side="right"))
    last = BINS - int(np.searchsorted(np.cumsum(counts[::-1]), beyond, side="right"))
    return min(float(edges[min(first, BINS)]), 0.0), max(float(edges[max(last, 0)]), 0.0)


def by_squared_error(histogram: Histogram) -> Range:
    """The range with the least mean squared difference between values and their 8-bit form.

    Both ends are searched together over a grid of shares of the whole range, then ever closer about the best.
    """
    low, high = float(histogram.edges[0]), float(histogram.edges[-1])
    filled = histogram.counts > 0
    values, counts = histogram.centers[filled], histogram.counts[filled]
    best, width = _least_error(values, counts, low * _COARSE, high * _COARSE), _COARSE[0]
    for _ in range(_REFINEMENTS):
        lows = np.clip(best[0] + low * width * _FINE, low, 0)
        highs = np.clip(best[1] + high * width * _FINE, 0, high)
        best = _least_error(values, counts, lows, highs)
        width *= _FINE[1] - _FINE[0]
    return best


def _least_error(values: np.ndarray, counts: np.ndarray, lows: np.ndarray, highs: np.ndarray) -> Range:
    pairs = [(float(low), float(high)) for low in np.unique(lows) for high in np.unique(highs) if high > low]
    errors = [float(counts @ np.square(values - rounded(values, low, high))) for low, high in pairs]
    return pairs[int(np.argmin(errors))]


def rounded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """`values` in the 8-bit form of a range from `low` to `high`, moved so that 0 is a level."""
    step = (high - low) / STEPS
    zero = np.round(-low / step)
    return np.clip(np.round(values / step), -zero, STEPS - zero) * step


def off_the_halves(values: np.ndarray, low: float, high: float) -> Range:
    """The range itself, or one a hair wider where most of `values` lie exactly between two of its steps.

    Pixels fed as ``(p - 127.5) / 127.5`` do in the range from -1 to 1. Which of its neighbours such a value is rounded
    to depends on the last bit of who computes it: training and file differ by a step in half of them.

    Example:
        >>> off_the_halves((np.arange(256) - 127.5) / 127.5, -1.0, 1.0)
        (-1.0009765625, 1.0009765625)
    """
    places = np.abs(np.asarray(values, np.float64)) / ((high - low) / STEPS)
    between = np.abs(places - np.floor(places) - 0.5) < _ON_A_HALF
    return (low * _HAIR, high * _HAIR) if between.mean() > 0.5 else (low, high)


def by_entropy(histogram: Histogram) -> Range:
    """The range whose 8-bit form tells least apart from the values by their distribution.

    Migacz 2017: the reference is the distribution with what is clipped counted at the ends; the candidate has the
    mass of each level spread evenly over the bins of the level that are not empty. Both ends move inwards together,
    an end nearer to 0 than the other only when it is reached. Zeros are left out: they would hide all else.
    """
    width = BINS // _ENTROPY_BINS
    counts = histogram.counts.reshape(-1, width).sum(1).astype(np.float64)
    edges = histogram.edges[::width]
    low, high = float(edges[0]), float(edges[-1])
    largest = max(-low, high)
    best, found = np.inf, (low, high)
    for bound in np.linspace(0, largest, _ENTROPY_BINS // _ENTROPY_STRIDE + 1)[1:]:
        ends = max(low, -float(bound)), min(high, float(bound))
        # With fewer bins than levels, every level is one bin, and nothing would be lost inside.
        if ends[1] - ends[0] >= (high - low) * (STEPS + 1) / _ENTROPY_BINS:
            apart = _divergence(counts, edges, *ends)
            if apart <= best:
                best, found = apart, ends
    return found


def _divergence(counts: np.ndarray, edges: np.ndarray, low: float, high: float) -> float:
    """The Kullback-Leibler divergence of the 8-bit form of a range from the values, in nats."""
    centers = (edges[:-1] + edges[1:]) / 2
    inside = (centers >= low) & (centers <= high)
    kept = counts[inside]
    reference = kept.copy()
    reference[0] += counts[centers < low].sum()
    reference[-1] += counts[centers > high].sum()
    step = (high - low) / STEPS
    levels = np.round(centers[inside] / step).astype(np.int64)
    levels -= levels[0]
    mass, bins = np.bincount(levels, kept), np.bincount(levels, kept > 0)
    candidate = np.where(kept > 0, (mass / np.maximum(bins, 1))[levels], 0)
    # An end that only what is clipped has filled is taken to hold one value, and not to be impossible.
    candidate = np.where(reference > 0, np.maximum(candidate, 1), 0)
    p, q = reference / reference.sum(), candidate / candidate.sum()
    filled = p > 0
    return float(np.sum(p[filled] * np.log(p[filled] / q[filled])))
