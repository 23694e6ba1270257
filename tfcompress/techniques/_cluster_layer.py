"""The Keras half of clustering: tfmot's wrapper with a fast assignment.

tfmot materializes the distance of every weight to every centroid in each step, and hands the centroids' gradient
to the optimizer as one sparse entry a weight; on a Dense layer of 400,000 weights this doubles or triples the
training step. Here XLA compiles the comparisons into one pass without intermediate tensors, and the gradient is
summed by segment. Assignments are the same, ties included.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tensorflow_model_optimization.python.core.clustering.keras.cluster_wrapper import ClusterWeights
from tensorflow_model_optimization.python.core.clustering.keras.clustering_algorithm import ClusteringAlgorithm
from tensorflow_model_optimization.python.core.clustering.keras.clustering_registry import ClusteringRegistry

from tfcompress import keras_door as kd
from tfcompress.techniques._centroids import Initialization, initial_centroids, initial_nonzero_centroids
from tfcompress.techniques._substitution import computing_with

tf = kd.tf


def clusterable_weights(layer: Any, *, depthwise: bool) -> tuple[str, ...]:
    """The attributes of `layer` that can be clustered; empty when there are none.

    Args:
        layer: a Keras layer that is built.
        depthwise: count DepthwiseConv2D in, which tfmot's registry leaves out for its loss of accuracy.
    """
    if type(layer) is kd.keras.layers.DepthwiseConv2D:
        return ("depthwise_kernel",) if depthwise else ()
    return tuple(ClusteringRegistry._LAYERS_WEIGHTS_MAP.get(type(layer), ()))


@tf.function(jit_compile=True, autograph=False)
def _nearest(weight: Any, centroids: Any) -> Any:
    best = tf.abs(weight - centroids[..., 0])
    index = tf.zeros_like(weight, tf.int32)
    for k in range(1, centroids.shape[-1]):
        distance = tf.abs(weight - centroids[..., k])
        closer = distance < best
        best = tf.where(closer, distance, best)
        index = tf.where(closer, k, index)
    return index


def _flat(indices: Any, centroids: Any) -> Any:
    """Indices into the flattened `centroids`; those of `[channels, clusters]` belong to the last axis."""
    if centroids.shape.rank == 1:
        return indices
    channels, clusters = centroids.shape
    return indices + clusters * tf.range(channels)


@tf.function(jit_compile=True, autograph=False)
def _look_up(centroids: Any, indices: Any) -> Any:
    return tf.gather(tf.reshape(centroids, [-1]), _flat(indices, centroids))


@tf.function(jit_compile=True, autograph=False)
def _sum_by_centroid(upstream: Any, indices: Any, centroids: Any) -> Any:
    segments = tf.reshape(_flat(indices, centroids), [-1])
    sums = tf.math.unsorted_segment_sum(tf.reshape(upstream, [-1]), segments, centroids.shape.num_elements())
    return tf.reshape(sums, centroids.shape)


class FastClustering(ClusteringAlgorithm):
    """Assigns weights to centroids, and passes gradients to both.

    The gradient of a centroid is the sum over its weights (Han et al., "Deep Compression", 2016, section 3.3); the
    original weight receives the upstream gradient unchanged, so that it may change its cluster.

    Args:
        clusters_centroids: variable `[clusters]`, or `[channels, clusters]` when every output channel (the
            weight's last axis) has its own.
        keep_zeros: add a zero that is not trained as the first centroid, and never move a weight that is zero.
    """

    def __init__(self, clusters_centroids: Any, *, keep_zeros: bool = False) -> None:
        super().__init__(clusters_centroids)
        self.keep_zeros = keep_zeros

    def table(self) -> Any:
        """All centroids, the zero included, as a tensor of the variable's rank."""
        centroids = tf.convert_to_tensor(self.cluster_centroids)
        if not self.keep_zeros:
            return centroids
        return tf.pad(centroids, [[0, 0]] * (centroids.shape.rank - 1) + [[1, 0]])

    def get_pulling_indices(self, weight: Any, centroids: Any = None) -> Any:
        """For each entry of `weight` the index of the nearest centroid, the lowest of several; int32."""
        return _nearest(tf.convert_to_tensor(weight), self.table() if centroids is None else centroids)

    def get_clustered_weight(self, pulling_indices: Any, original_weight: Any) -> Any:
        """The centroids at `pulling_indices`, differentiable in the centroids and in `original_weight`."""

        @tf.custom_gradient
        def clustered(centroids: Any, weight: Any) -> Any:
            def gradient(upstream: Any) -> tuple[Any, Any]:
                moves = tf.where(weight == 0, 0.0, upstream) if self.keep_zeros else upstream
                return _sum_by_centroid(upstream, pulling_indices, centroids), moves

            return _look_up(centroids, pulling_indices), gradient

        return clustered(self.table(), tf.convert_to_tensor(original_weight))


class FastClusterWeights(ClusterWeights):
    """tfmot's `ClusterWeights` on `FastClustering`; the same arguments.

    The layer keeps its own variables, in their order, and its clustered weights take their place only while it is
    called; the wrapper adds the centroids. Assignments follow from the two and are not stored. Centroids start from
    `choose_centroids`, not when the layer is built, so that loading a model does not choose new ones.
    """

    def build(self, input_shape: Any) -> None:
        """Create the layer's variables, if it has none yet, and the centroids, all zero."""
        # Past tfmot's own build, which chooses centroids.
        super(ClusterWeights, self).build(input_shape)
        self.build_input_shape = input_shape
        for name in clusterable_weights(self.layer, depthwise=True):
            weight = self.get_weight_from_layer(name)
            channels = (weight.shape[-1],) if self.cluster_per_channel else ()
            centroids = self.add_weight(
                name=f"cluster_centroids_{name}",
                shape=(*channels, self.number_of_clusters - self.preserve_sparsity),
                initializer="zeros",
            )
            self.original_clusterable_weights[name] = weight
            self.cluster_centroids[name] = centroids
            self.clustering_algorithms[name] = FastClustering(centroids, keep_zeros=self.preserve_sparsity)

    def choose_centroids(self, initialization: Initialization, rng: np.random.Generator) -> None:
        """Set the centroids to suit the weights that the layer has now."""
        choose = initial_nonzero_centroids if self.preserve_sparsity else initial_centroids
        for name, weight in self.original_clusterable_weights.items():
            centroids = self.cluster_centroids[name]
            parts = np.moveaxis(weight.numpy(), -1, 0) if self.cluster_per_channel else [weight.numpy()]
            chosen = [choose(part, centroids.shape[-1], initialization, rng) for part in parts]
            centroids.assign(np.reshape(chosen, centroids.shape))

    def call(self, inputs: Any) -> Any:
        """The layer's output with every clustered weight at its nearest centroid."""
        # tfmot's wrapper replaces the variables for good, and has to put them back in order when it is stripped.
        with computing_with(self.layer, {name: self._clustered(name) for name in self.original_clusterable_weights}):
            return self.layer.call(inputs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The layer's own, so that an Embedding masks as before."""
        return self.layer.compute_mask(inputs, mask)

    def update_clustered_weights_associations(self) -> None:
        """Set each of the layer's weights to its nearest centroid: the last thing to do before the wrapper goes."""
        for name, weight in self.original_clusterable_weights.items():
            weight.assign(self._clustered(name))

    @property
    def trainable_weights(self) -> list[Any]:
        """The layer's own and the centroids; none when the layer is frozen."""
        return super().trainable_weights if self.trainable else []

    @property
    def non_trainable_weights(self) -> list[Any]:
        """All that do not train."""
        fixed = super().non_trainable_weights
        return fixed if self.trainable else fixed + super().trainable_weights

    def _clustered(self, name: str) -> Any:
        algorithm = self.clustering_algorithms[name]
        weight = tf.convert_to_tensor(self.original_clusterable_weights[name])
        return algorithm.get_clustered_weight(algorithm.get_pulling_indices(weight), weight)
