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
    from tfcompress.techniques._weight_grid import WeightGrid, fake_quantize

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
    from tfcompress.techniques._weight_grid import WeightGrid, fake_quantize

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
    from tfcompress.techniques._weight_grid import WeightGrid, constrain

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
    from tfcompress.techniques._weight_grid import WeightGrid, constrain

    tf = kd.tf
    weight = tf.Variable([[1.0, 1.0], [1.0, 3.0]])
    grid = WeightGrid(cluster_index=np.array([[0, 0], [0, 1]], np.int32))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(constrain(weight, grid) * [[3.0, 6.0], [0.0, 5.0]])
    np.testing.assert_allclose(tape.gradient(loss, weight), [[3, 3], [3, 5]])


def test_a_quantizer_is_made_again_from_its_config():
    from tfcompress.techniques._weight_grid import WeightGrid, WeightQuantizer

    grid = WeightGrid(3, 4, channel_axes=2, shared_range=True, zero_mask=np.ones(2))
    again = WeightQuantizer.from_config(WeightQuantizer(grid).get_config()).grid
    # The arrays belong to one training, not to the layer.
    assert again == WeightGrid(3, 4, channel_axes=2, shared_range=True)


def by_lsq(weight, upstream, step, top):
    """Esser et al. 2020, equations 1 to 3: the rounded weight, and the gradients of both, `[*, channels]`."""
    ratio = weight / step
    rounded = np.clip(np.round(ratio), -top, top) * step
    inside = np.abs(ratio) < top
    by_step = np.where(inside, np.round(ratio) - ratio, np.sign(ratio) * top)
    return rounded, upstream * inside, (upstream * by_step).sum(0)


@pytest.mark.parametrize(("bits", "container", "axes"), [(2, 8, 1), (4, 4, 0), (8, 8, 1), (3, 8, 2)])
def test_a_learned_step_has_the_gradients_of_lsq(bits, container, axes):
    from tfcompress.techniques._weight_grid import WeightGrid, fake_quantize

    tf, rng = kd.tf, np.random.default_rng(bits)
    weight = rng.normal(size=(3, 3, 2, 4)).astype(np.float32)
    upstream = rng.normal(size=weight.shape).astype(np.float32)
    channels = int(np.prod(weight.shape[4 - axes :])) if axes else 1
    top = 2 ** (bits - 1) - 1
    # Small enough to clip some.
    step = rng.uniform(0.8, 1.2, channels).astype(np.float32) / top
    log_step = tf.Variable(np.log(step) if axes else np.log(step[0]))
    grid = WeightGrid(bits, container, channel_axes=axes, learned_step=True)
    with tf.GradientTape() as tape:
        tape.watch(kernel := tf.constant(weight))
        rounded = fake_quantize(kernel, grid, log_step)
        loss = tf.reduce_sum(rounded * upstream)
    columns = (part.reshape(-1, channels) for part in (weight, upstream))
    expected, by_weight, by_step = by_lsq(*columns, step, top)
    np.testing.assert_allclose(rounded.numpy().reshape(-1, channels), expected, rtol=1e-4, atol=1e-6)
    found = tape.gradient(loss, [kernel, log_step])
    np.testing.assert_allclose(found[0].numpy().reshape(-1, channels), by_weight, atol=1e-6)
    scale = 1 / np.sqrt(weight.size / channels * top)
    # By the logarithm: a small step of plain gradient descent moves the step as the paper's would.
    np.testing.assert_allclose(np.ravel(found[1]), scale * by_step / step, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("bits", "expected"), [(2, 2 * 0.5), (4, 2 * 0.5 / np.sqrt(7)), (8, 1.0 / 127)])
def test_a_learned_step_starts_as_lsq_says_but_never_above_the_range(bits, expected):
    from tfcompress.techniques._weight_grid import WeightGrid, first_step

    # Of magnitude 0.5 on average, 1 at most; the zeros are to stay.
    weight = kd.tf.constant([[0.25, 0.25], [-1.0, 0.5], [0.25, -0.75], [0.0, 0.0]])
    grid = WeightGrid(bits, channel_axes=1, learned_step=True)
    found = first_step(weight, grid).numpy()
    assert found[1] == pytest.approx(min(2 * 0.5 / np.sqrt(grid.top), 0.75 / grid.top))
    assert found[0] == pytest.approx(min(expected, 1.0 / grid.top), rel=1e-6)
    whole = first_step(weight, WeightGrid(bits, learned_step=True)).numpy()
    assert whole == pytest.approx(min(expected, 1.0 / grid.top))


