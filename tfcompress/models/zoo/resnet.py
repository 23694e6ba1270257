"""Residual networks for small images (He et al. 2015, "Deep Residual Learning", arXiv:1512.03385).

`resnet8` is MLPerf Tiny's image classification network (Banbury et al. 2021, arXiv:2106.07597);
`resnet20` and `resnet56` are the CIFAR networks of He et al., section 4.2 and table 6 (0.27 M and 0.85 M parameters).
"""

from __future__ import annotations

from typing import Any

from tfcompress import keras_door as kd
from tfcompress.models.zoo.layers import LayerMaker
from tfcompress.models.zoo.registry import register

_STAGE_FILTERS = (16, 32, 64)


@register(smallest=(4, 4))
def resnet8(inputs: Any, classes: int, make: LayerMaker) -> Any:
    """MLPerf Tiny's ResNet v1: one block in each of three stages; 78,666 parameters at 32×32×3, 10 classes.

    Layer for layer the benchmark's network: convolutions with bias, a 1×1 convolution without
    BatchNormalization as the shortcut of stages 2 and 3, average pooling over the whole last map. Its weight
    decay (L2, 1e-4) is left to the training.
    """
    x = make.relu(make.conv_bn(inputs, 16, 3, "conv1", use_bias=True), "conv1")
    for stage, filters in enumerate(_STAGE_FILTERS, start=1):
        block, stride = f"stage{stage}_block1", 1 if stage == 1 else 2
        y = make.conv_bn(x, filters, 3, f"{block}_conv1", strides=stride, use_bias=True)
        y = make.relu(y, f"{block}_conv1")
        y = make.conv_bn(y, filters, 3, f"{block}_conv2", use_bias=True)
        if stage > 1:
            x = make.conv(x, filters, 1, f"{block}_shortcut", strides=stride)
        x = make.relu(kd.keras.layers.Add(name=f"{block}_add")([x, y]), block)
    x = kd.keras.layers.AveragePooling2D(tuple(x.shape[1:3]), name="pool")(x)
    x = kd.keras.layers.Flatten(name="flatten")(x)
    return make.classifier(x, classes)


@register(smallest=(4, 4))
def resnet20(inputs: Any, classes: int, make: LayerMaker) -> Any:
    """ResNet-20; 271,098 parameters at 32×32×3, 10 classes, of which training changes 269,722."""
    return _cifar_resnet(inputs, classes, make, blocks=3)


@register(smallest=(4, 4))
def resnet56(inputs: Any, classes: int, make: LayerMaker) -> Any:
    """ResNet-56; 857,082 parameters at 32×32×3, 10 classes, of which training changes 853,018."""
    return _cifar_resnet(inputs, classes, make, blocks=9)


def _cifar_resnet(inputs: Any, classes: int, make: LayerMaker, blocks: int) -> Any:
    """The 6·`blocks` + 2 layers of He et al., section 4.2, with parameter-free shortcuts (their option A)."""
    x = make.relu(make.conv_bn(inputs, 16, 3, "conv1"), "conv1")
    for stage, filters in enumerate(_STAGE_FILTERS, start=1):
        for index in range(1, blocks + 1):
            block, narrows = f"stage{stage}_block{index}", stage > 1 and index == 1
            y = make.conv_bn(x, filters, 3, f"{block}_conv1", strides=2 if narrows else 1)
            y = make.relu(y, f"{block}_conv1")
            y = make.conv_bn(y, filters, 3, f"{block}_conv2")
            if narrows:
                x = _subsampled_and_widened(x, block)
            x = make.relu(kd.keras.layers.Add(name=f"{block}_add")([x, y]), block)
    x = kd.keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return make.classifier(x, classes)


def _subsampled_and_widened(x: Any, block: str) -> Any:
    """Every second pixel of `x` `[batch, h, w, c]`, c zero channels behind: `[batch, ⌈h/2⌉, ⌈w/2⌉, 2c]`.

    Two layers without parameters that quantization passes through, and that the converter keeps in the integers
    of their input: no new scale, no rounding.
    """
    x = kd.keras.layers.MaxPooling2D(1, strides=2, name=f"{block}_shortcut_subsample")(x)
    # Keras has no layer that pads channels; told that channels come first, this one pads the last two axes.
    padding = ((0, 0), (0, x.shape[-1]))
    return kd.keras.layers.ZeroPadding2D(padding, data_format="channels_first", name=f"{block}_shortcut")(x)
