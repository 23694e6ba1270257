"""A residual network of convolutions over time for sound (Choi et al. 2019, arXiv:1904.03814)."""

from __future__ import annotations

from typing import Any

from tfcompress import keras_door as kd
from tfcompress.models.zoo.layers import LayerMaker
from tfcompress.models.zoo.registry import register

_FILTERS = (24, 32, 48)
"""Of the residual blocks, each of stride 2."""


@register(smallest=(8, 1))
def conv1d_audio(inputs: Any, classes: int, make: LayerMaker) -> Any:
    """TC-ResNet8: 65,836 parameters at 40 bins, 12 classes (Choi et al., table 2: 66 K).

    The input is a spectrogram `[frames, bins, 1]`; its bins are the channels of one-dimensional convolutions.
    """
    layers = kd.keras.layers
    x = layers.Reshape((inputs.shape[1], inputs.shape[2] * inputs.shape[3]), name="frames")(inputs)
    x = make.relu(make.conv1d_bn(x, 16, 3, "conv1"), "conv1")
    for index, filters in enumerate(_FILTERS, start=1):
        block = f"block{index}"
        shortcut = make.conv1d_bn(x, filters, 1, f"{block}_shortcut", strides=2)
        shortcut = make.relu(shortcut, f"{block}_shortcut")
        x = make.relu(make.conv1d_bn(x, filters, 9, f"{block}_conv1", strides=2), f"{block}_conv1")
        x = make.conv1d_bn(x, filters, 9, f"{block}_conv2")
        x = make.relu(layers.Add(name=f"{block}_add")([x, shortcut]), block)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    x = make.dropout(x, 0.5, "dropout")
    return make.classifier(x, classes)
