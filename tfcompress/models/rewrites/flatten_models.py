"""Models within a model, taken apart into their layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfcompress import keras_door as kd
from tfcompress.models.loading import copied_layer
from tfcompress.models.rewrites._graph import Builder, Call, Graph, Part, Replay, attribute_of
from tfcompress.models.rewrites.base import Edit, Rewrite


class FlattenModels(Rewrite):
    """Put the layers of a nested model in its place, at every depth.

    A layer keeps its name unless the flat model has another of that name: then it is called
    ``<model>_<layer>``. What a nested model is told when it is called (``training=False``), its layers are told.
    A model that is called several times shares its layers among the calls, as it did.
    """

    name = "flatten_models"
    purpose = "enabling"

    def edits(self, graph: Graph) -> Iterator[Edit]:
        """One edit for each nested model."""
        copies: dict[int, Part] = {}
        for model in {id(call.layer): call.layer for call in graph.calls if _is_model(call.layer)}.values():
            names = dict(_copied(graph, model, model.name, copies))
            yield Edit(
                became={model.name: tuple(names.values())},
                reason="techniques reach the layers of a flat model only",
                builders={call: _inlined(call, copies) for call in graph.calls_of(model)},
                moves=dict(_moves(model, model.name, copies)),
                copies=copies,
                origins={new: path for path, new in names.items()},
            )


def _is_model(layer: Any) -> bool:
    return isinstance(layer, kd.keras.Model)


def _copied(graph: Graph, model: Any, path: str, copies: dict[int, Part]) -> Iterator[tuple[str, str]]:
    """Copy every layer within `model` that has no copy yet; give its path and its new name."""
    for layer in model.layers:
        inner = f"{path}/{layer.name}"
        if _is_model(layer):
            yield from _copied(graph, layer, inner, copies)
        elif id(layer) not in copies and not isinstance(layer, kd.keras.layers.InputLayer):
            # A layer that the outer model calls too has its name there already.
            shared = graph.calls_of(layer)
            name = layer.name if shared or not graph.has(layer.name) else f"{model.name}_{layer.name}"
            name = name if shared else graph.name(name)
            copies[id(layer)] = Part(copied_layer(layer, name=name), layer.get_weights())
            yield inner, name


def _moves(model: Any, path: str, copies: dict[int, Part]) -> Iterator[tuple[str, str]]:
    for layer in model.layers:
        if _is_model(layer):
            yield from _moves(layer, f"{path}/{layer.name}", copies)
        elif id(layer) in copies:
            for weight in layer.weights:
                attribute = attribute_of(weight)
                yield f"{path}/{layer.name}/{attribute}", f"{copies[id(layer)].layer.name}/{attribute}"


def _inlined(call: Call, copies: dict[int, Part], training: bool | None = None) -> Builder:
    def build(*inputs: Any) -> Any:
        inner = Graph(call.layer)
        told = call.node.call_kwargs.get("training")
        told = training if told is None else told
        builders = {within: _inlined(within, copies, told) for within in inner.calls if _is_model(within.layer)}
        return Replay(copies, builders).run(inner, inputs, told)

    return build
