"""Sums and products of many tensors as sums and products of two, which is what a file has."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any

from tfcompress import keras_door as kd
from tfcompress.models.rewrites._graph import Builder, Call, Graph, Part
from tfcompress.models.rewrites.base import Edit, Rewrite


class SumsOfTwo(Rewrite):
    """Make an Add or Multiply of more than two tensors a chain of those of two, in the same order.

    TFLite's ADD and MUL take two, so the converter does it anyway, and rounds what comes between to a range that
    training knows nothing of.
    """

    name = "sums_of_two"
    purpose = "opening"

    def edits(self, graph: Graph) -> Iterator[Edit]:
        """One edit for each such call."""
        for call in graph.of(kd.keras.layers.Add, kd.keras.layers.Multiply):
            if len(call.inputs) > 2 and graph.called_once(call) and not call.masked:
                between = [graph.name(f"{call.layer.name}_of_{count}") for count in range(2, len(call.inputs))]
                names = (*between, call.layer.name)
                yield Edit({call.layer.name: names}, "TFLite takes two at a time", {call: _chain(call, names)})


def _chain(call: Call, names: tuple[str, ...]) -> Builder:
    def build(first: Any, *others: Any) -> Any:
        steps = zip(names, others, strict=True)
        return reduce(lambda so_far, step: Part.copy(call.layer, name=step[0])([so_far, step[1]]), steps, first)

    return build
