"""Layers that are a factor and a shift by channel in inference: normalizations, Rescaling, LayerScale."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.rewrites._graph import Call, Graph, Part, attribute_of, same
from tfcompress.models.rewrites.base import Edit
from tfcompress.vocabulary.promises import SHARED, Kind
from tfcompress.vocabulary.state import Effect, Move

_LOST = Effect(refused="the normalization is merged into other weights")
_BY_CHANNEL = Effect(refused="every channel is multiplied by a factor of its own")
SCALED: dict[Kind, Effect] = dict.fromkeys((*SHARED, "levels"), _BY_CHANNEL)
"""What becomes of promises on a weight whose channels are multiplied by a factor each."""
_ALL_LOST: dict[Kind, Effect] = dict.fromkeys(("zeros", "group_zeros", *SHARED, "levels"), _LOST)


def per_channel_calls(graph: Graph) -> list[Call]:
    """The calls of such layers that can be rewritten: called once, on floats, over the last axis, not told to train."""
    layers = kd.keras.layers
    return [
        call
        for call in graph.of(layers.BatchNormalization, layers.Normalization, layers.Rescaling)
        if graph.called_once(call)
        and _is_by_channel(call)
        and call.inputs[0].dtype.is_floating
        and not call.masked
        and not call.node.call_kwargs.get("training")
    ]


def _is_by_channel(call: Call) -> bool:
    last = len(call.shape) - 1
    if isinstance(call.layer, kd.keras.layers.BatchNormalization):
        return list(call.layer.axis) == [last]
    if isinstance(call.layer, kd.keras.layers.Normalization):
        return not call.layer.invert and all(axis % (last + 1) == last for axis in call.layer.axis)
    return np.ndim(call.layer.scale) <= 1 and np.ndim(call.layer.offset) <= 1


def is_layer_scale(layer: Any) -> bool:
    """Whether `layer` is the LayerScale of Keras' ConvNeXt."""
    return (type(layer).__module__, type(layer).__name__) == ("tf_keras.src.applications.convnext", "LayerScale")


def is_trained(layer: Any) -> bool:
    """Whether training changes the factor and the shift of `layer`."""
    return layer.trainable and isinstance(layer, kd.keras.layers.BatchNormalization)


def follows_linear(graph: Graph, call: Call) -> bool:
    """Whether quantization-aware training takes the BatchNormalization of `call` with the layer before it."""
    return isinstance(call.layer, kd.keras.layers.BatchNormalization) and gives_linear(graph, graph.source(call))


def gives_linear(graph: Graph, source: Call) -> bool:
    """Whether `source` is of a linear Conv2D, DepthwiseConv2D or Dense, called once and taken by one layer alone."""
    layers = kd.keras.layers
    return (
        isinstance(source.layer, (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense))
        and getattr(source.layer.activation, "__name__", "") == "linear"
        and graph.sole_user(source) is not None
        and graph.called_once(source)
    )


def factor_and_shift(call: Call) -> tuple[np.ndarray, np.ndarray]:
    """What the layer of `call` multiplies each channel by and then adds, float64 `[channels]`.

    Ioffe and Szegedy, "Batch Normalization" (2015), algorithm 2: ``gamma / sqrt(variance + epsilon)`` and
    ``beta - mean * factor``.
    """
    factor, shift = _factor_and_shift(call.layer)
    return np.broadcast_to(factor, call.shape[-1:]), np.broadcast_to(shift, call.shape[-1:])


def _factor_and_shift(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(layer, kd.keras.layers.Rescaling):
        return np.asarray(layer.scale, np.float64), np.asarray(layer.offset, np.float64)
    if isinstance(layer, kd.keras.layers.Normalization):
        deviation = np.sqrt(np.asarray(layer.variance, np.float64).reshape(-1))
        factor = 1 / np.maximum(deviation, kd.keras.backend.epsilon())
        return factor, -np.asarray(layer.mean, np.float64).reshape(-1) * factor
    if is_layer_scale(layer):
        return layer.gamma.numpy().astype(np.float64), np.zeros(())
    factor = 1 / np.sqrt(layer.moving_variance.numpy().astype(np.float64) + layer.epsilon)
    factor = factor * (layer.gamma.numpy() if layer.scale else 1.0)
    return factor, (layer.beta.numpy() if layer.center else 0.0) - layer.moving_mean.numpy() * factor


def merged(layer: Any, kernel: str, bias: str) -> dict[str, Move]:
    """The moves of the weights of `layer` when they are merged into `kernel` and `bias`."""
    into = {"gamma": kernel, "moving_variance": kernel, "variance": kernel}
    return {
        f"{layer.name}/{attribute}": Move(into.get(attribute, bias), _ALL_LOST)
        for attribute in map(attribute_of, layer.weights)
    }


def folded_back(call: Call, source: Call, reason: str) -> Edit:
    """The normalization of `call` folded into the linear layer before it, which is called once and by it alone.

    Args:
        call: of a layer that `per_channel_calls` gives.
        source: of a convolution, a transposed or depthwise one too, or of a Dense.
        reason: why it is folded.
    """
    layer, norm = source.layer, call.layer
    factor, shift = factor_and_shift(call)
    attribute = "depthwise_kernel" if hasattr(layer, "depthwise_kernel") else "kernel"
    kernel = getattr(layer, attribute).numpy()
    bias = (layer.bias.numpy() if layer.use_bias else 0.0) * factor + shift
    if isinstance(layer, kd.keras.layers.Conv2DTranspose):
        # Its kernel has the outputs in the axis before the last.
        by_output = factor[:, None]
    else:
        # A depthwise kernel numbers its outputs in the last two axes.
        by_output = factor.reshape(kernel.shape[-2:]) if attribute == "depthwise_kernel" else factor
    own = f"{layer.name}/{attribute}"
    part = Part(Part.copy(layer, use_bias=True).layer, {attribute: kernel * by_output, "bias": bias})
    return Edit(
        became={norm.name: (layer.name,)},
        reason=reason,
        builders={source: part, call: same},
        moves={own: Move(own, SCALED), **merged(norm, own, f"{layer.name}/bias")},
    )
