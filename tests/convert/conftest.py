import numpy as np
import pytest
from fixtures.models import conv_bn, inputs_for

from tfcompress import keras_door as kd
from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.settings import ConversionSettings


@pytest.fixture(scope="session")
def network():
    """A network of convolutions with BN, and inputs for it."""
    model = conv_bn()
    return model, inputs_for(model)


@pytest.fixture(scope="session")
def int8_file(network):
    """It as full-integer .tflite, with its names."""
    return quantized_tflite(network[0], "int8", ConversionSettings(), network[1])


@pytest.fixture(scope="session")
def island():
    """A network with ELUs, which the converter leaves in float, in its middle and at its end; and inputs for it."""
    layers = kd.keras.layers
    x = inputs = layers.Input((8,))
    x = layers.ELU(name="middle")(layers.Dense(6, name="first")(x))
    x = layers.ELU(name="last")(layers.Dense(3, name="second")(x))
    model = kd.keras.Model(inputs, x, name="net")
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model, inputs_for(model)


@pytest.fixture(scope="session")
def island_file(island):
    return quantized_tflite(island[0], "int8", ConversionSettings(allow_float=True), island[1])
