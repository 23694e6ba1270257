"""The networks of keras.applications, with all weights drawn, at every layer."""

import numpy as np
import pytest
from fixtures.keras_3 import randomised, with_fitting_moments

from tfcompress import keras_door as kd
from tfcompress.models.translation.comparison import compare
from tfcompress.models.translation.graph import build

QUICK = {"MobileNet": 32, "MobileNetV3Small": 32}
SLOW = {
    "MobileNetV2": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "VGG16": 32,
    "InceptionV3": 75,
    "DenseNet121": 32,
    "Xception": 71,
    "NASNetMobile": 32,
    "ConvNeXtTiny": 32,
}
"""Network -> the side of its input in pixels."""


def spread(model, inputs, depth):
    """How much the outputs of the layer at `depth`, 0...1, vary over `inputs`, relative to their size."""
    layer = model.layers[int(len(model.layers) * depth)]
    outputs = np.asarray(kd.keras.Model(model.input, layer.output)(inputs))
    return outputs.std(axis=0).max() / np.abs(outputs).max()


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_every_layer_of_an_application_agrees(name):
    side = (QUICK | SLOW)[name]
    application = getattr(kd.keras_3.applications, name)
    inputs = np.random.default_rng(1).uniform(0, 255, (8, side, side, 3)).astype(np.float32)
    model = randomised(application(weights=None, input_shape=(side, side, 3), classes=10))
    with_fitting_moments(model, inputs)
    translated, pairs = build(model)
    differences = compare(pairs)
    worst = max(differences, key=differences.get)
    print(f"{name}: {len(differences)} layers, {differences[worst]:.1e} at {worst}")
    assert len(differences) >= len(translated.layers) - 1
    assert all(spread(translated, inputs, depth) > 0.01 for depth in (0.25, 0.5, 0.75))
