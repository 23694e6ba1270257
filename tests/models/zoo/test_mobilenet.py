"""Sizes of Howard et al. 2017 (table 6), Sandler et al. 2018 (table 4), and of Keras' own networks."""

import pytest

from tfcompress import keras_door as kd
from tfcompress.models import zoo
from tfcompress.models.zoo.layers import scaled


@pytest.mark.parametrize(("spec", "total"), [("mobilenet_v1", 4_253_864), ("mobilenet_v2", 3_538_984)])
def test_sizes_are_those_of_the_papers(counts, spec, total):
    assert counts(spec, (32, 32, 3), 1000)[0] == total


@pytest.mark.parametrize(
    ("spec", "theirs", "width", "total"),
    [("mobilenet_v1", "MobileNet", 0.25, 475_544), ("mobilenet_v2", "MobileNetV2", 0.35, 1_691_208)],
)
def test_narrow_networks_have_the_size_of_keras_own(counts, spec, theirs, width, total):
    with kd.tf.Graph().as_default():
        expected = getattr(kd.keras.applications, theirs)(weights=None, input_shape=(32, 32, 3), alpha=width)
        assert counts(f"{spec}:width={width}", (32, 32, 3), 1000)[0] == expected.count_params() == total


def test_rectifiers_saturate_at_six():
    model = zoo.build("mobilenet_v1:width=0.25", (17, 17, 1), 2)
    rectifiers = [layer for layer in model.layers if isinstance(layer, kd.keras.layers.ReLU)]
    assert len(rectifiers) == 27
    assert {float(layer.max_value) for layer in rectifiers} == {6.0}


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(32, 1, 32), (32, 0.25, 8), (32, 0.1, 8), (24, 0.35, 8), (96, 0.35, 32), (32, 0.6, 24), (1280, 1.4, 1792)],
)
def test_channels_are_multiples_of_eight_that_lose_at_most_a_tenth(channels, width, expected):
    assert scaled(channels, width) == expected
    assert expected % 8 == 0
    assert expected >= 0.9 * channels * width
