import pytest
from fixtures import models

from tfcompress import keras_door as kd
from tfcompress.convert.converter import float_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.operations import operations
from tfcompress.models.channels import channel_groups, macs, narrowed, parameters, remaining


@pytest.mark.parametrize("make", [models.conv_bn, models.residual, lambda: models.depthwise(2)])
def test_multiply_accumulates_are_those_of_the_file(make):
    model = make()
    assert macs(model, {}) == operations(Flatbuffer(float_tflite(model))).macs
    assert parameters(model, {}) == model.count_params()


def test_fewer_channels_are_counted_without_making_the_model():
    model = models.conv_bn()
    groups, kept = channel_groups(model), {"c1": [0, 3, 5]}
    smaller, masks = narrowed(model, groups, kept), remaining(groups, kept)
    assert macs(model, masks) == macs(smaller, {}) == 16 * 9 * 4 * 3 + 4 * 9 * 3 * 8 + 32 * 3
    assert parameters(model, masks) == smaller.count_params()


def test_every_kind_of_layer_is_counted():
    layers = kd.keras.layers
    inputs = layers.Input((8, 4))
    x = layers.Conv1D(5, 3, padding="same")(inputs)
    x = layers.DepthwiseConv1D(3, padding="same", depth_multiplier=2)(x)
    x = layers.SeparableConv1D(6, 3, padding="same")(x)
    x = layers.Conv1DTranspose(3, 2, strides=2)(x)
    model = kd.keras.Model(inputs, layers.Dense(2)(x))
    by_hand = [8 * 3 * 4 * 5, 8 * 3 * 10, 8 * (3 * 10 + 10 * 6), 8 * 2 * 6 * 3, 16 * 3 * 2]
    assert macs(model, {}) == sum(by_hand)


def test_an_open_size_is_refused():
    layers = kd.keras.layers
    inputs = layers.Input((None, 4))
    with pytest.raises(ValueError, match="sizes must be known"):
        macs(kd.keras.Model(inputs, layers.Conv1D(5, 3)(inputs)), {})
