"""The factor of each channel between two layers that makes both use their ranges alike: plain numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tfcompress.techniques._layer_pairs import LayerPair

_CONVERGED = 1e-3
_MOST_SWEEPS = 100
_NEGLIGIBLE = 1e-6
"""Channels whose weights are this much smaller than the layer's largest count as zero: no factor could make of the
rounding errors in them a channel worth its place in the range."""


def balance(pairs: Sequence[LayerPair], kernels: Mapping[str, np.ndarray], biases: Mapping[str, np.ndarray]) -> None:
    """Scale, in place, the channels between the layers of each pair until none changes by more than a thousandth.

    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), equations 8 to 11:
    with the ranges r1 and r2 of a channel in both kernels, what the first makes is divided by s = sqrt(r1 r2) / r2, and
    what the second takes is multiplied by it; both ranges become sqrt(r1 r2). Pairs that share a layer are gone through
    again and again, as in their section 4.1.2. A channel without weights on one side stays.

    Args:
        pairs: of layers.
        kernels: of these layers, float64 `[..., inputs, outputs]`; of a depthwise convolution
            `[height, width, channels, multiplier]`.
        biases: of the first layers, where they have one, float64 `[channels]`.
    """
    for _ in range(_MOST_SWEEPS):
        changes = [_balance_pair(pair, kernels, biases.get(pair.first)) for pair in pairs]
        if max(changes, default=0.0) < _CONVERGED:
            return


def _balance_pair(pair: LayerPair, kernels: Mapping[str, np.ndarray], bias: np.ndarray | None) -> float:
    """Balance one pair; gives the largest relative change of a weight."""
    first, second = kernels[pair.first], kernels[pair.second]
    size = int(pair.channels.max()) + 1
    made = np.abs(first).reshape(-1, size).max(axis=0)
    taken = np.zeros(size)
    np.maximum.at(
        taken, pair.channels, np.abs(second).max(axis=tuple(i for i in range(second.ndim) if i != second.ndim - 2))
    )
    alive = (made > _NEGLIGIBLE * made.max()) & (taken > _NEGLIGIBLE * taken.max())
    factor = np.ones(size)
    factor[alive] = np.sqrt(made[alive] * taken[alive]) / taken[alive]
    # The outputs of a depthwise kernel are numbered by its last two axes.
    first /= factor.reshape(first.shape[-2:]) if first.shape[-1] != size else factor
    second *= factor[pair.channels][:, None]
    if bias is not None:
        bias /= factor
    return float(np.abs(np.log(factor)).max())
