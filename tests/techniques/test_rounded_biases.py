"""The biases of a model trained as integers are the integers of its file."""

import numpy as np
import pytest
from fixtures.models import run

from tfcompress import keras_door as kd
from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.settings import ConversionSettings
from tfcompress.evaluate.prediction import io_types, predict
from tfcompress.techniques.quantization import Quantization
from tfcompress.vocabulary.state import State

SAMPLES = np.random.default_rng(0).normal(size=(64, 12, 12, 3)).astype(np.float32)


def network(use_bias=True, norm=None):
    """Three convolutions, one of them depthwise, and a Dense; biases and statistics away from 0 and 1."""
    keras, layers = kd.keras, kd.keras.layers
    keras.utils.set_random_seed(0)
    start = {"bias_initializer": keras.initializers.RandomNormal(0, 0.3), "use_bias": use_bias}
    x = inputs = layers.Input(SAMPLES.shape[1:])
    for convolution in (
        layers.Conv2D(16, 3, **start, name="first"),
        layers.DepthwiseConv2D(3, depth_multiplier=2, **start),
        layers.Conv2D(16, 3, **start),
    ):
        x = convolution(x)
        if norm is not None:
            x = layers.BatchNormalization(
                beta_initializer=keras.initializers.RandomNormal(0, 0.3),
                gamma_initializer=keras.initializers.RandomUniform(-1.5, 1.5),
                moving_mean_initializer=keras.initializers.RandomNormal(0, 0.3),
                moving_variance_initializer=keras.initializers.RandomUniform(0.5, 2.0),
                **norm,
            )(x)
        x = layers.ReLU()(x)
    x = layers.Dense(10, bias_initializer=keras.initializers.RandomNormal(0, 0.3))(layers.Flatten()(x))
    return keras.Model(inputs, x)


def trained(model, **options):
    return run(Quantization(fit={"epochs": 0}, **options), State(model), SAMPLES, epochs=0).model


def converted(model):
    return quantized_tflite(model, "int8", ConversionSettings(), SAMPLES)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_bias": False, "norm": {}},
        {"norm": {}},
        {"use_bias": False, "norm": {"center": False}},
        {"use_bias": False, "norm": {"scale": False}},
    ],
)
def test_model_and_file_are_the_same_integers(options):
    model = trained(network(**options))
    content = converted(model)
    steps = np.abs(predict(content, SAMPLES) - model.predict(SAMPLES, verbose=0)) / io_types(content).output.scale
    # With biases of real numbers 0.05 to 0.2. Sums of float32 may still fall to the other side of a half.
    assert steps.mean() < 0.01


@pytest.mark.parametrize(
    "options",
    [
        {"activation_ranges": "learned"},
        {"weight_bits": 4, "step_size": "learned"},
        # Of this size the converter does not compute how a step of three levels comes about.
        {"weight_bits": 2, "levels": "ternary"},
    ],
)
def test_so_they_are_with_learned_ranges_and_few_bits(options):
    model = trained(network(), **options)
    content = converted(model)
    steps = np.abs(predict(content, SAMPLES) - model.predict(SAMPLES, verbose=0)) / io_types(content).output.scale
    assert steps.mean() < 0.01


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_a_bias_behind_a_range_that_the_file_fixes_stays(activation):
    layers = kd.keras.layers
    inputs = layers.Input((6,))
    x = layers.Dense(8, activation=activation)(inputs)
    model = kd.keras.Model(inputs, layers.Dense(4, bias_initializer="ones", name="last")(x))
    samples = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
    done = run(Quantization(fit={"epochs": 0}), State(model), samples, epochs=0).model
    np.testing.assert_array_equal(done.get_layer("quant_last").layer.bias.numpy(), 1.0)


def test_a_channel_that_is_switched_off_keeps_its_mean():
    model = network(norm={})
    norm = next(layer for layer in model.layers if isinstance(layer, kd.keras.layers.BatchNormalization))
    gamma = norm.gamma.numpy()
    gamma[3] = 0.0
    norm.gamma.assign(gamma)
    before = norm.moving_mean.numpy()
    after = trained(model).get_layer(f"quant_{norm.name}").layer.moving_mean.numpy()
    assert after[3] == before[3]
    assert np.isfinite(after).all()
    assert (after != before).sum() == len(before) - 1


def test_a_bias_behind_what_has_no_range_of_its_own_stays():
    layers = kd.keras.layers
    inputs = layers.Input((6,))
    x = layers.LayerNormalization()(layers.Dense(8, bias_initializer="ones", name="first")(inputs))
    model = kd.keras.Model(inputs, layers.Dense(4, bias_initializer="ones", name="last")(x))
    samples = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
    done = run(Quantization(fit={"epochs": 0}), State(model), samples, epochs=0).model
    np.testing.assert_array_equal(done.get_layer("quant_last").layer.bias.numpy(), 1.0)
    assert (done.get_layer("quant_first").layer.bias.numpy() != 1.0).any()


def test_a_normalization_of_another_axis_is_not_taken_for_a_folded_one():
    from tfcompress.techniques._rounded_biases import _norm_behind

    found = []
    for axis in (-1, 1):
        layers = kd.keras.layers
        inputs = layers.Input((6, 6, 3))
        outputs = layers.BatchNormalization(axis=axis)(layers.Conv2D(4, 1, name="conv")(inputs))
        model = kd.tfmot.quantization.keras.quantize_model(kd.keras.Model(inputs, layers.Flatten()(outputs)))
        found.append(_norm_behind(model, model.get_layer("quant_conv")))
    assert isinstance(found[0], kd.keras.layers.BatchNormalization)
    assert found[1] is None
