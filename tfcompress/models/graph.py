"""Who feeds whom in a Sequential or Functional model.

A layer may have been part of other models before, and remembers its calls there; only those of the model asked
about are told.
"""

from __future__ import annotations

from typing import Any

from tfcompress import keras_door as kd


def calls(model: Any, layer: Any) -> int:
    """How often `model` calls `layer`; more than once when it is shared."""
    return sum(node.layer is layer for node in _nodes(model))


def producers(model: Any, layer: Any) -> list[Any]:
    """The layers whose outputs `layer` takes in `model`, one entry for each time."""
    return [source for node in _nodes(model) if node.layer is layer for source in _sources(node)]


def consumers(model: Any, layer: Any) -> list[Any]:
    """The layers that take the output of `layer` in `model`, one entry for each time."""
    return [node.layer for node in _nodes(model) for source in _sources(node) if source is layer]


def is_masked(model: Any, layer: Any) -> bool:
    """Whether a Keras mask reaches `layer` in `model`."""
    inputs = [
        tensor for node in _nodes(model) if node.layer is layer for tensor in kd.tf.nest.flatten(node.input_tensors)
    ]
    return any(getattr(tensor, "_keras_mask", None) is not None for tensor in inputs)


def moves_values(layer: Any) -> bool:
    """Whether `layer` gives the values that it takes in another arrangement, and nothing else."""
    layers = kd.keras.layers
    return type(layer) in (layers.Reshape, layers.Flatten, layers.Permute, layers.RepeatVector)


def has_kernel(layer: Any) -> bool:
    """Whether `layer` has weights beside factors and shifts by channel."""
    return any(weight.shape.rank > 1 for weight in layer.weights)


def output_axis(layer: Any) -> int:
    """The axis of the output channels in the kernel of `layer`: the last, but for transposed convolutions."""
    layers = kd.keras.layers
    transposed = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
    return -2 if isinstance(layer, transposed) else -1


def input_of(model: Any, layer: Any) -> Any:
    """The tensor that `layer`, which `model` calls once, takes in the graph of `model`."""
    return next(node.input_tensors for node in _nodes(model) if node.layer is layer)


def output_of(model: Any, layer: Any) -> Any:
    """The tensor, or the structure of several, that `layer`, which `model` calls once, gives in its graph."""
    return next(node.outputs for node in _nodes(model) if node.layer is layer)


def _nodes(model: Any) -> list[Any]:
    return [node for depth in model._nodes_by_depth.values() for node in depth]


def _sources(node: Any) -> list[Any]:
    return [] if node.is_input else kd.tf.nest.flatten(node.inbound_layers)
