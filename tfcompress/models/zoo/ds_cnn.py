"""A depthwise separable network for keyword spotting (Zhang et al. 2017, "Hello Edge", arXiv:1711.07128)."""

from __future__ import annotations

from typing import Any

from tfcompress import keras_door as kd
from tfcompress.models.zoo.layers import LayerMaker
from tfcompress.models.zoo.registry import register


@register(smallest=(2, 2))
def ds_cnn(inputs: Any, classes: int, make: LayerMaker) -> Any:
    """The small DS-CNN as MLPerf Tiny uses it; 24,908 parameters at 49×10×1, 12 classes.

    The input is a spectrogram `[frames, coefficients, 1]`. A 10×4 convolution of stride 2 and four depthwise
    separable blocks of 64 channels, all with bias and BatchNormalization (Banbury et al. 2021,
    arXiv:2106.07597). The mean is taken over all frames; the benchmark's
    pooling leaves out the last.
    """
    x = make.conv_bn(inputs, 64, (10, 4), "conv1", strides=2, use_bias=True)
    x = make.dropout(make.relu(x, "conv1"), 0.2, "conv1_dropout")
    for index in range(1, 5):
        block = f"block{index}"
        x = make.relu(make.depthwise_bn(x, f"{block}_depthwise", use_bias=True), f"{block}_depthwise")
        x = make.conv_bn(x, 64, 1, f"{block}_pointwise", use_bias=True)
        x = make.relu(x, f"{block}_pointwise")
    x = make.dropout(x, 0.4, "dropout")
    x = kd.keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return make.classifier(x, classes)
