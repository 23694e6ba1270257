"""Biases that make up for rounded weights, against the same means computed by NumPy."""

import numpy as np
import pytest
from fixtures import models

from tfcompress import keras_door as kd
from tfcompress.models.rewrites import CALIBRATING, rewrite

LAYERS = kd.keras.layers


def prepared(model, samples, bits=3, channel_axes=0):
    """`model` quantized as the techniques do it, to one scale for each tensor where nothing else is said."""
    from tfcompress.techniques import _fake_quant
    from tfcompress.techniques.quantization import quantizable_weights

    weights = quantizable_weights(model)
    grid = _fake_quant.WeightGrid(bits, channel_axes=channel_axes)
    trained = {layer.name for layer in model.layers if not isinstance(layer, LAYERS.InputLayer)}
    quantized = _fake_quant.quantized(model, trained, dict.fromkeys(weights, grid))
    _fake_quant.use_calibrated_activations(quantized)
    _fake_quant.calibrate(quantized, samples)
    return quantized


def corrected(quantized, model, samples, method):
    from tfcompress.techniques._bias_correction import correct_biases

    return correct_biases(quantized, model, samples, method)


def bias_of(quantized, name):
    return next(w.layer.bias.numpy() for w in quantized.layers if getattr(w, "layer", None) and w.layer.name == name)


def rounded(kernel, bits=3):
    step = np.abs(kernel).max() / (2 ** (bits - 1) - 1)
    return np.round(kernel / step) * step


def folded(model):
    return rewrite(model, CALIBRATING).model


def test_of_a_linear_layer_the_mean_is_exact():
    """E[eps x] by hand; no activation quantizer stands between, but the input's."""
    inputs = LAYERS.Input((6,))
    model = models._model(inputs, LAYERS.Dense(4, name="out")(inputs), seed=1)
    samples = np.random.default_rng(0).uniform(0, 2, (50, 6)).astype(np.float32)
    kernel, bias = model.get_layer("out").get_weights()
    expected = bias - (rounded(kernel) - kernel).T @ samples.mean(axis=0)
    quantized = prepared(model, samples)
    changed = corrected(quantized, model, samples, "analytic")
    np.testing.assert_allclose(bias_of(quantized, "out"), expected, rtol=1e-5, atol=1e-6)
    assert changed == {"out": pytest.approx(np.abs(expected - bias).mean(), rel=1e-4)}
    # Empirically the 8-bit rounding of the input counts too.
    step = samples.max() / 255
    expected = bias - (np.round(samples / step) * step @ rounded(kernel) - samples @ kernel).mean(axis=0)
    corrected(quantized, model, samples, "empirical")
    np.testing.assert_allclose(bias_of(quantized, "out"), expected, rtol=1e-4, atol=1e-5)
    assert max(corrected(quantized, model, samples, "empirical").values()) == 0


def patches(images, size=3):
    """`[n, rows, columns, size * size, channels]`, by hand."""
    rows, columns = images.shape[1] - size + 1, images.shape[2] - size + 1
    taps = [images[:, i : i + rows, j : j + columns] for i in range(size) for j in range(size)]
    return np.stack(taps, axis=3).astype(np.float64)


def test_depthwise_and_pointwise_by_hand():
    model = folded(models.depthwise(multiplier=2))
    samples = np.abs(models.inputs_for(model, 40))
    quantized = prepared(model, samples)
    corrected(quantized, model, samples, "analytic")
    kernel, bias = model.get_layer("dw").get_weights()
    fed = patches(samples)
    errors = (rounded(kernel) - kernel).reshape(9, 4, 2)
    shift = np.einsum("nrcki,kim->nrcim", fed, errors).mean(axis=(0, 1, 2)).reshape(-1)
    np.testing.assert_allclose(bias_of(quantized, "dw"), bias - shift, rtol=1e-4, atol=1e-5)
    outputs = np.einsum("nrcki,kim->nrcim", fed, kernel.reshape(9, 4, 2)).reshape(*fed.shape[:3], 8) + bias
    kernel, bias = model.get_layer("point").get_weights()
    shift = np.maximum(outputs, 0).mean(axis=(0, 1, 2)) @ (rounded(kernel) - kernel)[0, 0]
    np.testing.assert_allclose(bias_of(quantized, "point"), bias - shift, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", [models.residual, models.depthwise])
def test_every_layer_has_the_float_layers_mean(build):
    """Read from models that end at the layer, run by Keras itself."""
    model = folded(build())
    samples = np.abs(models.inputs_for(model, 30))
    quantized = prepared(model, samples, bits=2)
    before = {layer.name: layer.get_weights()[0] for layer in model.layers if layer.weights}
    changed = corrected(quantized, model, samples, "empirical")
    assert set(changed) == set(before)
    for name, kernel in before.items():
        layer, wrapper = model.get_layer(name), quantized.get_layer(f"quant_{name}")
        np.testing.assert_array_equal(layer.get_weights()[0], kernel)
        # The input of a layer, and its response without an activation, in both models.
        means = []
        for net, own, weights in ((model, layer, kernel), (quantized, wrapper, rounded(kernel, 2))):
            fed = kd.keras.Model(net.input, own.input)(samples).numpy()
            linear = type(layer).from_config({**layer.get_config(), "activation": "linear"})
            linear.build(fed.shape)
            linear.set_weights([weights, bias_of(quantized, name) if own is wrapper else layer.bias.numpy()])
            outputs = linear(fed).numpy()
            means.append(outputs.reshape(-1, outputs.shape[-1]).mean(axis=0))
        np.testing.assert_allclose(*means, rtol=1e-3, atol=1e-4)


def test_a_layer_without_a_bias_is_left():
    layers = LAYERS
    inputs = layers.Input((6,))
    x = layers.Dense(5, use_bias=False, activation="relu", name="bare")(inputs)
    model = models._model(inputs, layers.Dense(4, name="out")(x), seed=1)
    samples = models.inputs_for(model, 20)
    changed = corrected(prepared(model, samples), model, samples, "empirical")
    assert changed["bare"] == 0
    assert changed["out"] > 0
