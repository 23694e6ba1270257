"""Names, specs, refusals, seeds, and what holds of every network."""

import subprocess
import sys

import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.proof import prove_integer
from tfcompress.convert.settings import ConversionSettings
from tfcompress.evaluate import predict
from tfcompress.models import clone, load_model, zoo
from tfcompress.vocabulary.errors import ModelError

SMALL = {
    "conv1d_audio": ("conv1d_audio", (8, 5, 1)),
    "ds_cnn": ("ds_cnn", (49, 10, 1)),
    "gru_audio": ("gru_audio:units=6", (4, 5, 1)),
    "lenet300": ("lenet300", (8, 8, 1)),
    "lenet5": ("lenet5", (16, 16, 1)),
    "lstm_text": ("lstm_text:units=6,width=5", (7,)),
    "mobilenet_v1": ("mobilenet_v1:width=0.25", (17, 17, 1)),
    "mobilenet_v2": ("mobilenet_v2:width=0.25", (17, 17, 1)),
    "resnet20": ("resnet20", (5, 4, 1)),
    "resnet56": ("resnet56", (4, 4, 1)),
    "resnet8": ("resnet8", (8, 8, 1)),
    "transformer_text": ("transformer_text:width=8,embedding=6,heads=2", (7,)),
    "vgg16": ("vgg16:width=0.125", (32, 32, 1)),
}
VOCABULARY = 11
OF_TOKENS = {"lstm_text", "transformer_text"}
PARTLY_QUANTIZABLE = {"conv1d_audio", "gru_audio", *OF_TOKENS}
"""Quantization-aware training has no form of Conv1D, recurrent layers, attention, Embedding and LayerNormalization."""


def built(name, classes, seed=0):
    spec, shape = SMALL[name]
    return zoo.build(spec, shape, classes, seed, VOCABULARY if name in OF_TOKENS else None)


def inputs_for(name, count=3):
    rng, shape = np.random.default_rng(0), SMALL[name][1]
    if name in OF_TOKENS:
        return rng.integers(0, VOCABULARY, (count, *shape), dtype=np.int32)
    return rng.normal(size=(count, *shape)).astype(np.float32)


