"""Activation functions as layers that quantization-aware training takes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.loading import copied_layer
from tfcompress.models.rewrites._affine import Affine
from tfcompress.models.rewrites._graph import Builder, Graph

_POINTS = np.linspace(-8, 8, 257, dtype=np.float32)


@dataclass(frozen=True)
class Form:
    """Layers that together are a function of one tensor.

    Args:
        names: the names of the layers, in order.
        build: the new output from the new input.
    """

    names: tuple[str, ...]
    build: Builder


def trained_as_integers(activation: Any) -> bool:
    """Whether tfmot's quantization-aware training takes `activation` within a layer."""
    _ = kd.tfmot
    name = "tensorflow_model_optimization.python.core.quantization.keras.quantize_aware_activation"
    known = importlib.import_module(name).QuantizeAwareActivation
    allowed = known._PRE_QUANT_ACTIVATIONS | known._POST_QUANT_ACTIVATIONS
    return getattr(activation, "__name__", "") in allowed


def exact_form(graph: Graph, name: str, activation: Any, shape: tuple[int | None, ...]) -> Form | None:
    """The layers that compute what `activation` does; None where it has no exact form of layers QAT takes.

    Custom functions are known by what they give, not by their names. relu6, leaky ReLU; Keras 2's hard sigmoid,
    ``relu6(1.2 x + 3) / 6``; that of Howard et al., "Searching for MobileNetV3" (2019), section 5.2,
    ``relu6(x + 3) / 6``, and their hard swish, ``x * relu6(x + 3) / 6``.

    Args:
        graph: where the names of new layers are taken.
        name: of the activation, from which the new names are made.
        activation: a function or a Keras layer.
        shape: of its input, batch included.
    """
    layers = kd.keras.layers
    if isinstance(activation, layers.Layer):
        return None
    values = _values(activation)
    if values is None:
        return None
    relu6, slope = np.clip(_POINTS, 0, 6), -float(values[0]) / 8
    if np.allclose(values, relu6, atol=1e-6):
        return one_layer(layers.ReLU(6.0, name=graph.name(name)))
    if 0 < slope < 1 and np.allclose(values, np.where(_POINTS > 0, _POINTS, slope * _POINTS), atol=1e-6):
        return one_layer(layers.LeakyReLU(slope, name=graph.name(name)))
    if not Affine.takes(shape):
        return None
    hard = np.clip(_POINTS + 3, 0, 6) / 6
    for gate, factor in ((hard, 1.0), (np.clip(0.2 * _POINTS + 0.5, 0, 1), 1.2)):
        if np.allclose(values, gate, atol=1e-6):
            return _hard_sigmoid(graph, name, shape, factor)
    if np.allclose(values, _POINTS * hard, atol=1e-6):
        gate, product = _hard_sigmoid(graph, f"{name}_gate", shape, 1.0), layers.Multiply(name=graph.name(name))
        return Form((*gate.names, product.name), lambda x: product([x, gate.build(x)]))
    return None


def is_elementwise(activation: Any) -> bool:
    """Whether `activation` does to each number the same, whatever stands beside it."""
    return not isinstance(activation, kd.keras.layers.Layer) and _values(activation) is not None


def activation_values(activation: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Points around zero and what `activation` makes of them, both `[points]`; None where it is not elementwise."""
    if isinstance(activation, kd.keras.layers.Layer):
        return None
    values = _values(activation)
    return None if values is None else (_POINTS, values)


def one_layer(layer: Any) -> Form:
    """The form that is a single new `layer`."""
    return Form((layer.name,), layer)


def as_layer(graph: Graph, name: str, activation: Any) -> Form:
    """`activation` as a layer of its own."""
    name = graph.name(name)
    if isinstance(activation, kd.keras.layers.Layer):
        return one_layer(copied_layer(activation, name=name))
    return one_layer(kd.keras.layers.Activation(activation, name=name))


def name_of(activation: Any) -> str:
    """What a layer for `activation` is called after."""
    return getattr(activation, "__name__", None) or getattr(activation, "name", type(activation).__name__)


def _hard_sigmoid(graph: Graph, name: str, shape: tuple[int | None, ...], factor: float) -> Form:
    before = Affine(graph, graph.name(f"{name}_shift"), shape, factor, 3.0)
    relu6 = kd.keras.layers.ReLU(6.0, name=graph.name(f"{name}_relu6"))
    after = Affine(graph, graph.name(f"{name}_scale"), shape, 1 / 6, 0.0)
    return Form((*before.names, relu6.name, *after.names), lambda x: after(relu6(before(x))))


def _values(activation: Callable[..., Any]) -> np.ndarray | None:
    """What `activation` gives for `_POINTS`, where that depends on each alone and on nothing else."""
    points = kd.tf.constant(_POINTS)
    try:
        row, column = np.asarray(activation(points[None])), np.asarray(activation(points[:, None]))
    except Exception:  # A user's own function may want tensors of another shape.
        return None
    one_by_one = row.size == column.size == points.shape[0] and np.allclose(row.ravel(), column.ravel(), equal_nan=True)
    return row.ravel() if one_by_one else None
