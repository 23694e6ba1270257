"""AdaRound: up or down, never elsewhere, and nearer to the float layer's output than nearest rounding."""

import itertools

import numpy as np
import pytest
from fixtures import models

from tfcompress import keras_door as kd
from tfcompress.models.rewrites import CALIBRATING, rewrite
from tfcompress.vocabulary.errors import RecipeError

LAYERS = kd.keras.layers
STEPS = 500


def prepared(model, samples, bits, channel_axes=0, **grid):
    """`model` quantized as the techniques do it, to one scale for each tensor where nothing else is said."""
    from tfcompress.techniques import _fake_quant
    from tfcompress.techniques.quantization import quantizable_weights

    weights = quantizable_weights(model)
    grids = dict.fromkeys(weights, _fake_quant.WeightGrid(bits, channel_axes=channel_axes, **grid))
    trained = {layer.name for layer in model.layers if not isinstance(layer, LAYERS.InputLayer)}
    quantized = _fake_quant.quantized(model, trained, grids)
    _fake_quant.use_calibrated_activations(quantized)
    _fake_quant.calibrate(quantized, samples)
    return quantized


def rounded(quantized, model, samples, steps=STEPS, seed=0):
    from tfcompress.techniques._adaptive_rounding import round_adaptively

    return round_adaptively(quantized, model, samples, steps=steps, seed=seed)


def kernels(quantized):
    """By layer, the variable behind the quantized weight, and what the layer computes with."""
    from tfcompress.techniques._fake_quant import weight_quantizers
    from tfcompress.techniques._weight_grid import fake_quantize

    return {
        wrapper.layer.name: (weight.numpy(), fake_quantize(weight, quantizer.grid).numpy())
        for wrapper, weight, quantizer in weight_quantizers(quantized)
    }


def one_layer(layer, shape, seed=0):
    inputs = LAYERS.Input(shape)
    return models._model(inputs, layer(inputs), seed)


def correlated(count, features, seed=0):
    """Samples whose features go together, as behind a ReLU: rounding errors add up instead of cancelling."""
    rng = np.random.default_rng(seed)
    return np.maximum(rng.normal(1, 0.5, (count, 1)) + rng.normal(0, 0.3, (count, features)), 0).astype(np.float32)


def test_of_all_roundings_of_six_weights_one_of_the_best_is_found():
    """All of them are tried by NumPy; the largest weight is on a level and stays."""
    model = one_layer(LAYERS.Dense(1, name="out"), (6,), seed=3)
    samples = correlated(200, 6)
    kernel, bias = model.get_layer("out").get_weights()
    quantized = prepared(model, samples, bits=3)
    found = rounded(quantized, model, samples)["out"]
    size = np.abs(kernel).max() / 3
    step = samples.max() / 255
    fed, target = np.round(samples / step) * step, samples @ kernel + bias
    below = np.floor(kernel / size + 1e-5)
    fixed = np.abs(kernel) == np.abs(kernel).max()

    def error(weights):
        return float(((fed @ weights + bias - target) ** 2).mean())

    choices = [
        np.where(fixed, kernel, (below + np.reshape(added, (6, 1))) * size)
        for added in itertools.product((0, 1), repeat=6)
    ]
    errors = sorted(set(map(error, choices)))
    assert found.nearest == pytest.approx(error(np.round(kernel / size) * size), rel=1e-3)
    assert found.adaptive == pytest.approx(error(kernels(quantized)["out"][1]), rel=1e-3)
    # The step computes it in 32 bits.
    assert found.adaptive <= errors[len(errors) // 3] * (1 + 1e-6)
    assert found.adaptive < 0.2 * found.nearest


@pytest.mark.parametrize(
    ("kind", "axes", "bits"),
    [("Conv2D", 0, 4), ("Conv2D", 1, 2), ("grouped", 1, 3), ("DepthwiseConv2D", 2, 3), ("Conv2DTranspose", 0, 3)],
)
def test_every_weight_goes_up_or_down_and_the_scale_stays(kind, axes, bits):
    layer = {
        "Conv2D": lambda: LAYERS.Conv2D(5, 3, strides=2, padding="same", activation="relu", name="layer"),
        "grouped": lambda: LAYERS.Conv2D(6, 3, groups=2, dilation_rate=2, name="layer"),
        "DepthwiseConv2D": lambda: LAYERS.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="layer"),
        "Conv2DTranspose": lambda: LAYERS.Conv2DTranspose(5, 3, strides=2, name="layer"),
    }[kind]()
    model = one_layer(layer, (8, 8, 4))
    samples = correlated(48, 256).reshape(48, 8, 8, 4)
    quantized = prepared(model, samples, bits, axes)
    found = rounded(quantized, model, samples)["layer"]
    assert found.adaptive < 0.9 * found.nearest
    before = model.get_layer("layer").get_weights()[0]
    weight, used = kernels(quantized)["layer"]
    # What is written is what the layer computes with.
    np.testing.assert_allclose(used, weight, atol=1e-6)
    top = 2 ** (bits - 1) - 1
    over = tuple(range(4 - axes)) if axes else None
    np.testing.assert_array_equal(np.abs(weight).max(axis=over), np.abs(before).max(axis=over))
    size = np.abs(before).max(axis=over) / top
    levels = used / size
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
    assert (np.abs(used - before) < size * 1.0001).all()
    assert (np.abs(used - before) > size * 0.51).any()


