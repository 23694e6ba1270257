"""Pairs of layers between which each channel can be scaled by a factor of its own, and the outputs stay the same."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.rewrites._activations import activation_values
from tfcompress.models.rewrites._graph import Call, Graph
from tfcompress.models.rewrites._per_channel import follows_linear, per_channel_calls

_LEAVE_IT = "leave it: its weights keep their ranges"
_PASSING = (
    "MaxPooling2D AveragePooling2D GlobalMaxPooling2D GlobalAveragePooling2D ZeroPadding2D Cropping2D UpSampling2D "
    "Dropout SpatialDropout2D PReLU LeakyReLU"
)


@dataclass(frozen=True, eq=False)
class LayerPair:
    """Two layers, the second of which takes nothing but what the first makes, each channel up to a positive factor.

    Args:
        first: the name of the layer that makes the channels.
        second: that of the layer that takes them.
        channels: int `[inputs of the second's kernel]`, which of the first's channels stands at each place.
        clipping: the names of the layers at whose relu6 the factor ends, unless it becomes a ReLU.
    """

    first: str
    second: str
    channels: np.ndarray
    clipping: tuple[str, ...] = ()


class NoPairError(Exception):
    """A layer cannot be paired with what stands behind it: the reason, and a remedy; none where nothing does."""

    def __init__(self, reason: str, remedy: str = _LEAVE_IT) -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


def layer_pairs(model: Any, *, relu6_as_relu: bool) -> dict[str, LayerPair | NoPairError]:
    """For every Conv2D, DepthwiseConv2D and Dense, its pair with the next one, or why there is none.

    Between the two may stand what leaves channels apart and gives twice as much for twice as much (Nagel et al. 2019,
    section 4.1): ReLU, LeakyReLU, PReLU, pooling, padding, cropping, upsampling, Dropout, Flatten, Reshape; and a
    BatchNormalization that will be folded into the first.

    Args:
        model: a Sequential or Functional tf_keras model; it is not touched.
        relu6_as_relu: whether a relu6 may stand there too.

    Returns:
        By the name of the first layer, in the model's order.
    """
    graph = Graph(model)
    folded = {call for call in per_channel_calls(graph) if follows_linear(graph, call)}
    found: dict[str, LayerPair | NoPairError] = {}
    for call in graph.of(*_weighted()):
        try:
            found[call.layer.name] = _pair(graph, call, folded, relu6_as_relu=relu6_as_relu)
        except NoPairError as error:
            found[call.layer.name] = error
    return found


def kernel_attribute(layer: Any) -> str:
    """The attribute that holds the kernel of a layer that can be paired."""
    return "depthwise_kernel" if isinstance(layer, kd.keras.layers.DepthwiseConv2D) else "kernel"


def _weighted() -> tuple[type, ...]:
    layers = kd.keras.layers
    return layers.Conv2D, layers.DepthwiseConv2D, layers.Dense


def _pair(graph: Graph, first: Call, folded: Collection[Call], *, relu6_as_relu: bool) -> LayerPair:
    channels, clipping, call = np.arange(first.shape[-1]), [], first
    if not graph.called_once(first):
        raise NoPairError("it is called more than once")
    while True:
        if graph.is_output(call):
            raise NoPairError(f"what {call.layer.name} makes is the model's output", remedy="")
        if clips(call.layer):
            if not relu6_as_relu:
                reason = f"{call.layer.name} clips its channels, whatever they are scaled by"
                raise NoPairError(reason, "relu6_as_relu: true")
            clipping.append(call.layer.name)
        elif not _is_homogeneous(getattr(call.layer, "activation", None)):
            raise NoPairError(f"the activation of {call.layer.name} does not pass a factor on")
        user = graph.sole_user(call)
        if user is None:
            raise NoPairError(f"more than one layer takes what {call.layer.name} makes")
        if not graph.called_once(user):
            raise NoPairError(f"{user.layer.name} behind it is called more than once")
        if type(user.layer) in _weighted():
            if getattr(user.layer, "groups", 1) > 1:
                raise NoPairError(f"{user.layer.name} behind it takes channels in groups")
            return LayerPair(first.layer.name, user.layer.name, channels, tuple(clipping))
        if user not in folded:
            channels = _passed(user, channels)
        call = user


def _passed(call: Call, channels: np.ndarray) -> np.ndarray:
    """The channels behind the layer of `call`, which passes factors of them on."""
    layers, layer = kd.keras.layers, call.layer
    if getattr(layer, "data_format", None) != "channels_first":
        if type(layer) in [getattr(layers, name) for name in _PASSING.split()]:
            return channels
        if isinstance(layer, layers.ReLU) and (clips(layer) or (layer.max_value is None and not layer.threshold)):
            return channels
        if type(layer) is layers.Activation:
            return channels
        # Channels are the last axis, so rows of whole pixels hold them in their order.
        if type(layer) in (layers.Flatten, layers.Reshape) and call.shape[-1] and call.shape[-1] % len(channels) == 0:
            return np.tile(channels, call.shape[-1] // len(channels))
    raise NoPairError(f"{layer.name} ({type(layer).__name__}) behind it does not pass a factor of a channel on")


def clips(layer: Any) -> bool:
    """Whether `layer` has a relu6 for its activation, or is one."""
    if isinstance(layer, kd.keras.layers.ReLU):
        return layer.max_value is not None and not layer.threshold and not layer.negative_slope
    activation = getattr(layer, "activation", None)
    found = None if activation is None else activation_values(activation)
    return found is not None and np.allclose(found[1], np.clip(found[0], 0, 6), atol=1e-6)


def _is_homogeneous(activation: Any) -> bool:
    """Whether `activation` gives twice as much for twice as much; also where there is none."""
    if activation is None:
        return True
    found = activation_values(activation)
    if found is None:
        return False
    points, values = found
    slopes = values[-1] / points[-1], values[0] / points[0]
    return np.allclose(values, np.where(points > 0, slopes[0] * points, slopes[1] * points), atol=1e-6)
