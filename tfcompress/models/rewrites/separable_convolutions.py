"""SeparableConv2D as the two convolutions that it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfcompress import keras_door as kd
from tfcompress.models.rewrites._graph import Graph, Part
from tfcompress.models.rewrites.base import Edit, Rewrite


class SeparableConvolutions(Rewrite):
    """Make a SeparableConv2D a DepthwiseConv2D, ``<name>_depthwise``, and a 1x1 Conv2D, ``<name>_pointwise``."""

    name = "separable_convolutions"
    purpose = "enabling"
    after = ("flatten_models", "one_dimension")

    def edits(self, graph: Graph) -> Iterator[Edit]:
        """One edit for each SeparableConv2D."""
        for layer in {id(call.layer): call.layer for call in graph.of(kd.keras.layers.SeparableConv2D)}.values():
            depthwise, pointwise = _halves(graph, layer)
            names = (depthwise.layer.name, pointwise.layer.name)
            moves = {"depthwise_kernel": f"{names[0]}/depthwise_kernel", "pointwise_kernel": f"{names[1]}/kernel"}
            if layer.use_bias:
                moves["bias"] = f"{names[1]}/bias"
            yield Edit(
                became={layer.name: names},
                reason="each of its two kernels is a weight of its own to the techniques",
                builders=dict.fromkeys(graph.calls_of(layer), _one_after_the_other(depthwise, pointwise)),
                moves={f"{layer.name}/{attribute}": place for attribute, place in moves.items()},
            )


def _halves(graph: Graph, layer: Any) -> tuple[Part, Part]:
    layers, config, weights = kd.keras.layers, layer.get_config(), layer.get_weights()
    common = {key: config[key] for key in ("trainable", "dtype", "data_format")}
    window = {key: config[key] for key in ("kernel_size", "strides", "padding", "dilation_rate", "depth_multiplier")}
    depthwise = layers.DepthwiseConv2D(
        **common,
        **window,
        use_bias=False,
        depthwise_regularizer=layer.depthwise_regularizer,
        depthwise_constraint=layer.depthwise_constraint,
        name=graph.name(f"{layer.name}_depthwise"),
    )
    pointwise = layers.Conv2D(
        layer.filters,
        1,
        **common,
        use_bias=layer.use_bias,
        activation=layer.activation,
        kernel_regularizer=layer.pointwise_regularizer,
        kernel_constraint=layer.pointwise_constraint,
        bias_regularizer=layer.bias_regularizer,
        bias_constraint=layer.bias_constraint,
        activity_regularizer=layer.activity_regularizer,
        name=graph.name(f"{layer.name}_pointwise"),
    )
    return Part(depthwise, weights[:1]), Part(pointwise, weights[1:])


def _one_after_the_other(first: Part, second: Part) -> Any:
    return lambda tensor: second(first(tensor))