def test_names_and_is_zoo_need_no_tensorflow():
    code = (
        "import sys; from tfcompress.models import zoo; names = zoo.names();"
        "assert zoo.is_zoo('resnet8') and zoo.is_zoo('vgg16:width=0.5') and not zoo.is_zoo('resnet8.h5');"
        "assert (zoo.input_dtype('resnet8'), zoo.input_dtype('lstm_text:units=8')) == ('float32', 'int32');"
        "assert 'tensorflow' not in sys.modules; print(*names)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.split() == sorted(SMALL)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_every_network_is_fit_for_compression(name):
    shape = SMALL[name][1]
    model = load_model(built(name, 4))
    assert (model.name, model.input_shape, model.output_shape) == (name, (None, *shape), (None, 4))
    assert model.inputs[0].dtype.name == zoo.input_dtype(name)

    x = inputs_for(name)
    copy = clone(model)
    np.testing.assert_array_equal(copy(x), model(x))
    probabilities = model(x).numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert np.ptp(probabilities, axis=0).max() > 0, "the output does not depend on the input"

    with_kernel = (
        kd.keras.layers.Conv1D,
        kd.keras.layers.Conv2D,
        kd.keras.layers.DepthwiseConv2D,
        kd.keras.layers.Dense,
    )
    for layer in model.layers:
        if isinstance(layer, kd.keras.layers.BatchNormalization):
            before = layer.inbound_nodes[0].inbound_layers
            assert isinstance(before, with_kernel)
            assert before.activation is kd.keras.activations.linear

    if name not in {
        "resnet56",
        *PARTLY_QUANTIZABLE,
    }:  # resnet56: the same layers as resnet20, and a minute of graph building
        quantized = kd.tfmot.quantization.keras.quantize_model(clone(model))
        assert all(hasattr(layer, "quantize_config") for layer in quantized.layers[2:])


@pytest.mark.parametrize("name", sorted(PARTLY_QUANTIZABLE))
def test_networks_of_text_and_sound_convert_to_integers(name):
    model = built(name, 4)
    content = quantized_tflite(model, "int8", ConversionSettings(), inputs_for(name, 20))
    assert prove_integer(Flatbuffer(content)).full_integer
    np.testing.assert_allclose(predict(content, inputs_for(name)), model(inputs_for(name)), atol=0.05)


@pytest.mark.parametrize("name", ["resnet8", "transformer_text", "lstm_text", "gru_audio", "conv1d_audio"])
def test_the_seed_decides_the_weights(name):
    def weights(seed):
        return np.concatenate([w.ravel() for w in built(name, 3, seed).get_weights()])

    first = weights(5)
    kd.tf.random.uniform((3,))
    np.testing.assert_array_equal(weights(5), first)
    assert np.mean(weights(6) == first) < 0.25  # biases and BatchNormalization start equal


def test_layers_of_equal_shape_start_differently():
    model = zoo.build("resnet20", (8, 8, 1), 3)
    first, second = (model.get_layer(f"stage1_block{i}_conv1").get_weights()[0] for i in (1, 2))
    assert not np.any(first == second)


@pytest.mark.parametrize(
    ("spec", "shape", "classes", "messages"),
    [
        ("resnet9", (8, 8, 1), 10, ["must be one of", "resnet8", "'resnet9'"]),
        ("vgg16:widht=2", (32, 32, 3), 10, ["'widht'", "width=1.0", "head=cifar"]),
        ("vgg16:head=mnist", (32, 32, 3), 10, ["'cifar' or 'imagenet'", "'mnist'"]),
        ("mobilenet_v1:width=-1", (32, 32, 3), 10, ["'width'", "greater than 0", "'-1'"]),
        ("mobilenet_v1:width", (32, 32, 3), 10, ["key=value", "'width'"]),
        ("mobilenet_v1:width=1,width=2", (32, 32, 3), 10, ["once", "'width=2'"]),
        ("resnet8:width=1", (8, 8, 1), 10, ["'width'", "defaults: none"]),
        ("lenet5", (8, 8, 1), 10, ["at least 16 x 16", "(8, 8, 1)"]),
        ("lenet5", (784,), 10, ["[height, width, channels]", "(784,)"]),
        ("lenet300", (None, 3), 10, ["positive whole number", "(None, 3)"]),
        ("lstm_text", (8, 8, 1), 4, ["of shape (length,)", "needs their number", "vocabulary_size=None"]),
        ("transformer_text:heads=3", (8,), 4, ["heads must divide width", "heads=3 and width=64"]),
        ("conv1d_audio", (7, 40, 1), 4, ["at least 8 x 1"]),
        ("resnet8", (8, 8, 1), 1, ["at least 2 classes", "classes=1"]),
        ("vgg16:head=x", (8, 8, 1), 0, ["'cifar' or 'imagenet'", "32 x 32", "2 classes"]),
    ],
)
def test_what_cannot_be_built_is_said_at_once(spec, shape, classes, messages):
    with pytest.raises(ModelError) as error:
        zoo.build(spec, shape, classes)
    assert [message for message in messages if message not in str(error.value)] == []


@pytest.mark.parametrize(("name", "smallest"), [("mobilenet_v1", 17), ("resnet20", 4), ("lenet5", 16), ("vgg16", 32)])
def test_the_smallest_input_is_exact(name, smallest):
    spec = SMALL[name][0]
    zoo.build(spec, (smallest, smallest, 1), 2)
    with pytest.raises(ModelError, match="at least"):
        zoo.build(spec, (smallest, smallest - 1, 1), 2)


def test_a_network_of_real_numbers_takes_no_token_ids():
    with pytest.raises(ModelError, match="networks for these: lstm_text, transformer_text"):
        zoo.build("resnet8", (8, 8, 1), 3, vocabulary_size=11)
