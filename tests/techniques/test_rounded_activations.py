import numpy as np
import pytest
from fixtures.models import inputs_for, run

from tfcompress import keras_door as kd
from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.settings import ConversionSettings
from tfcompress.evaluate import layer_errors
from tfcompress.techniques import _rounded_activations
from tfcompress.techniques.quantization import Quantization
from tfcompress.vocabulary.state import State


def network(inner="relu", outer="linear"):
    layers = kd.keras.layers
    kd.keras.utils.set_random_seed(0)
    inputs = kd.keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3)(inputs)
    x = layers.Activation(inner, name="inner")(x)
    x = layers.Conv2D(8, 3, activation=inner)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return kd.keras.Model(inputs, layers.Dense(4, activation=outer, name="outer")(x))


def quantized(model, samples):
    return run(Quantization(fit={"epochs": 0}), State(model), samples, epochs=0).model


@pytest.mark.parametrize("activation", ["swish", "sigmoid", "tanh"])
def test_the_model_computes_what_the_file_does(activation):
    model = network(activation)
    # The wider the range of a swish, the more of its steps a step of its gate is.
    samples = 8 * inputs_for(model, 32)
    emulated = quantized(model, samples)
    content = quantized_tflite(emulated, "int8", ConversionSettings(), samples)
    errors = {error.layer: error.steps for error in layer_errors(content, emulated, samples)}
    # Where both round to the same grid, only numbers at the very middle of a step may differ.
    assert errors["quant_inner"] < 0.02


@pytest.mark.parametrize("activation", ["swish", "sigmoid", "tanh"])
def test_values_are_those_of_keras_to_half_a_step(activation):
    x = np.linspace(-6, 6, 1001, dtype=np.float32)
    rounded = getattr(_rounded_activations, activation)(x).numpy()
    exact = getattr(kd.keras.activations, activation)(x).numpy()
    steps = (1 / 128 if activation == "tanh" else 1 / 256) * (np.abs(x) if activation == "swish" else np.ones_like(x))
    # The largest number of the grid is a step below 1, and stands for all above it.
    assert (np.abs(rounded - exact) <= steps + 1e-6).all()
    inner = np.abs(x) < 2
    assert (np.abs(rounded - exact) <= steps / 2 + 1e-6)[inner].all()


def test_outputs_of_the_model_keep_their_gradient():
    model = network(outer="sigmoid")
    samples = inputs_for(model, 8)
    layer = quantized(model, samples).get_layer("quant_outer")
    (activation,) = layer._quantize_activations
    assert activation.activation is kd.keras.activations.sigmoid
