"""VGG-16 (Simonyan and Zisserman 2014, arXiv:1409.1556, configuration D)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tfcompress import keras_door as kd
from tfcompress.models.zoo.layers import LayerMaker, scaled
from tfcompress.models.zoo.registry import register
from tfcompress.vocabulary.schema import Schema

_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""(filters, convolutions) between poolings."""


class VggOptions(Schema):
    """What may follow ``vgg16:``."""

    width: float = Field(default=1.0, gt=0, le=4)
    """Multiplies the channels of every hidden layer (rounded to multiples of 8). Defaults to 1."""
    head: Literal["cifar", "imagenet"] = "cifar"
    """`imagenet`: the paper's network. `cifar` (the default): its usual form for small images."""


@register(smallest=(32, 32), options=VggOptions)
def vgg16(inputs: Any, classes: int, make: LayerMaker, width: float, head: str) -> Any:
    """VGG-16 with one of two heads.

    ``head=imagenet`` is the paper's: convolutions with bias, two hidden layers of 4,096 units, dropout 0.5;
    138,357,544 parameters at 224×224×3, 1,000 classes (table 2: 138 M). ``head=cifar`` has BatchNormalization
    behind each convolution and one hidden layer of 512 units, as in Li et al. 2017 (arXiv:1608.08710,
    table 1: 1.5 × 10⁷); 14,995,146 parameters at 32×32×3, 10 classes.
    """
    x = inputs
    for stage, (filters, convolutions) in enumerate(_STAGES, start=1):
        for index in range(1, convolutions + 1):
            name, channels = f"stage{stage}_conv{index}", scaled(filters, width)
            if head == "cifar":
                x = make.relu(make.conv_bn(x, channels, 3, name), name)
            else:
                x = make.conv(x, channels, 3, name, activation="relu")
        x = kd.keras.layers.MaxPooling2D(2, name=f"stage{stage}_pool")(x)
    x = kd.keras.layers.Flatten(name="flatten")(x)
    for index, units in enumerate((512,) if head == "cifar" else (4096, 4096), start=1):
        x = make.dense(x, scaled(units, width), f"fc{index}")
        x = make.dropout(x, 0.5, f"fc{index}_dropout")
    return make.classifier(x, classes)
