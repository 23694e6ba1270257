"""Conv2D with a group for each input channel as the depthwise convolution that it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfcompress import keras_door as kd
from tfcompress.models.rewrites._graph import Graph, Part
from tfcompress.models.rewrites.base import Edit, Rewrite


class DepthwiseConvolutions(Rewrite):
    """Make a Conv2D with as many groups as input channels a DepthwiseConv2D of the same name, as ConvNeXt has them.

    The converter makes one of it anyway, whose weight then goes by no layer's name, and techniques treat the two
    differently. Strides that are not equal stay as they are, for a DepthwiseConv2D has none.
    """

    name = "depthwise_convolutions"
    purpose = "opening"

    def edits(self, graph: Graph) -> Iterator[Edit]:
        """One edit for each such layer."""
        for layer in {id(call.layer): call.layer for call in graph.of(kd.keras.layers.Conv2D)}.values():
            if _is_depthwise(layer):
                kernel = f"{layer.name}/kernel"
                yield Edit(
                    became={layer.name: (layer.name,)},
                    reason="every input channel is a group of its own",
                    builders=dict.fromkeys(graph.calls_of(layer), _depthwise(layer)),
                    moves={kernel: f"{layer.name}/depthwise_kernel"},
                )


def _is_depthwise(layer: Any) -> bool:
    one_to_a_group = layer.groups > 1 and layer.kernel.shape[2] == 1
    return one_to_a_group and layer.data_format == "channels_last" and len(set(layer.strides)) == 1


def _depthwise(layer: Any) -> Part:
    config, (kernel, *bias) = layer.get_config(), layer.get_weights()
    same = ("name", "trainable", "dtype", "kernel_size", "strides", "padding", "dilation_rate", "use_bias")
    depthwise = kd.keras.layers.DepthwiseConv2D(
        **{key: config[key] for key in same},
        depth_multiplier=layer.filters // layer.groups,
        activation=layer.activation,
        depthwise_regularizer=layer.kernel_regularizer,
        depthwise_constraint=layer.kernel_constraint,
        bias_regularizer=layer.bias_regularizer,
        bias_constraint=layer.bias_constraint,
        activity_regularizer=layer.activity_regularizer,
    )
    # The filters of a group stand next to one another, as the multiples of a channel do.
    return Part(depthwise, [kernel.reshape(*kernel.shape[:2], layer.groups, -1), *bias])
