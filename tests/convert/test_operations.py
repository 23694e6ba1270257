from pathlib import Path

import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.convert.converter import float_tflite, quantized_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.operations import operations
from tfcompress.convert.settings import ConversionSettings

OFFICIAL = Path(__file__).parents[3] / "shared" / "models" / "mlperf_tiny_ic"


def _model(shape, *layers):
    inputs = kd.keras.Input(shape, batch_size=1)
    x = inputs
    for layer in layers:
        x = layer(x)
    return kd.keras.Model(inputs, x)


@pytest.mark.parametrize(
    ("shape", "make", "macs"),
    [
        ((8, 6, 3), lambda k: k.Conv2D(5, (3, 2), strides=2, padding="same"), 4 * 3 * 5 * 3 * 2 * 3),
        ((8, 6, 4), lambda k: k.Conv2D(6, 3, groups=2), 6 * 4 * 6 * 9 * 2),
        ((8, 6, 3), lambda k: k.DepthwiseConv2D(3, depth_multiplier=2), 6 * 4 * 6 * 9),
        ((4, 4, 3), lambda k: k.Conv2DTranspose(5, 3, strides=2, padding="same"), 4 * 4 * 3 * 9 * 5),
        ((7,), lambda k: k.Dense(5), 35),
        ((6, 4), lambda k: k.Dense(5), 6 * 4 * 5),
        ((6, 4), lambda k: k.LSTM(3), 6 * 4 * 3 * (4 + 3)),
        ((6, 4), lambda k: k.Lambda(lambda x: kd.tf.matmul(x, x, transpose_b=True)), 6 * 6 * 4),
        ((6, 4), lambda k: k.ReLU(), 0),
    ],
)
def test_macs_are_those_of_the_layer(shape, make, macs):
    content = float_tflite(_model(shape, make(kd.keras.layers)), ConversionSettings())
    found = operations(Flatbuffer(content))
    assert found.macs == macs
    assert found.bit_operations == macs * 32 * 32


def test_bits_are_those_that_the_weights_need():
    model = _model((8,), kd.keras.layers.Dense(16), kd.keras.layers.Dense(4))
    rng = np.random.default_rng(0)
    grid = rng.integers(-7, 8, (8, 16)) / 7
    # So that every channel's range is that of the grid.
    grid[0] = 1
    model.layers[1].kernel.assign(grid)
    samples = rng.normal(size=(20, 8)).astype(np.float32)
    content = quantized_tflite(model, "int8", ConversionSettings(), samples)
    found = operations(Flatbuffer(content))
    assert found.macs == 8 * 16 + 16 * 4
    # 127 / 7 is no integer: after rounding, the first layer's bytes are no multiples of one step.
    assert found.bit_operations == found.macs * 8 * 8
    model.layers[1].kernel.assign(np.sign(grid))
    found = operations(Flatbuffer(quantized_tflite(model, "int8", ConversionSettings(), samples)))
    assert found.bit_operations == 8 * 16 * 2 * 8 + 16 * 4 * 8 * 8


@pytest.mark.skipif(not OFFICIAL.exists(), reason="the official networks are not here")
def test_the_official_network_has_the_published_macs():
    found = operations(Flatbuffer((OFFICIAL / "pretrainedResnet_quant.tflite").read_bytes()))
    assert found.macs == 12_501_632
    assert found.bit_operations == found.macs * 64
