"""A factor and a shift for each channel, as layers that quantization-aware training takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.rewrites._graph import Graph, Part


class Affine:
    """``x * factor + shift`` by channel, as a 1x1 DepthwiseConv2D; between two Reshapes where `x` has no 4 axes.

    Args:
        graph: where the names of the new layers are taken.
        name: of the convolution.
        shape: of `x`, `[batch, ..., channels]`.
        factor, shift: one number, or one for each channel.
        trainable: whether both are to be trained. Defaults to False.
        dtype: what the layers compute in. Defaults to Keras' own default.
    """

    def __init__(
        self,
        graph: Graph,
        name: str,
        shape: tuple[int | None, ...],
        factor: Any,
        shift: Any,
        *,
        trainable: bool = False,
        dtype: Any = None,
    ) -> None:
        layers, (*inner, channels) = kd.keras.layers, shape[1:]
        kernel = np.broadcast_to(np.asarray(factor, np.float32), (channels,)).reshape(1, 1, channels, 1)
        bias = np.broadcast_to(np.asarray(shift, np.float32), (channels,))
        layer = layers.DepthwiseConv2D(1, name=name, trainable=trainable, dtype=dtype)
        self._parts = [Part(layer, [kernel, bias])]
        if len(inner) != 2:
            as_image = layers.Reshape((1, -1 if None in inner else int(np.prod(inner)), channels))
            as_was = layers.Reshape([size or -1 for size in (*inner, channels)])
            as_image._name, as_was._name = graph.name(f"{name}_in"), graph.name(f"{name}_out")
            self._parts = [Part(as_image), *self._parts, Part(as_was)]

    @staticmethod
    def takes(shape: tuple[int | None, ...]) -> bool:
        """Whether tensors of `shape` can be brought to 4 axes and back: no open channels, at most one open size."""
        return len(shape) > 1 and shape[-1] is not None and (len(shape) == 4 or shape[1:-1].count(None) <= 1)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the layers, in order."""
        return tuple(part.layer.name for part in self._parts)

    def __call__(self, tensor: Any) -> Any:
        for part in self._parts:
            tensor = part(tensor)
        return tensor
