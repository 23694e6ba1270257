"""MobileNetV1 (Howard et al. 2017, arXiv:1704.04861) and V2 (Sandler et al. 2018, arXiv:1801.04381)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tfcompress import keras_door as kd
from tfcompress.models.zoo.layers import LayerMaker, scaled
from tfcompress.models.zoo.registry import register
from tfcompress.vocabulary.schema import Schema


class MobileNetOptions(Schema):
    """What may follow ``mobilenet_v1:`` and ``mobilenet_v2:``."""

    width: float = Field(default=1.0, gt=0, le=4)
    """The papers' width multiplier of every layer's channels (rounded to multiples of 8). Defaults to 1."""


# Both networks halve the map five times; from 17 pixels on, each halving still has something to halve.
_SMALLEST = (17, 17)

_V1_BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)),
    *((512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)),
)
"""(filters, stride) of each depthwise separable block: table 1 of Howard et al."""

_V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""(expansion t, filters c, blocks n, first stride s) of each stage: table 2 of Sandler et al."""


@register(smallest=_SMALLEST, options=MobileNetOptions)
def mobilenet_v1(inputs: Any, classes: int, make: LayerMaker, width: float) -> Any:
    """MobileNetV1; at 1,000 classes 4,253,864 parameters with width 1 and 475,544 with width 0.25.

    Howard et al., tables 1 and 6 (4.2 M and 0.5 M); the size of the image does not change the count.
    """
    x = make.conv_bn(inputs, scaled(32, width), 3, "conv1", strides=2)
    x = make.relu6(x, "conv1")
    for index, (filters, stride) in enumerate(_V1_BLOCKS, start=1):
        block = f"block{index}"
        x = make.relu6(make.depthwise_bn(x, f"{block}_depthwise", strides=stride), f"{block}_depthwise")
        x = make.conv_bn(x, scaled(filters, width), 1, f"{block}_pointwise")
        x = make.relu6(x, f"{block}_pointwise")
    x = kd.keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return make.classifier(x, classes)


@register(smallest=_SMALLEST, options=MobileNetOptions)
def mobilenet_v2(inputs: Any, classes: int, make: LayerMaker, width: float) -> Any:
    """MobileNetV2; at 1,000 classes 3,538,984 parameters with width 1 (Sandler et al., table 4: 3.4 M).

    As in the paper, widths below 1 leave the last convolution at 1,280 filters.
    """
    x = make.conv_bn(inputs, scaled(32, width), 3, "conv1", strides=2)
    x = make.relu6(x, "conv1")
    for stage, (expansion, filters, blocks, first_stride) in enumerate(_V2_STAGES, start=1):
        for index in range(1, blocks + 1):
            stride = first_stride if index == 1 else 1
            x = _inverted_residual(x, make, f"stage{stage}_block{index}", expansion, scaled(filters, width), stride)
    x = make.relu6(make.conv_bn(x, scaled(1280, max(1.0, width)), 1, "conv2"), "conv2")
    x = kd.keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return make.classifier(x, classes)


def _inverted_residual(x: Any, make: LayerMaker, block: str, expansion: int, filters: int, stride: int) -> Any:
    """Expand, filter depthwise, project linearly: Sandler et al., section 3.3 and table 1."""
    y = x
    if expansion > 1:
        y = make.conv_bn(y, expansion * x.shape[-1], 1, f"{block}_expand")
        y = make.relu6(y, f"{block}_expand")
    y = make.relu6(make.depthwise_bn(y, f"{block}_depthwise", strides=stride), f"{block}_depthwise")
    y = make.conv_bn(y, filters, 1, f"{block}_project")
    if stride == 1 and x.shape[-1] == filters:
        y = kd.keras.layers.Add(name=f"{block}_add")([x, y])
    return y
