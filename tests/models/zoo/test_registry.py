"""Names, specs, refusals, seeds, and what holds of every network."""

import subprocess
import sys

import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.models import clone, load_model, zoo
from tfcompress.vocabulary.errors import ModelError

SMALL = {
    "ds_cnn": ("ds_cnn", (49, 10, 1)),
    "lenet300": ("lenet300", (8, 8, 1)),
    "lenet5": ("lenet5", (16, 16, 1)),
    "mobilenet_v1": ("mobilenet_v1:width=0.25", (17, 17, 1)),
    "mobilenet_v2": ("mobilenet_v2:width=0.25", (17, 17, 1)),
    "resnet20": ("resnet20", (5, 4, 1)),
    "resnet56": ("resnet56", (4, 4, 1)),
    "resnet8": ("resnet8", (8, 8, 1)),
    "vgg16": ("vgg16:width=0.125", (32, 32, 1)),
}


def test_names_and_is_zoo_need_no_tensorflow():
    code = (
        "import sys; from tfcompress.models import zoo; names = zoo.names();"
        "assert zoo.is_zoo('resnet8') and zoo.is_zoo('vgg16:width=0.5') and not zoo.is_zoo('resnet8.h5');"
        "assert 'tensorflow' not in sys.modules; print(*names)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.split() == sorted(SMALL)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_every_network_is_fit_for_compression(name):
    spec, shape = SMALL[name]
    model = load_model(zoo.build(spec, shape, 4))
    assert (model.name, model.input_shape, model.output_shape) == (name, (None, *shape), (None, 4))

    x = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    probabilities = model(x).numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert np.ptp(probabilities, axis=0).max() > 0, "the output does not depend on the input"

    with_kernel = (kd.keras.layers.Conv2D, kd.keras.layers.DepthwiseConv2D, kd.keras.layers.Dense)
    for layer in model.layers:
        if isinstance(layer, kd.keras.layers.BatchNormalization):
            before = layer.inbound_nodes[0].inbound_layers
            assert isinstance(before, with_kernel)
            assert before.activation is kd.keras.activations.linear

    if name != "resnet56":  # the same layers as resnet20, and a minute of graph building
        quantized = kd.tfmot.quantization.keras.quantize_model(clone(model))
        assert all(hasattr(layer, "quantize_config") for layer in quantized.layers[2:])


def test_the_seed_decides_the_weights():
    def weights(seed):
        return np.concatenate([w.ravel() for w in zoo.build("resnet8", (8, 8, 1), 3, seed).get_weights()])

    first = weights(5)
    kd.tf.random.uniform((3,))
    np.testing.assert_array_equal(weights(5), first)
    assert np.mean(weights(6) == first) < 0.2  # biases and BatchNormalization start equal


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
