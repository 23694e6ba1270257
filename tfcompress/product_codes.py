"""Product codes: an array written as short indices into a few sub-vectors, and read back.

Jégou, Douze and Schmid, "Product quantization for nearest neighbor search" (2011), for the weights of networks as Gong
et al., "Compressing deep convolutional networks using vector quantization" (2014), and Wu et al., "Quantized
convolutional neural networks for mobile devices" (2016). Plain NumPy arrays; no TensorFlow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Codebook = Literal["layer", "subspace"]

_ROUNDS, _SAMPLES_OF_A_WORD = 25, 256
"""What k-means takes at most, as in Faiss: rounds, and sub-vectors for each code word; more move centres little."""


@dataclass(frozen=True)
class ProductCode:
    """An array of `n` values along `axis`, in sub-vectors of `block` of them.

    Args:
        codes: which code word each sub-vector is, uint8 or uint16 `[..., n / block]`: the array's shape, `axis` last.
        codebooks: float32 `[1, codewords, block]`, or `[n / block, codewords, block]` when every place along `axis` (a
            sub-space) has its own.
        axis: of the array.

    Example:
        >>> codes, codebooks = np.uint8([[0, 1], [1, 1]]), np.float32([[[1, 2], [3, 4]]])
        >>> ProductCode(codes, codebooks).decode().tolist()
        [[1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 3.0, 4.0]]
    """

    codes: np.ndarray
    codebooks: np.ndarray
    axis: int = -1

    def decode(self) -> np.ndarray:
        """The array that is written: every sub-vector its code word, float32."""
        books, words, block = self.codebooks.shape
        table = self.codebooks.reshape(-1, block)
        found = table[self.codes.astype(np.int64) + words * (np.arange(self.codes.shape[-1]) % books)]
        return np.moveaxis(found.reshape(*self.codes.shape[:-1], -1), -1, self.axis)

    def relative_error(self, values: np.ndarray) -> float:
        """The squared distance of `values` from what is written, as a share of their own squared length."""
        values = values.astype(np.float64)
        return float(np.sum((values - self.decode()) ** 2) / max(np.sum(values**2), np.finfo(np.float64).tiny))


def sub_vectors(values: np.ndarray, block: int, axis: int = -1) -> np.ndarray:
    """`values` in sub-vectors of `block` consecutive ones along `axis`: `[..., n / block, block]`, `axis` last.

    Raises:
        ValueError: `block` does not divide the `n` values along `axis`.

    Example:
        >>> sub_vectors(np.arange(8).reshape(4, 2), 2, axis=0).tolist()
        [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]
    """
    moved = np.moveaxis(values, axis, -1)
    if moved.shape[-1] % block:
        raise ValueError(f"block must divide the values along the axis. Received: {block} and {moved.shape[-1]}")
    return moved.reshape(*moved.shape[:-1], -1, block)


def learn(
    values: np.ndarray, block: int, codewords: int, *, codebook: Codebook = "layer", axis: int = -1, seed: int = 0
) -> ProductCode:
    """Choose code words for `values` by k-means, and write `values` with them.

    Lloyd's algorithm from k-means++ starts, on a sample where there are very many sub-vectors, on one thread: the same
    seed gives the same bits on the same machine. No more different sub-vectors than code words are kept as they are.

    Args:
        values: the array, any shape.
        block: values in a sub-vector; divides the length of `axis`.
        codewords: sub-vectors in a codebook, 1...65,536.
        codebook: `layer`, one for all, or `subspace`, one for each place along `axis`. Defaults to `layer`.
        axis: along which sub-vectors lie. Defaults to the last.
        seed: of the starts.

    Example:
        >>> learn(np.float32([[1, 2, 1, 2], [5, 6, 1, 2]]), 2, 2).decode().tolist()
        [[1.0, 2.0, 1.0, 2.0], [5.0, 6.0, 1.0, 2.0]]
    """
    vectors = sub_vectors(values, block, axis)
    parts = [vectors] if codebook == "layer" else np.moveaxis(vectors, -2, 0)
    seeds = np.random.SeedSequence(seed).generate_state(len(parts))
    chosen = [_centers(part.reshape(-1, block), codewords, int(s)) for part, s in zip(parts, seeds, strict=True)]
    return encode(values, np.stack(chosen), axis=axis)


def encode(values: np.ndarray, codebooks: np.ndarray, *, axis: int = -1) -> ProductCode:
    """Write `values` with given `codebooks`: every sub-vector as the nearest code word, by Euclidean distance.

    Args:
        values: the array, any shape.
        codebooks: as in `ProductCode`.
        axis: along which sub-vectors lie. Defaults to the last.
    """
    from scipy.spatial import KDTree

    books, words, block = codebooks.shape
    vectors = sub_vectors(values, block, axis)
    places = vectors.shape[-2]
    codes = np.empty(vectors.shape[:-1], np.uint8 if words <= 256 else np.uint16)
    for place in range(books):
        # One codebook serves all places; of several, each serves its own.
        own = slice(place, place + 1) if books > 1 else slice(0, places)
        codes[..., own] = KDTree(codebooks[place]).query(vectors[..., own, :])[1]
    return ProductCode(codes, codebooks.astype(np.float32), axis)


def _centers(vectors: np.ndarray, codewords: int, seed: int) -> np.ndarray:
    """`codewords` centres for `vectors` `[n, block]`, float32."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    different = np.unique(vectors, axis=0)
    if len(different) <= codewords:
        return np.pad(different, ((0, codewords - len(different)), (0, 0)), mode="edge").astype(np.float32)
    random = np.random.default_rng(seed)
    if len(vectors) > _SAMPLES_OF_A_WORD * codewords:
        vectors = random.choice(vectors, _SAMPLES_OF_A_WORD * codewords, replace=False)
    # Several threads would add up their parts of a mean in the order in which they end.
    with threadpool_limits(limits=1):
        fitted = KMeans(codewords, n_init=1, max_iter=_ROUNDS, random_state=int(random.integers(2**32))).fit(vectors)
    return fitted.cluster_centers_.astype(np.float32)
