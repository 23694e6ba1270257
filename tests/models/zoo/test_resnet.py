"""Sizes of He et al. 2015 (arXiv:1512.03385), table 6, and MLPerf Tiny's trained file."""

from pathlib import Path

import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.models import load_model, zoo

REFERENCE = Path(__file__).parents[4] / "shared/models/mlperf_tiny_ic/pretrainedResnet.h5"


def cifar_resnet_parameters(blocks):
    """Trainable parameters of He et al., section 4.2: convolutions without bias, γ and β, one Dense layer."""
    filters = [16] + [16] * 2 * blocks + [32] * 2 * blocks + [64] * 2 * blocks
    convolutions = sum(9 * a * b for a, b in zip([3, *filters], filters, strict=False))
    return convolutions + 2 * sum(filters) + 64 * 10 + 10, 2 * sum(filters)


@pytest.mark.parametrize(
    ("name", "blocks", "millions", "total"),
    [("resnet20", 3, 0.27, 271_098), ("resnet56", 9, 0.85, 857_082)],
)
def test_cifar_resnets_have_the_paper_s_size(counts, name, blocks, millions, total):
    trainable, moments = cifar_resnet_parameters(blocks)
    assert counts(name, (32, 32, 3), 10) == (trainable + moments, trainable)
    assert trainable + moments == total
    assert round(trainable / 1e6, 2) == millions


def test_resnet8_has_mlperf_tiny_s_size(counts):
    assert counts("resnet8", (32, 32, 3), 10) == (78_666, 78_186)


@pytest.mark.skipif(not REFERENCE.exists(), reason="MLPerf Tiny's trained network is not here")
def test_resnet8_is_mlperf_tiny_s_network():
    reference = load_model(REFERENCE)
    model = zoo.build("resnet8", (32, 32, 3), 10)

    def structure(network):
        return [(type(part).__name__, part.output_shape, part.count_params()) for part in network.layers]

    assert structure(model) == structure(reference)
    model.set_weights(reference.get_weights())
    x = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(model(x), reference(x), atol=1e-6)


@pytest.mark.parametrize("size", [8, 7])
def test_the_shortcut_is_every_second_pixel_and_zero_channels(size):
    model = zoo.build("resnet20", (size, size, 1), 2)
    shortcut = model.get_layer("stage2_block1_shortcut")
    before = model.get_layer("stage1_block3_relu").output
    x = np.random.default_rng(0).normal(size=(2, size, size, 1)).astype(np.float32)
    narrow, wide = (values.numpy() for values in kd.keras.Model(model.input, [before, shortcut.output])(x))
    np.testing.assert_array_equal(wide[..., :16], narrow[:, ::2, ::2])
    assert wide.shape[-1] == 32
    assert not wide[..., 16:].any()
    assert narrow.any()
