"""LeNet-300-100 and LeNet-5 (LeCun et al. 1998, "Gradient-based learning applied to document recognition").

Both are the standard subjects of the pruning literature (Han et al. 2015, arXiv:1506.02626, tables 3 and 4:
267 K and 431 K parameters).
"""

from __future__ import annotations

from typing import Any

from tfcompress import keras_door as kd
from tfcompress.models.zoo.layers import LayerMaker
from tfcompress.models.zoo.registry import register


@register(smallest=None)
def lenet300(inputs: Any, classes: int, make: LayerMaker) -> Any:
    """Hidden layers of 300 and 100 units, for inputs of any rank; 266,610 parameters at 28×28×1, 10 classes."""
    x = kd.keras.layers.Flatten(name="flatten")(inputs)
    x = make.dense(x, 300, "fc1")
    x = make.dense(x, 100, "fc2")
    return make.classifier(x, classes)


@register(smallest=(16, 16))
def lenet5(inputs: Any, classes: int, make: LayerMaker) -> Any:
    """The 20-50-500 variant of Caffe's MNIST example; 431,080 parameters at 28×28×1, 10 classes.

    Two valid 5×5 convolutions, each followed by 2×2 max pooling, and a hidden layer of 500 units. Unlike
    Caffe's, the convolutions have rectifiers; these cost nothing in an integer file, where they are fused.
    """
    x = inputs
    for index, filters in enumerate((20, 50), start=1):
        x = make.conv(x, filters, 5, f"conv{index}", padding="valid", activation="relu")
        x = kd.keras.layers.MaxPooling2D(2, name=f"pool{index}")(x)
    x = kd.keras.layers.Flatten(name="flatten")(x)
    x = make.dense(x, 500, "fc1")
    return make.classifier(x, classes)
