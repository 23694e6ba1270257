"""Inputs of token ids as integers, which Keras makes of real numbers when nobody says otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from tfcompress import keras_door as kd
from tfcompress.models.graph import moves_values
from tfcompress.models.rewrites._graph import Call, Graph, Part, rebuilt
from tfcompress.models.rewrites.base import Edit, Rewrite


class IntegerInputs(Rewrite):
    """Make an input of real numbers int32 where all that it feeds are Embeddings, directly or in another arrangement.

    An Embedding casts what it takes to integers itself, so that the same ids give the same outputs; an integer file
    of the model as it was would quantize the ids to 256 different ones. The input keeps its name. So it is with the
    inputs of nested models.
    """

    name = "integer_inputs"
    purpose = "opening"

    def edits(self, graph: Graph) -> Iterator[Edit]:
        """One edit for all such inputs, because those of a nested model are made anew together."""
        copies = _copies(graph)
        if copies:
            became = {part.layer.name: (part.layer.name,) for part in copies.values()}
            yield Edit(became, "what it takes are token ids, and were real numbers", {}, copies=copies)


def _copies(graph: Graph) -> dict[int, Part]:
    """What takes the place of the inputs of ids and of the nested models that have such, by the other's id."""
    copies: dict[int, Part] = {}
    for call in graph.calls:
        layer = call.layer
        if isinstance(layer, kd.keras.layers.InputLayer):
            if call.outputs[0].dtype.is_floating and _gives_ids_only(graph, call):
                copies[id(layer)] = Part.copy(layer, dtype="int32")
        elif isinstance(layer, kd.keras.Model) and id(layer) not in copies:
            inner = Graph(layer)
            if within := _copies(inner):
                copies[id(layer)] = Part(rebuilt(inner, {}, within), {})
    return copies


def _gives_ids_only(graph: Graph, call: Call) -> bool:
    users = graph.users(call)
    return bool(users) and not graph.is_output(call) and all(_takes_ids_only(graph, call, user) for user in users)


def _takes_ids_only(graph: Graph, call: Call, user: Call) -> bool:
    if isinstance(user.layer, kd.keras.Model):
        inner = Graph(user.layer)
        return all(_gives_ids_only(inner, inner.of_input(entry)) for entry in graph.entries(call, user))
    return type(user.layer) is kd.keras.layers.Embedding or (moves_values(user.layer) and _gives_ids_only(graph, user))
