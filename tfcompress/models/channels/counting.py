"""How large a model is, and would be with fewer channels, without making it."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.channels.groups import Place
from tfcompress.models.rewrites._graph import Call, Graph, attribute_of


def parameters(model: Any, masks: Mapping[Place, np.ndarray]) -> int:
    """The numbers in all weights of `model` where only the places in `masks` stay (`remaining`)."""
    return sum(prod(shape) for layer in model.layers for shape in _shapes(layer, masks).values())


def macs(model: Any, masks: Mapping[Place, np.ndarray]) -> int:
    """Multiply-accumulates of one inference where only the places in `masks` stay (`remaining`).

    Those of convolutions and Dense layers, of every call; the arithmetic of other layers is left out, and taps that
    a padded border spares are counted.

    Raises:
        ValueError: a size that a convolution or Dense slides over is open.
    """
    return sum(_macs(call, _shapes(call.layer, masks)) for call in Graph(model).calls if not call.node.is_input)


def call_macs(call: Call) -> int:
    """Multiply-accumulates of one call of a convolution or Dense layer in one inference; 0 of others.

    Raises:
        ValueError: a size that the layer slides over is open.
    """
    return _macs(call, _shapes(call.layer, {}))


def _macs(call: Call, shapes: Mapping[str, tuple[int, ...]]) -> int:
    layers = kd.keras.layers
    kind = type(call.layer)
    if kind in (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose):
        return _positions(call.inputs[0].shape) * prod(shapes["kernel"])
    if kind in (layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D):
        return _positions(call.shape) * prod(shapes["kernel"])
    if kind in (layers.DepthwiseConv1D, layers.DepthwiseConv2D, layers.SeparableConv1D, layers.SeparableConv2D):
        kernels = [shape for name, shape in shapes.items() if name.endswith("_kernel")]
        return _positions(call.shape) * sum(map(prod, kernels))
    return 0


def _positions(shape: Any) -> int:
    """How many places a kernel is applied at: all sizes but those of the batch and of the channels."""
    sizes = tuple(shape)[1:-1]
    if None in sizes:
        raise ValueError(f"sizes must be known to count multiply-accumulates. Received: {tuple(shape)}")
    return prod(sizes)


def _shapes(layer: Any, masks: Mapping[Place, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """The shape of each weight of `layer`, by attribute, where only the places in `masks` stay."""
    return {
        name: tuple(
            int(masks[layer.name, name, axis].sum()) if (layer.name, name, axis) in masks else size
            for axis, size in enumerate(weight.shape)
        )
        for weight in layer.weights
        for name in [attribute_of(weight)]
    }
