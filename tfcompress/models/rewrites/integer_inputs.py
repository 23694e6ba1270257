"""Inputs of token ids as integers, which Keras makes of real numbers when nobody says otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from tfcompress import keras_door as kd
from tfcompress.models.graph import moves_values
from tfcompress.models.rewrites._graph import Call, Graph, Part
from tfcompress.models.rewrites.base import Edit, Rewrite


class IntegerInputs(Rewrite):
    """Make an input of real numbers int32 where all that it feeds are Embeddings, directly or in another arrangement.

    An Embedding casts what it takes to integers itself, so that the same ids give the same outputs; an integer file
    of the model as it was would quantize the ids to 256 different ones. The input keeps its name.
    """

    name = "integer_inputs"
    purpose = "opening"

    def edits(self, graph: Graph) -> Iterator[Edit]:
        """One edit for each such input."""
        for call in graph.of(kd.keras.layers.InputLayer):
            layer = call.layer
            if call.outputs[0].dtype.is_floating and _gives_ids_only(graph, call):
                reason = f"its values are token ids, and were {call.outputs[0].dtype.name}"
                part = Part.copy(layer, dtype="int32")
                yield Edit({layer.name: (layer.name,)}, reason, {}, copies={id(layer): part})


def _gives_ids_only(graph: Graph, call: Call) -> bool:
    users = graph.users(call)
    return (
        bool(users)
        and not graph.is_output(call)
        and all(
            type(user.layer) is kd.keras.layers.Embedding or (moves_values(user.layer) and _gives_ids_only(graph, user))
            for user in users
        )
    )