def test_three_levels_are_those_of_twn():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(40, 3)).astype(np.float32)
    weight[:10] = 0
    result = quantized(weight, bits=2, channel_axes=1, levels="ternary")
    for values, rounded in zip(weight.T, result.T, strict=True):
        sizes = np.abs(values)
        beyond = sizes > 0.7 * sizes[sizes > 0].mean()
        np.testing.assert_allclose(rounded, np.sign(values) * beyond * sizes[beyond].mean(), rtol=1e-5)


def test_two_levels_are_those_of_xnor_net():
    weight = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    result = quantized(weight, bits=1, channel_axes=1, levels="binary")
    np.testing.assert_allclose(result, np.where(weight < 0, -1, 1) * np.abs(weight).mean(0), rtol=1e-5)
    whole = quantized(weight, bits=1, container_bits=4, levels="binary")
    np.testing.assert_allclose(np.abs(whole), np.abs(weight).mean(), rtol=1e-5)


@pytest.mark.parametrize(("levels", "bits"), [("power_of_two", 4), ("power_of_two", 3), ("additive_powers", 5)])
def test_values_go_to_the_nearest_power_or_sum(levels, bits):
    from tfcompress.techniques._levels import magnitudes

    weight = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    result = quantized(weight, bits=bits, channel_axes=1, levels=levels)
    sizes = np.array(magnitudes(levels, bits))
    known = np.concatenate([-sizes[::-1], sizes]) / sizes[-1]
    for values, rounded in zip(weight.T, result.T, strict=True):
        scaled = known * np.abs(values).max()
        nearest = np.abs(values[:, None] - scaled).min(1)
        np.testing.assert_allclose(np.abs(values - rounded), nearest, atol=1e-6)
        assert np.abs(rounded[:, None] - scaled).min(1).max() < 1e-6


OTHER_LEVELS = [("power_of_two", 4), ("additive_powers", 4), ("ternary", 2), ("binary", 1)]


@pytest.mark.parametrize(("levels", "bits"), OTHER_LEVELS)
def test_gradients_pass_straight_through_to_other_levels(levels, bits):
    from tfcompress.techniques._weight_grid import WeightGrid, fake_quantize

    tf = kd.tf
    weight = tf.Variable(np.random.default_rng(0).normal(size=(3, 3, 2, 4)), dtype=tf.float32)
    factors = np.random.default_rng(1).normal(size=weight.shape).astype(np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(fake_quantize(weight, WeightGrid(bits, channel_axes=1, levels=levels)) * factors)
    np.testing.assert_allclose(tape.gradient(loss, weight), factors, rtol=1e-6)


@pytest.mark.parametrize(("levels", "bits"), [("uniform", 4), *OTHER_LEVELS])
@pytest.mark.parametrize("learned", [False, True])
def test_values_shared_by_channels_stay_equal_and_zeros_zero(levels, bits, learned):
    from tfcompress.techniques._weight_grid import WeightGrid, rounded_as_trained

    rng = np.random.default_rng(0)
    weight = rng.choice([0.0, 0.2, -0.3, 0.9, 1.4], (30, 4)).astype(np.float32)
    index = np.unique(weight, return_inverse=True)[1].reshape(weight.shape).astype(np.int32)
    mask = None if levels == "binary" else weight != 0
    kept = {"shared_range": True, "cluster_index": index, "zero_mask": mask}
    result = rounded_as_trained(weight, WeightGrid(bits, 8, 1, levels=levels, learned_step=learned, **kept))
    assert all(np.unique(result[weight == value]).size == 1 for value in np.unique(weight))
    assert mask is None or (result[weight == 0] == 0).all()


@pytest.mark.parametrize(("levels", "bits"), [("uniform", 4), *OTHER_LEVELS])
@pytest.mark.parametrize("learned", [False, True])
def test_a_settled_weight_is_on_its_grid_and_rounds_no_more(levels, bits, learned):
    from tfcompress.techniques._weight_grid import WeightGrid, WeightQuantizer

    tf = kd.tf
    quantizer = WeightQuantizer(WeightGrid(bits, 8, 1, levels=levels, learned_step=learned))
    weight = tf.Variable(np.random.default_rng(0).normal(size=(50, 3)), dtype=tf.float32)
    layer = kd.keras.layers.Layer()
    variables = quantizer.build(weight.shape, "kernel", layer)
    assert len(layer.trainable_weights) == learned
    quantizer.start(weight)
    trained = quantizer(weight, True, variables).numpy()
    quantizer.settle(weight)
    np.testing.assert_allclose(quantizer(weight, False, variables), trained, rtol=1e-5)
    if learned or levels != "uniform":
        np.testing.assert_allclose(weight, trained, rtol=1e-5)
    again = WeightQuantizer.from_config(quantizer.get_config())
    again.log_step = quantizer.log_step
    np.testing.assert_array_equal(again(weight, False, variables), quantizer(weight, False, variables))
