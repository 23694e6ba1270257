"""What each kind of layer does with channels; a kind that is not listed makes them stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from math import prod
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.channels.tracking import Channels, Tracker
from tfcompress.models.rewrites._activations import is_elementwise
from tfcompress.models.rewrites._graph import Call

Rule = Callable[[Tracker, Call, list[Channels]], Channels]
"""Takes the channels of a call's inputs, notes what it does to them, and gives the channels of its output."""


class NotFollowedError(Exception):
    """A layer, set up as it is, does what its rule does not cover; the message says what."""


def rule_for(layer: Any) -> Rule | None:
    """The rule for exactly this type of layer; None where there is none."""
    if getattr(layer, "data_format", None) == "channels_first":
        return None
    return _rules().get(type(layer))


@cache
def _rules() -> Mapping[type, Rule]:
    layers = kd.keras.layers
    kinds = {
        _convolution: "Conv1D Conv2D Conv3D",
        _transposed: "Conv1DTranspose Conv2DTranspose Conv3DTranspose",
        _dense: "Dense",
        _depthwise: "DepthwiseConv1D DepthwiseConv2D",
        _separable: "SeparableConv1D SeparableConv2D",
        _embedding: "Embedding",
        _normalization: "BatchNormalization",
        _prelu: "PReLU",
        _rescaling: "Rescaling",
        _activation: "Activation",
        _same: "Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D GaussianDropout GaussianNoise AlphaDropout "
        "ActivityRegularization ReLU LeakyReLU ELU ThresholdedReLU RepeatVector Resizing "
        "MaxPooling1D MaxPooling2D MaxPooling3D AveragePooling1D AveragePooling2D AveragePooling3D "
        "GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D "
        "GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D "
        "ZeroPadding1D ZeroPadding2D ZeroPadding3D Cropping1D Cropping2D Cropping3D "
        "UpSampling1D UpSampling2D UpSampling3D",
        _joined: "Add Subtract Multiply Average Maximum Minimum",
        _concatenated: "Concatenate",
        _flattened: "Flatten",
        _reshaped: "Reshape",
        _permuted: "Permute",
    }
    return {getattr(layers, name): rule for rule, names in kinds.items() for name in names.split()}


def _convolution(tracker: Tracker, call: Call, inputs: list[Channels]) -> Channels:
    if call.layer.groups != 1:
        raise NotFollowedError("a convolution in groups ties its inputs to its outputs")
    return _filtered(tracker, call, inputs[0], call.layer.filters, taken=-2, made=-1)


def _transposed(tracker: Tracker, call: Call, inputs: list[Channels]) -> Channels:
    return _filtered(tracker, call, inputs[0], call.layer.filters, taken=-1, made=-2)


def _dense(tracker: Tracker, call: Call, inputs: list[Channels]) -> Channels:
    return _filtered(tracker, call, inputs[0], call.layer.units, taken=-2, made=-1)


def _filtered(tracker: Tracker, call: Call, channels: Channels, count: int, *, taken: int, made: int) -> Channels:
    """The channels made by a `kernel` with an axis for those it takes and one for those it makes, and a bias."""
    layer, rank = call.layer, call.layer.kernel.shape.rank
    tracker.attach(layer.name, "kernel", rank + taken, channels, "takes")
    outputs = tracker.made(layer.name, count)
    tracker.attach(layer.name, "kernel", rank + made, outputs, "makes")
    return _ended(tracker, layer, outputs, "makes")


def _ended(tracker: Tracker, layer: Any, outputs: Channels, role: str) -> Channels:
    """`outputs` after the bias and the activation of `layer`."""
    if layer.use_bias:
        tracker.attach(layer.name, "bias", 0, outputs, role)
    _activated(tracker, layer, outputs)
    return outputs


def _activated(tracker: Tracker, layer: Any, channels: Channels) -> None:
    activation = layer.activation
    if isinstance(activation, kd.keras.layers.Layer):
        known = _rules().get(type(activation)) is _same
    else:
        known = is_elementwise(activation)
    if not known:
        tracker.freeze(channels, f"the activation of {layer.name} mixes them, or may")


def _depthwise(tracker: Tracker, call: Call, inputs: list[Channels]) -> Channels:
    layer = call.layer
    kernel = layer.depthwise_kernel
    tracker.attach(layer.name, "depthwise_kernel", kernel.shape.rank - 2, inputs[0], "carries")
    return _ended(tracker, layer, np.repeat(inputs[0], layer.depth_multiplier), "carries")


