"""Where centroids start: four ways to choose the values that a weight tensor will share.

They are those of tfmot's clustering, which seeds one of them with a constant, another not at all, and fails on a
tensor (or channel) with fewer values than centroids; a pruned channel is often one.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from tfcompress import keras_door as kd

Initialization = Literal["linear", "random", "density_based", "kmeans_plus_plus"]


def initial_centroids(
    values: np.ndarray, clusters: int, method: Initialization, rng: np.random.Generator
) -> np.ndarray:
    """`clusters` centroids for `values`, ascending. Up to that many different values are kept as they are.

    Args:
        values: the weights, any shape, float32.
        clusters: how many centroids, at least 1.
        method: ``linear`` - evenly spaced from the smallest value to the largest;
            ``random`` - uniformly drawn from that range;
            ``density_based`` - evenly spaced in the cumulative distribution, so that each gets equally many;
            ``kmeans_plus_plus`` - drawn from the values, far from the ones drawn already, as Arthur and
            Vassilvitskii, "k-means++: the advantages of careful seeding" (2007).
        rng: source of randomness for the two methods that draw.

    Returns:
        float32 `[clusters]`; with fewer different values than that, the last is repeated.

    Example:
        >>> initial_centroids(np.float32([0, 1, 1, 4]), 5, "linear", np.random.default_rng(0)).tolist()
        [0.0, 1.0, 4.0, 4.0, 4.0]
    """
    different = np.unique(values)
    if different.size == 0:
        return np.zeros(clusters, np.float32)
    if different.size <= clusters:
        return np.pad(different, (0, clusters - different.size), mode="edge").astype(np.float32)
    if method == "linear":
        chosen = np.linspace(different[0], different[-1], clusters)
    elif method == "random":
        chosen = rng.uniform(different[0], different[-1], clusters)
    elif method == "density_based":
        chosen = np.quantile(values, (np.arange(clusters) + 0.5) / clusters)
    else:
        chosen = kd.tf.raw_ops.KmeansPlusPlusInitialization(
            points=values.reshape(-1, 1).astype(np.float32),
            num_to_sample=clusters,
            seed=int(rng.integers(1, 2**31)),
            # -1: the op's own number of candidates for each draw, 2 + log(clusters).
            num_retries_per_sample=-1,
        ).numpy()
    return np.sort(chosen, axis=None).astype(np.float32)


def initial_nonzero_centroids(
    values: np.ndarray, clusters: int, method: Initialization, rng: np.random.Generator
) -> np.ndarray:
    """`clusters` centroids for the values that are not zero, shared out between the signs in proportion.

    Each sign that occurs gets at least one. The zero itself is not among them: the caller keeps it.

    Args:
        values: the weights, any shape, float32.
        clusters: how many centroids, at least 2.
        method: as in `initial_centroids`.
        rng: source of randomness.

    Returns:
        float32 `[clusters]`, ascending.
    """
    negative, positive = values[values < 0], values[values > 0]
    if not (negative.size and positive.size):
        return initial_centroids(values[values != 0], clusters, method, rng)
    share = negative.size / (negative.size + positive.size)
    below = int(np.clip(round(clusters * share), 1, clusters - 1))
    return np.concatenate(
        [
            initial_centroids(negative, below, method, rng),
            initial_centroids(positive, clusters - below, method, rng),
        ]
    )
