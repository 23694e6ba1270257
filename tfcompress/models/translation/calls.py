"""A call of a tf_keras layer whose arguments are still those of the Keras 3 graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tfcompress import keras_door as kd


@dataclass(frozen=True)
class Call:
    """A tf_keras layer and what it is called with.

    Args:
        layer: the counterpart of a Keras 3 layer or operator.
        args: nested lists, tuples and dicts of constants and of Keras 3 tensors, which stand for their counterparts.
        kwargs: the same, by keyword.
    """

    layer: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def on(self, known: Mapping[int, Any]) -> list[Any]:
        """The outputs, flat, with ``known[id(tensor)]`` in place of each Keras 3 tensor."""
        outputs = self.layer(*filled(self.args, known), **filled(dict(self.kwargs), known))
        return kd.tf.nest.flatten(outputs)


def filled(structure: Any, known: Mapping[int, Any]) -> Any:
    """`structure` with ``known[id(tensor)]`` in place of each Keras 3 tensor."""
    if isinstance(structure, dict):
        return {key: filled(value, known) for key, value in structure.items()}
    if isinstance(structure, list | tuple):
        return type(structure)(filled(value, known) for value in structure)
    return known[id(structure)] if isinstance(structure, kd.keras_3.KerasTensor) else structure