def test_the_error_is_the_layers_own():
    """Of a padded, strided convolution with a ReLU behind it, computed by Keras on all places."""
    inputs = LAYERS.Input((7, 7, 3))
    conv = LAYERS.Conv2D(4, 3, strides=2, padding="same", name="conv")
    model = models._model(inputs, LAYERS.ReLU(name="relu")(conv(inputs)), seed=0)
    samples = correlated(20, 147).reshape(20, 7, 7, 3)
    quantized = prepared(model, samples, bits=3)
    found = rounded(quantized, model, samples)["conv"]
    step = samples.max() / 255
    fed = np.round(samples / step) * step
    target = model.predict(samples, verbose=0)
    errors = []
    size = np.abs(conv.kernel.numpy()).max() / 3
    for kernel in (np.round(conv.kernel.numpy() / size) * size, kernels(quantized)["conv"][1]):
        conv.kernel.assign(kernel)
        errors.append(((model.predict(fed, verbose=0) - target) ** 2).mean())
    np.testing.assert_allclose((found.nearest, found.adaptive), errors, rtol=1e-3)


def test_a_network_is_rounded_layer_by_layer():
    model = rewrite(models.residual(), CALIBRATING).model
    samples = np.abs(models.inputs_for(model, 48))
    quantized = prepared(model, samples, bits=4)
    nearest, target = quantized(samples).numpy(), model(samples).numpy()
    found = rounded(quantized, model, samples)
    assert list(found) == ["stem", "branch", "out"]
    assert all(one.adaptive <= one.nearest for one in found.values())
    assert ((quantized(samples).numpy() - target) ** 2).mean() < 0.7 * ((nearest - target) ** 2).mean()


def test_one_seed_rounds_alike():
    model = one_layer(LAYERS.Dense(8, activation="relu", name="out"), (16,))
    samples = correlated(600, 16)
    results = []
    for seed in (0, 0, 1):
        quantized = prepared(model, samples, bits=3)
        rounded(quantized, model, samples, seed=seed)
        results.append(kernels(quantized)["out"][0])
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_zeros_stay_and_shared_values_are_refused():
    model = one_layer(LAYERS.Dense(4, activation="relu", name="out"), (8,))
    kernel = model.get_layer("out").kernel
    mask = np.random.default_rng(0).random(kernel.shape) < 0.5
    samples = correlated(50, 8)
    quantized = prepared(model, samples, bits=3, zero_mask=mask)
    rounded(quantized, model, samples)
    assert (kernels(quantized)["out"][0][~mask] == 0).all()
    quantized = prepared(model, samples, bits=3, cluster_index=np.zeros(kernel.shape, np.int32))
    with pytest.raises(RecipeError, match="promised to share, in: out"):
        rounded(quantized, model, samples)
