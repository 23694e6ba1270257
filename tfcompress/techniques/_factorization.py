"""Kernels as chains of smaller ones, by truncated singular value decompositions: plain arrays, without TensorFlow.

Every kernel is `[height, width, inputs, outputs]`; that of a Dense layer has height and width 1. A chain of kernels
stands for convolutions one after the other, without a bias or an activation between them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import ClassVar, Literal

import numpy as np

Method = Literal["svd", "spatial_svd", "tucker2"]
Ranks = tuple[int, ...]
Windows = tuple[tuple[bool, bool], ...]
_SWEEPS = 10


@dataclass(frozen=True, eq=False)
class Factors:
    """What a layer is replaced by.

    Args:
        kernels: of the layers one after the other, each `[height, width, inputs, outputs]`.
        windows: for each of them, whether it slides over the height and over the width.
        bias: of the last one, `[outputs]`; None for the one that the layer had.
    """

    kernels: tuple[np.ndarray, ...]
    windows: Windows
    bias: np.ndarray | None = None


class Factorization(ABC):
    """One way to factor one kernel, at any ranks.

    Args:
        kernel: `[height, width, inputs, outputs]`.
    """

    windows: ClassVar[Windows]
    """See `Factors`."""
    full_ranks: Ranks
    """The ranks at which nothing is lost."""

    def __init__(self, kernel: np.ndarray) -> None:
        self._kernel = np.asarray(kernel, np.float64)
        self.size = self._kernel.shape

    @abstractmethod
    def shapes(self, *ranks: int | np.ndarray) -> tuple[tuple[int | np.ndarray, ...], ...]:
        """The shapes of the kernels at `ranks`, which may be arrays."""

    @abstractmethod
    def kept(self, *ranks: int | np.ndarray) -> float | np.ndarray:
        """The share of the energy, of the squares of what is factored, that stays at `ranks`, which may be arrays."""

    @abstractmethod
    def factors(self, *ranks: int) -> Factors:
        """The kernels at `ranks`, float64."""

    def ranks_of(self, multiple_of: int) -> tuple[np.ndarray, ...]:
        """All combinations of ranks that are a multiple, or full: for each rank an int array, `[combinations]`."""
        axes = [np.append(np.arange(multiple_of, full, multiple_of), full) for full in self.full_ranks]
        return tuple(axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))


class _Product(Factorization):
    """The kernel as a matrix that is a product of two, with the energy of each component between them."""

    @abstractmethod
    def _decomposed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Energies `[rank]`, falling, and the two matrices, `[rows, rank]` and `[rank, columns]`."""

    @abstractmethod
    def _folded(self, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The two matrices as kernels."""

    @cached_property
    def _parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self._decomposed()

    def kept(self, *ranks: int | np.ndarray) -> float | np.ndarray:
        (rank,) = ranks
        return _shares(np.cumsum(self._parts[0]))[np.asarray(rank) - 1]

    def factors(self, *ranks: int) -> Factors:
        (rank,) = ranks
        _, left, right = self._parts
        scale = _balance(_norms(left[:, :rank], 1), _norms(right[:rank], 0))
        return Factors(self._folded(left[:, :rank] * scale, right[:rank] / scale[:, None]), self.windows)


class Svd(_Product):
    """A kernel with fewer outputs, then a 1x1 one: of a Dense or 1x1 kernel, its singular value decomposition.

    Denton et al., "Exploiting Linear Structure Within Convolutional Networks for Efficient Evaluation" (2014), section
    3.2.1: of ``W = U S V^T`` the largest singular values stay. Of larger kernels, Zhang et al. (2016, see
    `ResponsePca`), where nothing is known of the inputs.
    """

    windows = ((True, True), (False, False))

    def __init__(self, kernel: np.ndarray) -> None:
        super().__init__(kernel)
        self._matrix = self._kernel.reshape(-1, self.size[-1])
        self.full_ranks = (min(self._matrix.shape),)

    def shapes(self, *ranks: int | np.ndarray) -> tuple[tuple[int | np.ndarray, ...], ...]:
        (rank,) = ranks
        return (*self.size[:3], rank), (1, 1, rank, self.size[3])

    def _decomposed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return _decomposed(self._matrix)

    def _folded(self, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return left.reshape(*self.size[:3], -1), right[None, None]


class ResponsePca(Svd):
    """A kernel with fewer outputs, then a 1x1 one, that lose the least of a layer's responses to given data.

    Zhang et al., "Accelerating Very Deep Convolutional Networks for Classification and Detection" (2016), "Low-rank
    Approximation of Responses": the M of a given rank for which ``y - mean(y)`` is nearest to ``M (y - mean(y))`` in
    the mean of squares is ``U U^T``, where U holds the leading eigenvectors of the covariance of the responses y. The
    kernels are those of ``U^T W`` and ``U``, and the bias is ``M c + mean(y) - M mean(y)``, where c is the layer's.

    Args:
        kernel: `[height, width, inputs, outputs]`.
        bias: of the layer, `[outputs]`; zeros where it has none.
        mean: of the responses, before the activation, `[outputs]`.
        covariance: likewise, `[outputs, outputs]`.
    """

    def __init__(self, kernel: np.ndarray, bias: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> None:
        super().__init__(kernel)
        self._bias, self._mean, self._covariance = bias, mean, covariance

    def factors(self, *ranks: int) -> Factors:
        (rank,) = ranks
        space = self._parts[2][:rank]
        # M times the bias comes with the kernel's own responses, which have none.
        bias = self._mean - (self._mean - self._bias) @ space.T @ space
        return Factors(super().factors(rank).kernels, self.windows, bias)

    def _decomposed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        energies, vectors = _leading(self._covariance)
        # Responses to fewer inputs than there are outputs lie in a smaller space anyway.
        count = self.full_ranks[0]
        return energies[:count], self._matrix @ vectors[:, :count], vectors[:, :count].T


class SpatialSvd(_Product):
    """A kernel one pixel wide, then one that is one pixel high.

    Jaderberg et al., "Speeding up Convolutional Neural Networks with Low Rank Expansions" (2014), scheme 2:
    ``W[h, w, i, o] = sum_r V[h, i, r] H[w, r, o]``; in the closed form of Tai et al., "Convolutional neural networks
    with low-rank regularization" (2016), by the singular value decomposition of W as a matrix of (h, i) by (w, o).
    """

    windows = ((True, False), (False, True))

    def __init__(self, kernel: np.ndarray) -> None:
        super().__init__(kernel)
        height, width, inputs, outputs = self.size
        self._matrix = self._kernel.transpose(0, 2, 1, 3).reshape(height * inputs, width * outputs)
        self.full_ranks = (min(self._matrix.shape),)

    def shapes(self, *ranks: int | np.ndarray) -> tuple[tuple[int | np.ndarray, ...], ...]:
        (rank,) = ranks
        height, width, inputs, outputs = self.size
        return (height, 1, inputs, rank), (1, width, rank, outputs)

    def _decomposed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return _decomposed(self._matrix)

    def _folded(self, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        height, width, inputs, outputs = self.size
        return (
            left.reshape(height, 1, inputs, -1),
            right.reshape(-1, width, outputs).transpose(1, 0, 2)[None],
        )


class Tucker2(Factorization):
    """A 1x1 kernel to fewer inputs, a small kernel, and a 1x1 kernel to all outputs; a rank for inputs and outputs.

    Where a rank is the number of inputs or outputs itself, its 1x1 kernel is left out (Tucker-1).

    Kim et al., "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications" (2016):
    ``W[h, w, i, o] = sum_ab C[h, w, a, b] U[i, a] V[o, b]``. U and V are those of the higher-order singular value
    decomposition, made better for the ranks at hand by higher-order orthogonal iteration (De Lathauwer et al., "On the
    best rank-1 and rank-(R1, ..., RN) approximation of higher-order tensors", 2000). The energy kept is at least that
    of the former, which is told.
    """

    windows = ((False, False), (True, True), (False, False))

    def __init__(self, kernel: np.ndarray) -> None:
        super().__init__(kernel)
        height, width, inputs, outputs = self.size
        self.full_ranks = (min(inputs, height * width * outputs), min(outputs, height * width * inputs))

    def shapes(self, *ranks: int | np.ndarray) -> tuple[tuple[int | np.ndarray, ...], ...]:
        taken, made = ranks
        height, width, inputs, outputs = self.size
        first = (1, 1, inputs, np.where(np.equal(taken, inputs), 0, taken))
        last = (1, 1, np.where(np.equal(made, outputs), 0, made), outputs)
        return first, (height, width, taken, made), last

    def kept(self, *ranks: int | np.ndarray) -> float | np.ndarray:
        taken, made = ranks
        return self._table[np.asarray(taken) - 1, np.asarray(made) - 1]

    def factors(self, *ranks: int) -> Factors:
        first, last = self._improved(*ranks)
        core = first.T @ self._kernel @ last
        kernels, windows = [core], [(True, True)]
        if ranks[0] < self.size[2]:
            scale = _balance(_norms(first, 1), _norms(core, 2))
            kernels = [(first * scale)[None, None], core / scale[:, None]]
            windows = [(False, False), *windows]
        if ranks[1] < self.size[3]:
            scale = _balance(_norms(kernels[-1], 3), _norms(last, 1))
            kernels = [*kernels[:-1], kernels[-1] * scale, (last / scale).T[None, None]]
            windows = [*windows, (False, False)]
        return Factors(tuple(kernels), tuple(windows))

    def _improved(self, taken: int, made: int) -> tuple[np.ndarray, np.ndarray]:
        """The spaces at these ranks after sweeps of higher-order orthogonal iteration: each for the other in turn."""
        last = self._spaces[1][:, :made]
        for _ in range(_SWEEPS):
            first = _space(_gram(self._kernel @ last, 2), taken)
            last = _space(_gram(first.T @ self._kernel, 3), made)
        return first, last

    @cached_property
    def _spaces(self) -> tuple[np.ndarray, np.ndarray]:
        """Orthonormal directions of inputs and of outputs, by falling energy: `[inputs, rank]`, `[outputs, rank]`."""
        first, last = (_leading(_gram(self._kernel, axis))[1] for axis in (2, 3))
        return first[:, : self.full_ranks[0]], last[:, : self.full_ranks[1]]

    @cached_property
    def _table(self) -> np.ndarray:
        """The share of the energy at every pair of ranks: that of a corner of the whole core."""
        first, last = self._spaces
        core = first.T @ self._kernel @ last
        return _shares((core**2).sum(axis=(0, 1)).cumsum(axis=0).cumsum(axis=1))


def composed(kernels: Sequence[np.ndarray]) -> np.ndarray:
    """The one kernel that does what `kernels` do in turn, of which at most one slides along each axis."""

    def joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        sizes = (a * b for a, b in zip(first.shape[:2], second.shape[:2], strict=True))
        both = np.tensordot(first, second, axes=(3, 2)).transpose(0, 3, 1, 4, 2, 5)
        return both.reshape(*sizes, first.shape[2], second.shape[3])

    return reduce(joined, kernels)


def _decomposed(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The squared singular values of `matrix`, falling, and two matrices whose product it is, from the smaller side.

    From the Gram matrix, which of a long matrix takes a fraction of the time and memory: its error, the square root
    of float64's, is that of float32 weights themselves.
    """
    if matrix.shape[0] >= matrix.shape[1]:
        energies, vectors = _leading(matrix.T @ matrix)
        return energies, matrix @ vectors, vectors.T
    energies, vectors = _leading(matrix @ matrix.T)
    return energies, vectors, vectors.T @ matrix


def _leading(symmetric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, falling and none below 0, and eigenvectors `[size, size]`."""
    values, vectors = np.linalg.eigh(symmetric)
    return np.maximum(values[::-1], 0), vectors[:, ::-1]


def _space(gram: np.ndarray, rank: int) -> np.ndarray:
    """The leading directions `[size, rank]`; where that is all of them, the ones that there are."""
    return np.eye(rank) if rank == len(gram) else _leading(gram)[1][:, :rank]


def _gram(kernel: np.ndarray, axis: int) -> np.ndarray:
    """The inner products of the slices of `kernel` along `axis`."""
    slices = np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1)
    return slices @ slices.T


def _shares(energies: np.ndarray) -> np.ndarray:
    """Cumulated `energies` as shares of the whole; of nothing, all is kept."""
    whole = energies.flat[-1]
    return energies / whole if whole > 0 else np.ones_like(energies)


def _norms(kernel: np.ndarray, axis: int) -> np.ndarray:
    """The Euclidean norm of every slice of `kernel` along `axis`."""
    return np.linalg.norm(np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1), axis=1)


def _balance(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """What to multiply the components of one kernel by, and divide those of the next by, for equal norms of both.

    Factors of one size learn at one rate, and 8-bit ranges waste the least on them.
    """
    return np.sqrt(np.divide(after, before, out=np.ones_like(after), where=(before > 0) & (after > 0)))
