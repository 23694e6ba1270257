import numpy as np
import pytest
from fixtures import models

from tfcompress import keras_door as kd
from tfcompress.convert.architecture import architecture
from tfcompress.convert.converter import float_tflite, quantized_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.settings import ConversionSettings
from tfcompress.convert.strip import strip_names
from tfcompress.models.rewrites import rewrite
from tfcompress.techniques.quantization import Quantization
from tfcompress.vocabulary.state import State


def digest(content):
    return architecture(Flatbuffer(content))


def int8_file(model, seed=0, number_format="int8"):
    return quantized_tflite(model, number_format, ConversionSettings(), models.inputs_for(model, seed=seed))


def with_bits(**bits):
    model = models.dense()
    inputs = models.inputs_for(model)
    step = Quantization(per_layer=bits)
    state = step.finish(step.prepare(State(model), models.plan_for(inputs)))
    return quantized_tflite(state.model, "int8", ConversionSettings(), inputs)


def test_weights_scales_and_names_do_not_count(int8_file_of_a_network):
    other = models.conv_bn(seed=1)
    kernel = other.get_layer("c1").kernel
    kernel.assign(np.where(np.abs(kernel) < np.median(np.abs(kernel)), 0, kernel))
    content = int8_file(other, seed=1)
    assert content != int8_file_of_a_network
    assert digest(content) == digest(int8_file_of_a_network) == digest(strip_names(content))


@pytest.fixture(scope="module")
def int8_file_of_a_network():
    return int8_file(models.conv_bn())


def test_the_arithmetic_counts(int8_file_of_a_network):
    files = [int8_file(models.conv_bn(), number_format=kind) for kind in ("int16x8", "float16")]
    files += [int8_file_of_a_network, float_tflite(models.conv_bn())]
    assert len({digest(content) for content in files}) == len(files)


def test_bits_of_a_layer_count_where_they_are_stored_in_another_type():
    in_bytes = digest(with_bits(hidden=8))
    assert digest(with_bits(hidden=5)) == in_bytes
    assert digest(with_bits(hidden=4)) != in_bytes


def _net(*layers, shape=(8, 8, 4)):
    x = inputs = kd.keras.Input(shape)
    for layer in layers:
        x = layer(x)
    model = kd.keras.Model(inputs, x)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    return model


@pytest.mark.parametrize(
    "change",
    [
        {"filters": 9},
        {"kernel_size": 1},
        {"strides": 2},
        {"padding": "same"},
        {"activation": "relu"},
        {"dilation_rate": 2},
    ],
    ids=str,
)
def test_the_shape_and_the_options_of_an_operator_count(change):
    before, after = (
        float_tflite(_net(kd.keras.layers.Conv2D(**{"filters": 8, "kernel_size": 3, **values})))
        for values in ({}, change)
    )
    assert digest(before) != digest(after)


def test_what_an_operator_is_told_by_a_constant_counts():
    # Shapes are the same, the axes are not.
    rows, columns = (float_tflite(_net(kd.keras.layers.Lambda(by_axis(axis)))) for axis in (1, 2))
    assert digest(rows) != digest(columns)


def by_axis(axis):
    return lambda x: kd.tf.reduce_mean(x, axis=axis)


def test_which_tensors_an_operator_reads_counts():
    def joined(first, second):
        layers = kd.keras.layers
        inputs = kd.keras.Input((6, 6, 4))
        x = layers.ReLU()(inputs)
        found = {"inputs": inputs, "relu": x}
        return kd.keras.Model(inputs, layers.Add()([layers.Subtract()([x, inputs]), found[first]]), name=second)

    assert digest(float_tflite(joined("inputs", "a"))) != digest(float_tflite(joined("relu", "a")))
    assert digest(float_tflite(joined("relu", "a"))) == digest(float_tflite(joined("relu", "b")))


def test_per_tensor_and_per_channel_are_told_apart():
    model = models.dense()
    per_channel, per_tensor = digest(int8_file(model)), digest(with_bits())
    assert per_channel != per_tensor


def test_a_rewritten_operator_counts():
    layers = kd.keras.layers
    model = _net(layers.AveragePooling2D(8), layers.Flatten(), layers.Dense(3))
    done = rewrite(model, ["mean_pooling"])
    assert done.changes
    assert digest(float_tflite(model)) != digest(float_tflite(done.model))
