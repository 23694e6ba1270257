import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfcompress import keras_door as kd

kernels = hnp.arrays(
    np.float32,
    st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(1, 4)] * 2),
    elements=st.floats(-4, 4, width=32).map(lambda x: round(x, 3)),
)


def quantized(weight, **grid):
    from tfcompress.techniques._fake_quant import WeightGrid, fake_quantize

    return fake_quantize(kd.tf.constant(weight), WeightGrid(**grid)).numpy()


@settings(deadline=None)
@given(kernels, st.integers(2, 8), st.sampled_from([0, 1, 2]), st.booleans(), st.data())
def test_every_value_goes_to_the_nearest_level_of_its_channel(weight, bits, channel_axes, shared_range, data):
    container = data.draw(st.sampled_from([4, 8] if bits <= 4 else [8]))
    result = quantized(
        weight, bits=bits, container_bits=container, channel_axes=channel_axes, shared_range=shared_range
    )
    assert result.shape == weight.shape
    channels = int(np.prod(weight.shape[4 - channel_axes :]))
    values, rounded = weight.reshape(-1, channels), result.reshape(-1, channels)
    largest = np.abs(values).max()
    ranges = np.full(channels, largest) if shared_range else np.abs(values).max(0)
    step = np.where(ranges > 0, ranges, largest if largest > 0 else 1) / (2 ** (bits - 1) - 1)
    levels = rounded / step
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
    assert np.abs(np.round(levels)).max() <= 2 ** (bits - 1) - 1
    assert (np.abs(rounded - values) <= step * 0.501).all()
    assert (rounded[values == 0] == 0).all()


def test_gradients_pass_straight_through():
    from tfcompress.techniques._fake_quant import WeightGrid, fake_quantize

    tf = kd.tf
    weight = tf.Variable(np.random.default_rng(0).normal(size=(3, 3, 2, 4)), dtype=tf.float32)
    factors = np.random.default_rng(1).normal(size=weight.shape).astype(np.float32)
    for grid in (WeightGrid(3), WeightGrid(5, channel_axes=1), WeightGrid(2, container_bits=4, channel_axes=2)):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(fake_quantize(weight, grid) * factors)
        np.testing.assert_allclose(tape.gradient(loss, weight), factors, rtol=1e-6)


@settings(deadline=None)
@given(kernels, st.integers(1, 5), st.integers(0, 99))
def test_shared_values_are_the_means_of_their_clusters_and_zeros_are_zero(weight, clusters, seed):
    from tfcompress.techniques._fake_quant import WeightGrid, constrain

    rng = np.random.default_rng(seed)
    index = rng.integers(0, clusters, weight.shape).astype(np.int32)
    mask = rng.random(weight.shape) < 0.7
    grid = WeightGrid(cluster_index=index, zero_mask=mask)
    result = constrain(kd.tf.constant(weight), grid).numpy()
    assert (result[~mask] == 0).all()
    for cluster in np.unique(index):
        members = index == cluster
        np.testing.assert_allclose(result[members & mask], weight[members].mean(), rtol=1e-4, atol=1e-5)


def test_members_of_a_cluster_get_their_mean_gradient():
    from tfcompress.techniques._fake_quant import WeightGrid, constrain

    tf = kd.tf
    weight = tf.Variable([[1.0, 1.0], [1.0, 3.0]])
    grid = WeightGrid(cluster_index=np.array([[0, 0], [0, 1]], np.int32))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(constrain(weight, grid) * [[3.0, 6.0], [0.0, 5.0]])
    np.testing.assert_allclose(tape.gradient(loss, weight), [[3, 3], [3, 5]])


def test_a_quantizer_is_made_again_from_its_config():
    from tfcompress.techniques._fake_quant import WeightGrid, WeightQuantizer

    grid = WeightGrid(3, 4, channel_axes=2, shared_range=True, zero_mask=np.ones(2))
    again = WeightQuantizer.from_config(WeightQuantizer(grid).get_config()).grid
    # The arrays belong to one training, not to the layer.
    assert again == WeightGrid(3, 4, channel_axes=2, shared_range=True)


@pytest.mark.parametrize("samples", [np.array([[0.5, 2.0], [-3.0, 1.0]]), np.array([[1.0, 2.0]]), np.zeros((2, 2))])
def test_an_activation_range_holds_zero_and_what_was_observed(samples):
    from tfcompress.techniques._fake_quant import ActivationQuantizer
    from tfcompress.techniques._ranges import Extremes

    tf = kd.tf
    quantizer, extremes = ActivationQuantizer(), Extremes()
    variables = {"min_var": tf.Variable(0.0), "max_var": tf.Variable(0.0)}
    quantizer.observers = {variables["min_var"].ref(): extremes}
    seen = quantizer(tf.constant(samples, tf.float32), training=False, weights=variables)
    np.testing.assert_array_equal(seen, samples.astype(np.float32))
    assert extremes.low == min(0, samples.min())
    assert extremes.high == max(0, samples.max())
