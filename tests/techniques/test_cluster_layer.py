import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow_model_optimization.python.core.clustering.keras import clustering_algorithm

from tfcompress import keras_door as kd
from tfcompress.techniques._cluster_layer import FastClustering, FastClusterWeights, clusterable_weights

tf = kd.tf
# Multiples of a power of two: differences are exact, and equal distances and equal centroids frequent.
COARSE = st.integers(-12, 12).map(lambda i: i / 8)


def coarse(*shape):
    return hnp.arrays(np.float32, shape, elements=COARSE)


def tfmot_algorithm(centroids):
    cls = clustering_algorithm.ClusteringAlgorithm
    if centroids.shape.rank == 2:
        cls = clustering_algorithm.ClusteringAlgorithmPerChannel
    return cls(centroids, data_format="channels_last")


@settings(max_examples=60, deadline=None)
@given(coarse(7, 6), coarse(5))
def test_indices_are_the_nearest_centroids_ties_to_the_lowest(weight, centroids):
    indices = FastClustering(tf.Variable(centroids)).get_pulling_indices(tf.Variable(weight))
    assert np.array_equal(indices, np.abs(weight[..., None] - centroids).argmin(-1))
    assert np.array_equal(indices, tfmot_algorithm(tf.Variable(centroids)).get_pulling_indices(weight))


@settings(max_examples=30, deadline=None)
@given(coarse(2, 2, 3, 4), coarse(4, 5))
def test_indices_by_channel_are_tfmots(weight, centroids):
    indices = FastClustering(tf.Variable(centroids)).get_pulling_indices(weight)
    assert np.array_equal(indices, tfmot_algorithm(tf.Variable(centroids)).get_pulling_indices(weight))


@pytest.mark.parametrize("clusters", [2, 16, 64])
def test_indices_on_dense_values_are_tfmots(clusters):
    rng = np.random.default_rng(clusters)
    weight = rng.normal(size=(80, 50)).astype(np.float32)
    centroids = tf.Variable(rng.normal(size=clusters).astype(np.float32))
    indices = FastClustering(centroids).get_pulling_indices(weight)
    assert np.array_equal(indices, tfmot_algorithm(centroids).get_pulling_indices(weight))


@pytest.mark.parametrize("shape", [(16,), (6, 16)], ids=["tensor", "channel"])
def test_values_and_gradients_are_tfmots(shape):
    rng = np.random.default_rng(0)
    weight = tf.Variable(rng.normal(size=(3, 3, 8, 6)).astype(np.float32))
    centroids = tf.Variable(rng.normal(size=shape).astype(np.float32))
    upstream = rng.normal(size=weight.shape).astype(np.float32)

    def run(algorithm):
        with tf.GradientTape() as tape:
            clustered = algorithm.get_clustered_weight(algorithm.get_pulling_indices(weight), weight)
            loss = tf.reduce_sum(clustered * upstream)
        to_centroids, to_weight = tape.gradient(loss, [centroids, weight])
        return clustered.numpy(), tf.convert_to_tensor(to_centroids).numpy(), to_weight.numpy()

    ours, theirs = run(FastClustering(centroids)), run(tfmot_algorithm(centroids))
    assert np.array_equal(ours[0], theirs[0])
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-5, atol=1e-5)
    assert np.array_equal(ours[2], theirs[2])


