"""BatchNormalization as what it is in inference: a factor and a shift for each channel."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.rewrites._graph import Call, Graph
from tfcompress.vocabulary.state import Effect, Move

_LOST = Effect(refused="the normalization is merged into other weights")
_ALL_LOST = {"zeros": _LOST, "group_zeros": _LOST, "distinct": _LOST, "levels": _LOST}


def batch_norms(graph: Graph) -> list[Call]:
    """The calls of BatchNormalizations that can be rewritten: called once, over the last axis, not in training mode."""
    return [
        call
        for call in graph.of(kd.keras.layers.BatchNormalization)
        if graph.called_once(call)
        and list(call.layer.axis) == [len(call.shape) - 1]
        and not call.node.call_kwargs.get("training")
    ]


def follows_linear(graph: Graph, call: Call) -> bool:
    """Whether quantization-aware training takes the BatchNormalization of `call` with the layer before it."""
    layers, source = kd.keras.layers, graph.source(call)
    return (
        isinstance(source.layer, (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense))
        and source.layer.activation.__name__ == "linear"
        and len(graph.users(source)) == 1
        and not graph.is_output(source)
        and graph.called_once(source)
    )


def factor_and_shift(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """What `layer` multiplies each channel by and then adds, both float64 `[channels]`.

    Ioffe and Szegedy, "Batch Normalization" (2015), algorithm 2: ``gamma / sqrt(variance + epsilon)`` and
    ``beta - mean * factor``.
    """
    factor = 1 / np.sqrt(layer.moving_variance.numpy().astype(np.float64) + layer.epsilon)
    factor = factor * (layer.gamma.numpy() if layer.scale else 1.0)
    return factor, (layer.beta.numpy() if layer.center else 0.0) - layer.moving_mean.numpy() * factor


def merged(layer: Any, kernel: str, bias: str) -> dict[str, Move]:
    """The moves of the weights of `layer` when they are merged into `kernel` and `bias`."""
    into = {"gamma": kernel, "moving_variance": kernel, "beta": bias, "moving_mean": bias}
    present = {weight.name.partition(":")[0].rpartition("/")[2] for weight in layer.weights}
    return {f"{layer.name}/{weight}": Move(place, _ALL_LOST) for weight, place in into.items() if weight in present}
