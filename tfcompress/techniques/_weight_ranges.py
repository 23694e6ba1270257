"""The range of a weight, narrower than its largest magnitude where that rounds better."""

from __future__ import annotations

from typing import Literal

import numpy as np

WeightRanges = Literal["min_max", "mse"]

_SHARES = np.arange(5, 101) / 100


def clipped_by_squared_error(weight: np.ndarray, bits: int, channel_axes: int) -> np.ndarray:
    """`weight` clipped to the symmetric range in which its `bits`-bit form has the least squared error.

    A grid that is laid out by the largest magnitude then has this range. Of the shares 5...100 % of the largest
    magnitude the best is taken, for each channel (Choukroun et al., "Low-bit Quantization of Neural Networks for
    Efficient Inference", 2019, equation 4).

    Args:
        weight: of any shape.
        bits: width of the grid.
        channel_axes: how many of the last axes number the channels, each with a range of its own; 0 for one range.
    """
    axes = tuple(range(weight.ndim - channel_axes))
    largest = np.abs(weight).max(axes, keepdims=True)
    largest = np.where(largest > 0, largest, 1).astype(weight.dtype)
    best, share = np.full(largest.shape, np.inf), np.ones_like(largest)
    # From the whole range downwards: of equals, the one that clips less.
    for tried in _SHARES[::-1]:
        limit = largest * np.float32(tried)
        step = limit / (2 ** (bits - 1) - 1)
        error = np.square(np.round(np.clip(weight, -limit, limit) / step) * step - weight).sum(axes, keepdims=True)
        better = error < best
        best, share = np.where(better, error, best), np.where(better, np.float32(tried), share)
    return np.clip(weight, -largest * share, largest * share)
