"""Replacements that are not exact: offered to a person, never done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tfcompress import keras_door as kd
from tfcompress.models.rewrites._graph import Graph

_NEAREST = {
    "elu": "ReLU, or LeakyReLU where negative values matter",
    "selu": "ReLU behind BatchNormalization, which normalizes as it does",
    "softplus": "ReLU, which it smooths",
    "softsign": "tanh, which has its limits",
    "exponential": "a linear layer, the exponential left to the program that reads the output",
    "mish": "swish, which is within 0.2 of it",
}


@dataclass(frozen=True)
class Offer:
    """A replacement that changes what the model computes, so that it has to be trained on.

    Args:
        layer: the layer, as the model names it.
        instead: what could stand there.
        why: what the replacement makes possible.
    """

    layer: str
    instead: str
    why: str


def offers(model: Any) -> tuple[Offer, ...]:
    """What could stand in the place of layers that have no integer form in training and no exact rewrite.

    Args:
        model: a Sequential or Functional tf_keras model; nothing is done to it. Layers of nested models are not
            looked at: rewrite with ``flatten_models`` first.

    Example:
        >>> offers(model)  # doctest: +SKIP
        (Offer(layer='act', instead='ReLU, or LeakyReLU where negative values matter', why='...'),)
    """
    layers = {id(call.layer): call.layer for call in Graph(model).calls}
    found = ((layer, _nearest(layer)) for layer in layers.values())
    return tuple(
        Offer(layer.name, instead, "it has an integer form in training and in the kernels of the interpreter")
        for layer, instead in found
        if instead
    )


def _nearest(layer: Any) -> str | None:
    layers = kd.keras.layers
    if isinstance(layer, layers.ELU):
        return _NEAREST["elu"]
    if isinstance(layer, layers.PReLU):
        return "LeakyReLU, with the mean of its slopes"
    if isinstance(layer, layers.LayerNormalization):
        return "BatchNormalization, whose statistics are constants in inference"
    return _NEAREST.get(getattr(getattr(layer, "activation", None), "__name__", ""))
