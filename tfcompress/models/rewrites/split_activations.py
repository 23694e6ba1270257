"""Activations that quantization-aware training refuses, taken out of their layers and given an exact form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfcompress import keras_door as kd
from tfcompress.models.rewrites._activations import Form, as_layer, exact_form, name_of, trained_as_integers
from tfcompress.models.rewrites._graph import Builder, Call, Graph, Part
from tfcompress.models.rewrites.base import Edit, Rewrite


class SplitActivations(Rewrite):
    """Make ``Conv2D(activation=f)`` a linear Conv2D and `f` behind it, where training as integers refuses `f` within.

    Where `f` has an exact form of layers that it takes (relu6, leaky ReLU, hard sigmoid, hard swish), that form
    stands there, also for an Activation layer. Any other, as elu, becomes an Activation layer: then it alone
    cannot be trained as integers, and no longer the weights before it.
    """

    name = "split_activations"
    purpose = "enabling"
    after = ("flatten_models", "one_dimension", "separable_convolutions")

    def edits(self, graph: Graph) -> Iterator[Edit]:
        """One edit for each layer with such an activation."""
        layers = kd.keras.layers
        weighted = (layers.Conv2D, layers.DepthwiseConv2D, layers.Conv2DTranspose, layers.Dense)
        for layer in {id(call.layer): call.layer for call in graph.of(*weighted)}.values():
            if not trained_as_integers(layer.activation):
                yield _split(graph, layer)
        for call in graph.of(layers.Activation):
            if not trained_as_integers(call.layer.activation) and graph.called_once(call):
                form = exact_form(graph, call.layer.name, call.layer.activation, call.shape)
                if form:
                    yield Edit({call.layer.name: form.names}, _REASON, {call: form.build})


_REASON = "quantization-aware training cannot take its activation"


def _split(graph: Graph, layer: Any) -> Edit:
    linear = Part.copy(layer, activation="linear")
    forms = {call: _form(graph, layer, call) for call in graph.calls_of(layer)}
    names = tuple(name for form in forms.values() for name in form.names)
    builders = {call: _then(linear, form) for call, form in forms.items()}
    return Edit({layer.name: (layer.name, *names)}, _REASON, builders)


def _form(graph: Graph, layer: Any, call: Call) -> Form:
    name = f"{layer.name}_{name_of(layer.activation)}"
    return exact_form(graph, name, layer.activation, call.shape) or as_layer(graph, name, layer.activation)


def _then(linear: Part, form: Form) -> Builder:
    return lambda tensor: form.build(linear(tensor))
