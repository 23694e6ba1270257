import math

import numpy as np
import pytest
from fixtures.models import conv_bn, inputs_for, residual

from tfcompress import keras_door as kd
from tfcompress.convert.converter import float_tflite, quantized_tflite, with_preprocessing
from tfcompress.convert.settings import ConversionSettings
from tfcompress.convert.strip import strip_names
from tfcompress.evaluate import LayerError, departure, layer_errors


@pytest.fixture(scope="module")
def network():
    return residual()


@pytest.fixture(scope="module")
def float_file(network):
    return float_tflite(network)


def test_a_float_file_agrees_at_every_layer(network, float_file):
    found = layer_errors(float_file, network, inputs_for(network, 8))
    assert [error.layer for error in found] == ["relu_stem", "bn_branch", "relu_join", "pool", "out"]
    assert all(error.relative < 1e-5 and error.steps == 0 for error in found)
    assert departure(found).sqnr_db > 100


def test_the_layer_that_is_wrong_is_named(network, float_file):
    other = kd.keras.models.clone_model(network)
    other.set_weights(network.get_weights())
    branch = other.get_layer("branch")
    branch.set_weights([1.5 * branch.get_weights()[0]])
    found = layer_errors(float_file, other, inputs_for(network, 8))
    assert found[0].relative < 1e-5
    assert departure(found).layer == "bn_branch"
    assert departure(found).relative > 0.1


def test_an_integer_file_is_a_few_steps_off():
    model = conv_bn()
    inputs = inputs_for(model)
    content = quantized_tflite(model, "int8", ConversionSettings(), inputs)
    found = layer_errors(content, model, inputs[:16])
    assert [error.layer for error in found] == ["relu_c1", "relu_c1_1", "flatten", "out"]
    assert all(0.001 < error.relative < 0.1 and 0 < error.steps < 3 for error in found)
    assert layer_errors(strip_names(content), model, inputs[:16])[-1] == found[-1], "the output needs no name"


def test_a_file_that_does_the_preprocessing_is_fed_raw_values():
    model = conv_bn()
    raw = np.random.default_rng(0).uniform(0, 9, (8, 6, 6, 4)).astype(np.float32)
    content = float_tflite(with_preprocessing(model, np.float32(0.1), np.float32(-1)))
    found = layer_errors(content, model, (raw * 0.1 - 1).astype(np.float32), raw)
    assert [error.layer for error in found] == ["relu_c1", "relu_c1_1", "flatten", "out"]
    assert all(error.relative < 1e-4 for error in found)


def test_the_state_of_an_lstm_starts_anew_with_every_sample():
    keras = kd.keras
    keras.utils.set_random_seed(0)
    series = keras.Input((5, 2), batch_size=1)
    x = keras.layers.Bidirectional(keras.layers.LSTM(4), name="both")(series)
    model = keras.Model(series, keras.layers.Dense(2, name="out")(x))
    inputs = np.random.default_rng(0).normal(size=(6, 5, 2)).astype(np.float32)
    found = layer_errors(float_tflite(model), model, inputs)
    assert [error.layer for error in found] == ["both", "out"]
    assert all(error.relative < 1e-5 for error in found)


def test_the_departure_is_the_largest_rise_not_the_largest_error():
    rising = [LayerError(str(i), value, 0) for i, value in enumerate((0.01, 0.2, 0.1, 0.25))]
    assert departure(rising).layer == "1"


def test_decibels():
    assert LayerError("a", 0.1, 0).sqnr_db == pytest.approx(20)
    assert LayerError("a", 0.0, 0).sqnr_db == math.inf
