"""Which weights stay: numbers by layer and masks, from scores; plain arrays, without TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Importance = Literal["magnitude", "gradient", "movement", "fisher", "random"]
Distribution = Literal["uniform", "erk", "global", "lamp"]
Regrow = Literal["none", "gradient", "momentum"]

_BISECTIONS = 100
"""More than the bits of a float64."""


def fewest_zeros(sparsity: np.ndarray, count: int) -> np.ndarray:
    """The smallest numbers of zeros of which ``zeros / count >= sparsity`` holds in float64.

    Not in a TensorFlow graph, which multiplies by a rounded ``1 / count`` instead of dividing.

    Args:
        sparsity: float64 in 0...1.
        count: at least 1.

    Returns:
        int32, in the shape of `sparsity`.
    """
    zeros = np.ceil(np.multiply(sparsity, count))
    # The product is rounded, so its ceiling may be one too many (0.07 * 100) or one too few.
    zeros += zeros / count < sparsity
    zeros -= (zeros - 1.0) / count >= sparsity
    return zeros.astype(np.int32)


def erdos_renyi_kernel(
    shapes: Sequence[tuple[int, ...]], sizes: Sequence[int], kept: int, least: Sequence[int]
) -> list[int]:
    """How many weights each layer keeps, in proportion to the sum of its kernel's dimensions.

    Evci et al., "Rigging the Lottery" (2020), section 3: ``1 - s_l`` is proportional to
    ``(n_in + n_out + w + h) / (n_in * n_out * w * h)``, the Erdős–Rényi-Kernel, and layers for which that would exceed
    1 stay dense.

    Args:
        shapes: of the kernels.
        sizes: what can be kept of each: weights, or blocks of equal size.
        kept: of all together.
        least: what each keeps at least; together no more than `kept`.

    Returns:
        Whole numbers of which the sum is `kept`.

    Example:
        >>> erdos_renyi_kernel([(10, 10), (3, 2)], [100, 6], 25, [1, 1])  # eps = 1: 20 + 5
        [20, 5]
        >>> erdos_renyi_kernel([(10, 10), (3, 2)], [100, 6], 46, [1, 1])  # eps = 2: 40, and 10, of which there are 6
        [40, 6]
    """
    weight, most = np.array([sum(shape) for shape in shapes], np.float64), np.array(sizes, np.float64)

    def share(scale: float) -> np.ndarray:
        return np.clip(scale * weight, least, most)

    low, high = 0.0, float((most / weight).max())
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if share(middle).sum() > kept else (middle, high)
    return _rounded(share(high), kept, most)


def _rounded(wanted: np.ndarray, total: int, most: np.ndarray) -> list[int]:
    """Whole numbers near `wanted` whose sum is `total`: those of the largest remainders are rounded up."""
    # A bisection ends a hair beside whole numbers.
    counts = np.floor(wanted + 1e-6)
    for layer in np.argsort(counts - wanted, kind="stable"):
        if counts.sum() < total and counts[layer] < most[layer]:
            counts[layer] += 1
    return [int(count) for count in counts]


def one_threshold(scores: Sequence[np.ndarray], kept: int, least: Sequence[int]) -> list[int]:
    """How many weights each layer keeps when those of the highest scores over all layers stay.

    Args:
        scores: of each layer, comparable between layers; any shape.
        kept: of all together.
        least: what each keeps at least; together no more than `kept`.

    Returns:
        Whole numbers of which the sum is `kept`; of equal scores the first layers' stay.

    Example:
        >>> one_threshold([np.array([9, 8, 7]), np.array([1, 2])], 3, [1, 1])
        [2, 1]
    """
    competing = [np.sort(own, axis=None)[::-1][few:] for own, few in zip(scores, least, strict=True)]
    owner = np.repeat(np.arange(len(scores)), [own.size for own in competing])
    best = np.argsort(-np.concatenate(competing), kind="stable")[: kept - sum(least)]
    return [few + int(more) for few, more in zip(least, np.bincount(owner[best], minlength=len(scores)), strict=True)]


def lamp(magnitudes: np.ndarray) -> np.ndarray:
    """Magnitudes of one layer made comparable between layers: their squares over the squares of all not smaller.

    Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning" (2021), the LAMP score
    ``w_u ** 2 / sum(w_v ** 2 for v >= u)`` of weights in ascending order.

    Example:
        >>> lamp(np.array([1.0, 3.0, 2.0])).round(4).tolist()  # 1/14, 9/9, 4/13
        [0.0714, 1.0, 0.3077]
    """
    squares = np.square(magnitudes, dtype=np.float64).ravel()
    order = np.argsort(squares, kind="stable")
    left = np.cumsum(squares[order][::-1])[::-1]
    scores = np.zeros_like(squares)
    np.divide(squares[order], left, out=left, where=left > 0)
    scores[order] = left
    return scores.reshape(magnitudes.shape)


def best_mask(scores: np.ndarray, kept: int, growth: np.ndarray | None = None, regrown: int = 0) -> np.ndarray:
    """The mask of the `kept` highest scores; some of them make way for the highest of another measure.

    Args:
        scores: any shape; of equal ones the first stay.
        kept: how many stay.
        growth: in the shape of `scores`; what tells which of the others come in.
        regrown: how many of the kept are chosen by `growth`, among all that scores alone do not keep. Defaults to 0.

    Returns:
        Booleans in the shape of `scores`.

    Example:
        >>> best_mask(np.array([5, 4, 3, 0]), 3, growth=np.array([0, 0, 1, 2]), regrown=1)
        array([ True,  True, False,  True])
    """
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores, axis=None, kind="stable")[: kept - regrown]] = True
    if regrown:
        candidates = np.where(mask, -np.inf, growth.ravel())
        mask[np.argsort(-candidates, kind="stable")[:regrown]] = True
    return mask.reshape(scores.shape)


def group_mask(scores: np.ndarray, zeros: int, group: int) -> np.ndarray:
    """The mask without the `zeros` lowest scores of every `group` consecutive input channels, the last axis but one.

    Example:
        >>> group_mask(np.array([[1.0], [2], [3], [0]]), 2, 4).ravel()
        array([False,  True,  True, False])
    """
    rows = np.moveaxis(scores, -2, -1)
    groups = rows.reshape(-1, group)
    mask = np.zeros(groups.shape, bool)
    np.put_along_axis(mask, np.argsort(-groups, axis=1, kind="stable")[:, : group - zeros], True, axis=1)
    return np.moveaxis(mask.reshape(rows.shape), -1, -2)


def pooled(scores: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """The mean score of each block of `[inputs, outputs]`; `scores` themselves where blocks are single weights."""
    height, width = block
    if (height, width) == (1, 1):
        return scores
    rows, columns = scores.shape
    return scores.reshape(rows // height, height, columns // width, width).mean(axis=(1, 3))


def expanded(mask: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """The mask of weights whose blocks have `mask`."""
    return mask if tuple(block) == (1, 1) else np.kron(mask, np.ones(block, bool))
