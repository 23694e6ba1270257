"""Stretches of layers over one dimension, and what each is on images one pixel high."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.rewrites._graph import Builder, Call, Graph, Part

NEEDING = ("Conv1D", "DepthwiseConv1D", "SeparableConv1D", "Conv1DTranspose", "MaxPooling1D", "UpSampling1D")
"""Layers of Keras that quantization-aware training takes in two dimensions only."""
JOINING = (
    *("AveragePooling1D", "GlobalAveragePooling1D", "GlobalMaxPooling1D", "ZeroPadding1D", "Cropping1D", "Flatten"),
    *("BatchNormalization", "ReLU", "LeakyReLU", "Activation", "Dropout", "SpatialDropout1D"),
    *("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"),
)
"""Layers that go with them when they stand behind them: all do to an image what they do to a row."""


def can_join(graph: Graph, call: Call) -> bool:
    """Whether `call` can work on images: of a layer of `JOINING`, called once, on `[batch, steps, channels]`."""
    layer = call.layer
    if type(layer) not in _classes(JOINING) or not graph.called_once(call) or call.masked:
        return False
    if any(len(tensor.shape) != 3 or tensor.shape[2] is None for tensor in call.inputs):
        return False
    if isinstance(layer, kd.keras.layers.BatchNormalization):
        return list(layer.axis) == [2]
    if getattr(getattr(layer, "activation", None), "__name__", "") == "softmax":
        return False
    return not isinstance(layer, kd.keras.layers.Concatenate) or layer.axis % 3 != 0


def needs_images(call: Call) -> bool:
    """Whether `call` has to work on images."""
    channels_last = getattr(call.layer, "data_format", "") != "channels_first"
    return type(call.layer) in _classes(NEEDING) and channels_last and not call.masked


def takes_both(layer: Any) -> bool:
    """Whether `layer` itself, as it is, does to an image what it does to a row."""
    name = type(layer).__name__
    return "1D" not in name and not _changes(layer, name)


def two_dimensional(graph: Graph, layer: Any) -> tuple[tuple[str, ...], Builder]:
    """The names of the layers that do to an image what `layer` does to a row, and their builder."""
    name, config = type(layer).__name__, layer.get_config()
    images = kd.keras.layers
    kind = getattr(images, name.replace("1D", "2D"))
    causal = config.get("padding") == "causal"
    part = Part(kind.from_config({**config, **_changes(layer, name)}), [_raised(v) for v in layer.get_weights()])
    if not causal:
        return (layer.name,), part
    span = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
    padding = images.ZeroPadding2D(((0, 0), (span, 0)), name=graph.name(f"{layer.name}_causal"))
    return (padding.name, layer.name), lambda tensor: part(padding(tensor))


def _changes(layer: Any, name: str) -> dict[str, Any]:
    """What the config of the form in two dimensions has that `layer`'s has not."""
    if name == "BatchNormalization":
        return {"axis": [3]}
    if name == "Concatenate":
        return {"axis": layer.axis % 3 + 1}
    if name == "ZeroPadding1D":
        return {"padding": ((0, 0), tuple(layer.padding))}
    if name == "Cropping1D":
        return {"cropping": ((0, 0), tuple(layer.cropping))}
    if name == "UpSampling1D":
        return {"size": (1, layer.size)}
    if "Pooling1D" in name and "Global" not in name:
        return {"pool_size": (1, layer.pool_size[0]), "strides": (1, layer.strides[0])}
    if "Conv1D" in name:
        return _window(layer, name)
    return {}


def _window(layer: Any, name: str) -> dict[str, Any]:
    """Kernel and steps of a convolution; along the height of 1 any stride and dilation do nothing."""
    stride, dilation = layer.strides[0], layer.dilation_rate[0]
    # TensorFlow's depthwise convolutions want both strides and both dilations equal.
    is_depthwise = name in ("DepthwiseConv1D", "SeparableConv1D")
    changes = {
        "kernel_size": (1, layer.kernel_size[0]),
        "strides": (stride, stride) if is_depthwise else (1, stride),
        "dilation_rate": (dilation, dilation) if is_depthwise else (1, dilation),
        "padding": "valid" if layer.padding == "causal" else layer.padding,
    }
    if name == "Conv1DTranspose" and layer.output_padding is not None:
        changes["output_padding"] = (0, layer.output_padding[0])
    return changes


def _raised(weight: np.ndarray) -> np.ndarray:
    return weight[None] if weight.ndim == 3 else weight


def _classes(names: tuple[str, ...]) -> set[type]:
    return {getattr(kd.keras.layers, name) for name in names}


class Images:
    """The tensors of a stretch as images, made where they are needed.

    Args:
        graph: where the names of Reshapes are taken.
        stretch: the calls that are to work on images.
    """

    def __init__(self, graph: Graph, stretch: list[Call]) -> None:
        self.entrances: list[str] = []
        self.exits: list[str] = []
        self._graph = graph
        self._stretch = set(stretch)
        self._in: dict[Call, Part] = {}
        self._images: dict[Call, Any] = {}
        for call in stretch:
            for source in graph.sources(call):
                if source not in self._stretch and source not in self._in:
                    steps, channels = source.shape[1:]
                    self._in[source] = self._reshape(f"{call.layer.name}_in", (1, steps, channels), self.entrances)

    def through(self, call: Call, form: Builder) -> Builder:
        """A builder for `call` that applies `form` to images, and gives a row to whom is outside the stretch."""
        outside = [user for user in self._graph.users(call) if user not in self._stretch]
        leaves = len(call.shape) == 3 and (outside or self._graph.is_output(call))
        out = self._reshape(f"{call.layer.name}_out", call.shape[1:], self.exits) if leaves else None

        def build(*rows: Any) -> Any:
            given = [self._image(source, row) for source, row in zip(self._graph.sources(call), rows, strict=True)]
            self._images[call] = form(given[0] if len(given) == 1 else given)
            return out(self._images[call]) if out else self._images[call]

        return build

    def _image(self, source: Call, row: Any) -> Any:
        if source not in self._images:
            self._images[source] = self._in[source](row)
        return self._images[source]

    def _reshape(self, wanted: str, shape: tuple[int | None, ...], names: list[str]) -> Part:
        name = self._graph.name(wanted)
        names.append(name)
        return Part(kd.keras.layers.Reshape([size or -1 for size in shape], name=name))
