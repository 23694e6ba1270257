"""An average over the whole image as the operator that XNNPACK runs."""

from __future__ import annotations

from collections.abc import Iterator

from tfcompress import keras_door as kd
from tfcompress.models.rewrites._graph import Call, Graph
from tfcompress.models.rewrites.base import Edit, Rewrite


class MeanPooling(Rewrite):
    """Make an AveragePooling2D whose window is the whole image a GlobalAveragePooling2D that keeps its axes.

    The converter makes MEAN of it, which XNNPACK runs in int8, and of the other AVERAGE_POOL_2D, which it does not.
    """

    name = "mean_pooling"
    purpose = "faster"

    def edits(self, graph: Graph) -> Iterator[Edit]:
        """One edit for each such pooling."""
        layers = kd.keras.layers
        for call in graph.of(layers.AveragePooling2D):
            layer = call.layer
            if averages_the_image(call) and graph.called_once(call):
                mean = layers.GlobalAveragePooling2D(keepdims=True, name=layer.name)
                reason = "XNNPACK runs MEAN in int8, not AVERAGE_POOL_2D"
                yield Edit({layer.name: (layer.name,)}, reason, {call: mean})


def averages_the_image(call: Call) -> bool:
    """Whether an AveragePooling2D or GlobalAveragePooling2D gives one pixel, the mean of all of its image."""
    layer, size = call.layer, tuple(call.inputs[0].shape[1:3])
    if layer.data_format != "channels_last" or None in size:
        return False
    if type(layer) is kd.keras.layers.GlobalAveragePooling2D:
        return True
    return tuple(layer.pool_size) == size and call.shape[1:3] == (1, 1)