def test_zeros_stay_and_are_not_moved():
    weight = tf.Variable([[0.0, 0.9, -0.1], [-1.0, 0.0, 0.4]])
    centroids = tf.Variable([-1.0, 1.0])
    algorithm = FastClustering(centroids, keep_zeros=True)
    with tf.GradientTape() as tape:
        clustered = algorithm.get_clustered_weight(algorithm.get_pulling_indices(weight), weight)
        loss = tf.reduce_sum(clustered * [[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    to_centroids, to_weight = tape.gradient(loss, [centroids, weight])
    assert clustered.numpy().tolist() == [[0, 1, 0], [-1, 0, 0]]
    assert to_centroids.numpy().tolist() == [8, 2]
    assert to_weight.numpy().tolist() == [[0, 2, 4], [8, 0, 32]]


def wrapped(layer, shape, clusters=4, **kwargs):
    wrapper = FastClusterWeights(layer, clusters, **kwargs)
    return kd.keras.Sequential([kd.keras.Input(shape), wrapper]), wrapper


def test_all_variables_are_seen_in_a_stable_order():
    model, wrapper = wrapped(kd.keras.layers.Dense(3, name="fc"), (5,))
    names = [v.name.rpartition("/")[2] for v in model.trainable_variables]
    assert names == ["kernel:0", "bias:0", "cluster_centroids_kernel:0"]
    model(np.ones((1, 5), np.float32))
    assert [v.name.rpartition("/")[2] for v in model.trainable_variables] == names
    assert wrapper.layer.kernel is model.trainable_variables[0]


def test_a_frozen_layer_does_not_train():
    model, _ = wrapped(kd.keras.layers.Dense(3, trainable=False), (5,))
    assert model.trainable_variables == []
    assert len(model.non_trainable_variables) == 3


def test_config_round_trip_keeps_variables_and_outputs():
    layer = kd.keras.layers.Conv2D(3, 2)
    model, wrapper = wrapped(layer, (5, 5, 2), 6, preserve_sparsity=True, cluster_per_channel=True)
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(2, 2, 2, 3)).astype(np.float32)
    kernel[0] = 0
    wrapper.layer.kernel.assign(kernel)
    wrapper.choose_centroids("linear", rng)
    again = kd.keras.Sequential([kd.keras.Input((5, 5, 2)), FastClusterWeights.from_config(wrapper.get_config())])
    for new, old in zip(again.weights, model.weights, strict=True):
        new.assign(old)
    x = rng.normal(size=(2, 5, 5, 2)).astype(np.float32)
    assert np.array_equal(again(x), model(x))
    again.layers[0].update_clustered_weights_associations()
    assert not again.layers[0].layer.kernel[0].numpy().any()


def test_tfmots_own_strip_finds_the_centroids():
    model, wrapper = wrapped(kd.keras.layers.Dense(30, name="fc"), (5,))
    wrapper.choose_centroids("linear", np.random.default_rng(0))
    x = np.ones((1, 5), np.float32)
    before = model(x).numpy()
    stripped = kd.tfmot.clustering.keras.strip_clustering(model)
    assert np.array_equal(np.unique(stripped.get_layer("fc").kernel), np.unique(wrapper.cluster_centroids["kernel"]))
    np.testing.assert_allclose(stripped(x), before, rtol=1e-6)


def test_an_embedding_masks_as_before():
    layers = kd.keras.layers
    inputs = layers.Input((4,), dtype="int32")
    mask = FastClusterWeights(layers.Embedding(6, 3, mask_zero=True), 4)(inputs)._keras_mask
    assert mask is not None


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (lambda la: la.Dense(2), ("kernel",)),
        (lambda la: la.Conv2D(2, 1), ("kernel",)),
        (lambda la: la.SeparableConv2D(2, 1), ("pointwise_kernel",)),
        (lambda la: la.Embedding(2, 2), ("embeddings",)),
        (lambda la: la.BatchNormalization(), ()),
        (lambda la: la.ReLU(), ()),
        (lambda la: la.LSTM(2), ()),
        (lambda la: la.DepthwiseConv2D(1), ()),
    ],
)
def test_what_can_be_clustered(layer, expected):
    assert clusterable_weights(layer(kd.keras.layers), depthwise=False) == expected


def test_depthwise_counts_when_asked_for():
    assert clusterable_weights(kd.keras.layers.DepthwiseConv2D(3), depthwise=True) == ("depthwise_kernel",)