def _separable(tracker: Tracker, call: Call, inputs: list[Channels]) -> Channels:
    layer, rank = call.layer, call.layer.pointwise_kernel.shape.rank
    tracker.attach(layer.name, "depthwise_kernel", rank - 2, inputs[0], "takes")
    between = np.repeat(inputs[0], layer.depth_multiplier)
    tracker.attach(layer.name, "pointwise_kernel", rank - 2, between, "takes")
    outputs = tracker.made(layer.name, layer.filters)
    tracker.attach(layer.name, "pointwise_kernel", rank - 1, outputs, "makes")
    return _ended(tracker, layer, outputs, "makes")


def _embedding(tracker: Tracker, call: Call, inputs: list[Channels]) -> Channels:
    layer = call.layer
    tracker.freeze(inputs[0], f"{layer.name} looks them up")
    outputs = tracker.made(layer.name, layer.output_dim)
    tracker.attach(layer.name, "embeddings", 1, outputs, "makes")
    return outputs


def _normalization(tracker: Tracker, call: Call, inputs: list[Channels]) -> Channels:
    layer = call.layer
    if list(layer.axis) != [len(call.shape) - 1]:
        raise NotFollowedError(f"it normalizes along the axes {list(layer.axis)}, not by channel")
    scale, shift = ["gamma"] * layer.scale, ["beta"] * layer.center
    for weight in (*scale, *shift, "moving_mean", "moving_variance"):
        tracker.attach(layer.name, weight, 0, inputs[0], "carries")
    return inputs[0]


def _prelu(tracker: Tracker, call: Call, inputs: list[Channels]) -> Channels:
    shape = call.layer.alpha.shape
    if shape[-1] == len(inputs[0]):
        tracker.attach(call.layer.name, "alpha", shape.rank - 1, inputs[0], "carries")
    return inputs[0]


def _rescaling(_: Tracker, call: Call, inputs: list[Channels]) -> Channels:
    if np.ndim(call.layer.scale) or np.ndim(call.layer.offset):
        raise NotFollowedError("its scale or offset has a number for each channel")
    return inputs[0]


def _activation(tracker: Tracker, call: Call, inputs: list[Channels]) -> Channels:
    _activated(tracker, call.layer, inputs[0])
    return inputs[0]


def _same(_: Tracker, __: Call, inputs: list[Channels]) -> Channels:
    """Of layers that treat every channel alike and alone."""
    return inputs[0]


def _joined(tracker: Tracker, call: Call, inputs: list[Channels]) -> Channels:
    """Of layers that compute each channel from the ones at its place; one channel alone serves all of another."""
    widest = max(inputs, key=len)
    for channels in inputs:
        if len(channels) == len(widest):
            tracker.unite(widest, channels)
        elif len(channels) == 1:
            tracker.freeze(channels, f"{call.layer.name} spreads it over all channels")
        else:
            raise NotFollowedError("its inputs have different numbers of channels")
    return widest


def _concatenated(tracker: Tracker, call: Call, inputs: list[Channels]) -> Channels:
    rank = len(call.shape)
    if call.layer.axis % rank == rank - 1:
        return np.concatenate(inputs)
    return _joined(tracker, call, inputs)


def _flattened(_: Tracker, call: Call, inputs: list[Channels]) -> Channels:
    sizes = call.inputs[0].shape[1:-1]
    if None in sizes:
        raise NotFollowedError("the size of what it flattens is open")
    return np.tile(inputs[0], prod(sizes))


def _reshaped(tracker: Tracker, call: Call, inputs: list[Channels]) -> Channels:
    """Channels are the last axis, so rows of whole pixels hold them in their order."""
    width = call.shape[-1]
    if width is None or width % len(inputs[0]):
        raise NotFollowedError("it parts or mixes channels")
    outputs = np.tile(inputs[0], width // len(inputs[0]))
    tracker.attach(call.layer.name, "target_shape", 0, outputs, "carries")
    return outputs


def _permuted(_: Tracker, call: Call, inputs: list[Channels]) -> Channels:
    if call.layer.dims[-1] != len(call.layer.dims):
        raise NotFollowedError("it moves the channels to another axis")
    return inputs[0]
