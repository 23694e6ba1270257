"""How much memory a .tflite file's activations need, when tensors that never live together share it.

The plan is greedy by size, as TensorFlow Lite Micro's `GreedyMemoryPlanner` makes it; the idea is that of "greedy by
size for offset calculation" in Y. Pisarchyk and J. Lee, "Efficient Memory Management for Deep Neural Net Inference",
2020 (arXiv:2001.03288).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from tfcompress import contained
from tfcompress import keras_door as kd
from tfcompress.vocabulary.errors import ConversionError

ALIGNMENT = 16
"""Bytes to which TensorFlow Lite Micro aligns every buffer."""


@dataclass(frozen=True)
class Buffer:
    """Memory that a tensor needs for a while.

    Args:
        size: bytes.
        first: index of the operator that writes it first.
        last: index of the last operator that uses it.
    """

    size: int
    first: int
    last: int

    def lives_with(self, other: Buffer) -> bool:
        """Whether there is a moment at which both are needed."""
        return self.first <= other.last and other.first <= self.last


def plan(buffers: Sequence[Buffer]) -> list[int]:
    """An offset for each of `buffers`, such that no two that live at the same time overlap.

    From the largest to the smallest, each goes to the lowest place that is free for as long as it lives.

    Example:
        >>> plan([Buffer(32, 0, 1), Buffer(64, 1, 2), Buffer(32, 2, 3)])
        [64, 0, 64]
    """
    offsets = [0] * len(buffers)
    placed: list[int] = []
    for index in sorted(range(len(buffers)), key=lambda i: -buffers[i].size):
        neighbours = [other for other in placed if buffers[other].lives_with(buffers[index])]
        offset = 0
        for other in sorted(neighbours, key=lambda i: offsets[i]):
            if offsets[other] - offset >= buffers[index].size:
                break
            offset = max(offset, offsets[other] + buffers[other].size)
        offsets[index] = offset
        placed.append(index)
    return offsets


def arena_bytes(model: Path | bytes) -> int:
    """An estimate of the bytes that the activations of `model` need at batch 1 on a microcontroller.

    Counted are the tensors that operators compute, inputs and outputs (the latter live to the end), and state
    that lives throughout; graphs that others call are added up. Not counted are what depends on the device's
    kernels and pointers: scratch memory and the runtime's records. Give an arena more, and read
    `MicroInterpreter::arena_used_bytes()` on the device.

    Args:
        model: the path of a .tflite file, or its bytes.

    Raises:
        ConversionError: the file cannot be read.
    """
    flatbuffer = read_flatbuffer(model)
    total = 0
    for graph in flatbuffer.subgraphs:
        buffers = activations(flatbuffer, graph)
        offsets = plan(buffers)
        total += max((offset + b.size for offset, b in zip(offsets, buffers, strict=True)), default=0)
    return total


def activations(flatbuffer: Any, graph: Any) -> list[Buffer]:
    """The memory that the tensors of one `graph` need: those that are computed, fed or read."""
    end = max(len(graph.operators) - 1, 0)
    first: dict[int, int] = dict.fromkeys(_indices(graph.inputs), 0)
    last: dict[int, int] = dict(first)
    for step, operator in enumerate(graph.operators):
        for tensor in _indices(operator.outputs):
            first.setdefault(tensor, step)
            last[tensor] = step
        for tensor in _indices(operator.inputs):
            last[tensor] = step
            if graph.tensors[tensor].isVariable:
                first[tensor] = 0
    for tensor in _indices(graph.outputs):
        last[tensor] = end
    return [
        Buffer(_size(graph.tensors[tensor]), start, end if graph.tensors[tensor].isVariable else last[tensor])
        for tensor, start in first.items()
        if not _is_constant(flatbuffer, graph.tensors[tensor])
    ]


def read_flatbuffer(model: Path | bytes) -> Any:
    """The object tree of a .tflite file (`ai_edge_litert.schema_py_generated.ModelT`).

    Raises:
        ConversionError: the file is missing or is no complete .tflite file.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    where = "The model" if isinstance(model, bytes) else str(model)
    try:
        content = model if isinstance(model, bytes) else Path(model).read_bytes()
    except OSError as error:
        raise ConversionError(f"A .tflite file must be readable. {where}: {error}.") from error
    # The object reader follows whatever offsets it finds; LiteRT verifies them first.
    remedy = "a complete .tflite file; convert the model again."
    contained.call(_verify, content, stage=f"Reading {where}", error=ConversionError, remedy=remedy)
    return flatbuffer_utils.read_model_from_bytearray(bytearray(content))


def _verify(content: bytes) -> None:
    kd.litert.Interpreter(model_content=content)


def _indices(tensors: Sequence[int] | None) -> list[int]:
    """Tensor indices without those that stand for an optional tensor left out."""
    return [] if tensors is None else [int(tensor) for tensor in tensors if tensor >= 0]


def _is_constant(flatbuffer: Any, tensor: Any) -> bool:
    data = flatbuffer.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def _size(tensor: Any) -> int:
    """Bytes of `tensor` at batch 1, rounded up to whole alignments."""
    elements = prod(abs(int(size)) for size in (tensor.shape if tensor.shape is not None else ()))
    size = (elements * _bits(tensor.type) + 7) // 8
    return -(-size // ALIGNMENT) * ALIGNMENT


def _bits(tensor_type: int) -> int:
    """Width of one element."""
    from ai_edge_litert.schema_py_generated import TensorType

    widths = {
        64: (TensorType.INT64, TensorType.UINT64, TensorType.FLOAT64, TensorType.COMPLEX64),
        32: (TensorType.FLOAT32, TensorType.INT32, TensorType.UINT32),
        16: (TensorType.FLOAT16, TensorType.BFLOAT16, TensorType.INT16, TensorType.UINT16),
        8: (TensorType.INT8, TensorType.UINT8, TensorType.BOOL),
        4: (TensorType.INT4,),
    }
    for bits, types in widths.items():
        if tensor_type in types:
            return bits
    raise ConversionError(f"An activation's type must have a fixed width. Received: TensorType {tensor_type}.")
