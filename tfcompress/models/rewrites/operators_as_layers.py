"""Operators in the graph (``x + y``, ``tf.nn.relu(x)``) as layers of Keras."""

from __future__ import annotations

from collections.abc import Iterator

from tfcompress import keras_door as kd
from tfcompress.models.rewrites._activations import Form, one_layer
from tfcompress.models.rewrites._affine import Affine
from tfcompress.models.rewrites._graph import Call, Graph
from tfcompress.models.rewrites._operators import plain_name, to_form
from tfcompress.models.rewrites.base import Edit, Rewrite


class OperatorsAsLayers(Rewrite):
    """Make an operator the layer that computes it, where there is one; Average likewise, as a sum and a factor.

    Sums, differences and products of two tensors, with constants for each channel, activations, reshaping,
    concatenation, padding, transposition, means and maxima over all pixels. What has no layer stays.
    """

    name = "operators_as_layers"
    purpose = "enabling"
    after = ("flatten_models",)

    def edits(self, graph: Graph) -> Iterator[Edit]:
        """One edit for each operator that has a layer."""
        layers = kd.keras.layers
        for call in graph.calls:
            form = to_form(graph, call)
            if type(call.layer) is layers.Average and graph.called_once(call):
                form = _average(graph, call)
            if form and not call.masked:
                reason = "techniques and quantization-aware training know layers, not operators"
                yield Edit({call.layer.name: form.names}, reason, {call: form.build})


def _average(graph: Graph, call: Call) -> Form | None:
    if not Affine.takes(call.shape):
        return None
    name = plain_name(call.layer)
    total = one_layer(kd.keras.layers.Add(name=graph.name(f"{name}_sum")))
    share = Affine(graph, graph.name(f"{name}_share"), call.shape, 1 / len(call.inputs), 0.0)
    return Form((*total.names, *share.names), lambda *tensors: share(total.build(tensors)))
