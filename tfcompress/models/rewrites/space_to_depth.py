"""The first stage of a network, at full resolution, on a quarter of the pixels with four times the channels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.loading import copied_layer
from tfcompress.models.rewrites._activations import is_elementwise
from tfcompress.models.rewrites._graph import Builder, Call, Graph, Part
from tfcompress.models.rewrites._phases import Axis, rearranged
from tfcompress.models.rewrites.base import Edit, Rewrite
from tfcompress.vocabulary.state import Effect, Move

MOST_CHANNELS = 32
"""A convolution of more output channels is left: four times as many would cost more than fewer pixels save."""

_LEFT = {
    "distinct": Effect(bound_raised_by=1),
    **dict.fromkeys(
        ("group_zeros", "codewords"), Effect(refused="space to depth gives the kernel other input channels")
    ),
}
"""What becomes of promises on the kernels that lead out of the stage."""

_MOVED = {**_LEFT, "channels": Effect(bound_times=4)}
"""What becomes of those on the kernels within it."""


class SpaceToDepth(Rewrite):
    """Make the convolutions on the input image work on its 2x2 blocks of pixels as channels, weights re-arranged.

    An int8 convolution costs by output pixels and kernel taps, hardly by channels while these are few. The first
    convolution gives the four pixels of a block as channels, with a kernel one larger and a stride of 2; those
    behind it stay among blocks; convolutions of stride 2 lead out of the stage, so that nothing has to be put back
    in place. The same outputs for more bytes: kernels are filled up with zeros.

    It pays where channels up to 64 are nearly free, as to the tiles of AMX. Elsewhere the added multiplications cost
    more than is saved: measure the file on the target (`tfcompress.evaluate.measure_latency`), and keep the faster.

    The stage: Conv2D of stride 1, padded "same"; BatchNormalization; elementwise layers; Dropout; Add and the like.
    It must start at the model's input, of even height and width, and be left by Conv2D of stride 2 only.
    """

    name = "space_to_depth"
    purpose = "faster"
    after = ("mean_pooling",)

    def edits(self, graph: Graph) -> Iterator[Edit]:
        """One edit for the stage, where there is one."""
        for start in (call for call in graph.calls if call.node.is_input):
            stage = _stage(graph, start)
            inside = [call for call in graph.calls if call in stage]
            leaving = [call for call in graph.calls if _leads_out(call) and graph.source(call) in stage]
            if inside and leaving:
                convolutions = [call for call in (*inside, *leaving) if _is_convolution(call)]
                effects = {f"{call.layer.name}/kernel": _MOVED if call in stage else _LEFT for call in convolutions}
                yield Edit(
                    became={call.layer.name: (call.layer.name,) for call in convolutions},
                    reason="int8 convolutions cost by pixels and taps, hardly by channels",
                    builders={call: _on_blocks(graph, call, stage) for call in (*inside, *leaving)},
                    moves={kernel: Move(kernel, effect) for kernel, effect in effects.items()},
                )


def _stage(graph: Graph, start: Call) -> set[Call]:
    """The calls at the resolution of the input `start` that can work on blocks, together."""
    shape = start.shape
    if len(shape) != 4 or None in shape[1:] or shape[1] % 2 or shape[2] % 2:
        return set()
    stage: set[Call] = set()
    for call in graph.calls:
        sources = graph.sources(call)
        if _stays(graph, call, shape[1:3]) and any(source is start or source in stage for source in sources):
            stage.add(call)
    while True:
        misfits = {call for call in stage if not _fits(graph, call, stage)}
        if not misfits:
            return stage if any(graph.source(call) is start for call in stage) else set()
        stage -= misfits


def _fits(graph: Graph, call: Call, stage: set[Call]) -> bool:
    """Whether what `call` takes and gives is blocks where it has to be."""
    enters = _is_convolution(call) or all(source in stage for source in graph.sources(call))
    users = graph.users(call)
    return enters and not graph.is_output(call) and all(user in stage or _leads_out(user) for user in users)


def _stays(graph: Graph, call: Call, size: tuple[int, ...]) -> bool:
    """Whether `call` gives images of `size`, and can give their blocks instead."""
    layers, layer = kd.keras.layers, call.layer
    if not graph.called_once(call) or len(call.shape) != 4 or call.shape[1:3] != size:
        return False
    if type(layer) in (layers.ReLU, layers.LeakyReLU, layers.Dropout):
        return True
    if type(layer) in (layers.Add, layers.Subtract, layers.Multiply):
        return all(tuple(tensor.shape) == call.shape for tensor in call.inputs)
    if type(layer) is layers.BatchNormalization:
        return list(layer.axis) == [3]
    if type(layer) is layers.Activation:
        return is_elementwise(layer.activation)
    return (
        _is_convolution(call)
        and layer.strides == (1, 1)
        and layer.padding == "same"
        and layer.filters <= MOST_CHANNELS
        and is_elementwise(layer.activation)
    )


def _is_convolution(call: Call) -> bool:
    layer = call.layer
    return (
        type(layer) is kd.keras.layers.Conv2D
        and layer.groups == 1
        and layer.dilation_rate == (1, 1)
        and layer.data_format == "channels_last"
    )


def _leads_out(call: Call) -> bool:
    """Whether `call` takes every second pixel, padded as `Axis` has it."""
    if not _is_convolution(call) or call.layer.strides != (2, 2):
        return False
    return call.layer.padding == "same" or max(call.layer.kernel_size) <= 2


def _on_blocks(graph: Graph, call: Call, stage: set[Call]) -> Builder:
    if _is_convolution(call):
        return _convolution(graph, call, stage)
    part = Part(copied_layer(call.layer), [np.tile(weight, 4) for weight in call.layer.get_weights()])
    return lambda *tensors: part(tensors[0] if len(tensors) == 1 else list(tensors))


def _convolution(graph: Graph, call: Call, stage: set[Call]) -> Part:
    layer, strided = call.layer, call not in stage
    split = graph.source(call) in stage
    rows, columns = (Axis(size, strided, split) for size in layer.kernel_size)
    weights: dict[str, Any] = {"kernel": rearranged(layer.kernel.numpy(), rows, columns)}
    if layer.use_bias:
        weights["bias"] = np.tile(layer.bias.numpy(), 1 if strided else 4)
    form = copied_layer(
        layer,
        filters=layer.filters * (1 if strided else 4),
        kernel_size=(rows.new_size, columns.new_size),
        strides=1 if split else 2,
        padding="same",
    )
    return Part(form, weights)
