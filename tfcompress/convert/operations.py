"""How much arithmetic one inference of a .tflite file is: multiply-accumulates, and their bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from tfcompress.convert.flatbuffer import Flatbuffer, Graph, Operator, Tensor

_WIDTHS = {"INT4": 4, "INT8": 8, "UINT8": 8, "INT16": 16, "FLOAT16": 16, "BFLOAT16": 16}
_WIDTH_OF_OTHERS = 32


@dataclass(frozen=True)
class Operations:
    """The arithmetic of one inference of batch 1.

    Args:
        macs: multiply-accumulates of convolutions, dense layers, matrix products and LSTMs; zeros are counted too.
        bit_operations: each of them times the bits of its weight times the bits of its activation, as Baskin et al.
            count them ("UNIQ", 2018, arXiv:1804.10969), without the term of the accumulator.
    """

    macs: int
    bit_operations: int


def operations(flatbuffer: Flatbuffer) -> Operations:
    """Count the arithmetic of a file.

    The bits of a weight are those that the stored integers of its tensor need, after what they all are a multiple of
    in their channel is taken out: 4-bit levels count as 4 bits also where they are stored in bytes.

    Example:
        >>> operations(Flatbuffer(Path("model.tflite").read_bytes())).macs  # doctest: +SKIP
        12501632
    """
    macs = bits = 0
    for graph in flatbuffer.graphs:
        for operator in graph.operators:
            count = _COUNTS.get(operator.name)
            if count is None:
                continue
            each = count(graph, operator)
            weight, activation = _OPERANDS.get(operator.name, (1, 0))
            macs += each
            bits += each * _bits(_tensor(graph, operator, weight)) * _width(_tensor(graph, operator, activation))
    return Operations(macs, bits)


def _tensor(graph: Graph, operator: Operator, place: int) -> Tensor:
    return graph.tensors[operator.inputs[place]]


def _outputs(graph: Graph, operator: Operator) -> int:
    return _elements(graph.tensors[operator.outputs[0]])


def _elements(tensor: Tensor) -> int:
    return prod(abs(size) for size in tensor.shape)


def _convolution(graph: Graph, operator: Operator) -> int:
    """Weights `[out, height, width, in]`."""
    return _outputs(graph, operator) * prod(_tensor(graph, operator, 1).shape[1:])


def _depthwise(graph: Graph, operator: Operator) -> int:
    """Weights `[1, height, width, channels]`."""
    return _outputs(graph, operator) * prod(_tensor(graph, operator, 1).shape[1:3])


def _transposed(graph: Graph, operator: Operator) -> int:
    """Inputs are the output's shape, the weights `[out, height, width, in]` and the activation."""
    return _elements(_tensor(graph, operator, 2)) * prod(_tensor(graph, operator, 1).shape[:3])


def _dense(graph: Graph, operator: Operator) -> int:
    """Weights `[out, in]`."""
    return _outputs(graph, operator) * _tensor(graph, operator, 1).shape[-1]


def _product(graph: Graph, operator: Operator) -> int:
    """Two activations; what is summed over is all of the first that the output's rows and batches are not."""
    first, second = (_elements(_tensor(graph, operator, place)) for place in (0, 1))
    batches = prod(abs(size) for size in graph.tensors[operator.outputs[0]].shape[:-2])
    # (rows * inner) * (inner * columns) / (rows * columns) = inner ** 2, in each batch.
    inner = round((first * second / batches / _outputs(graph, operator)) ** 0.5)
    return _outputs(graph, operator) * inner


def _lstm(graph: Graph, operator: Operator) -> int:
    """The input-to-gate and recurrent weights, inputs 1 to 8, once for each of the steps of `[batch, steps, in]`."""
    weights = (graph.tensors[index] for index in operator.inputs[1:9] if index >= 0)
    return abs(_tensor(graph, operator, 0).shape[1]) * sum(_elements(weight) for weight in weights)


_COUNTS: Mapping[str, Callable[[Graph, Operator], int]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "TRANSPOSE_CONV": _transposed,
    "FULLY_CONNECTED": _dense,
    "BATCH_MATMUL": _product,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm,
}
_OPERANDS: Mapping[str, tuple[int, int]] = {"TRANSPOSE_CONV": (1, 2), "UNIDIRECTIONAL_SEQUENCE_LSTM": (2, 0)}
"""Places of the weight and of the activation among an operator's inputs, where they are not 1 and 0."""


def _width(tensor: Tensor) -> int:
    return _WIDTHS.get(tensor.dtype, _WIDTH_OF_OTHERS)


def _bits(weight: Tensor) -> int:
    """What the stored values of `weight` need; that of its type where they are activations or no integers."""
    if weight.data is None or weight.data.dtype != np.int8:
        return _width(weight)
    channels = np.moveaxis(weight.data, weight.axis if len(weight.scales) > 1 else 0, 0)
    rows = np.abs(channels.reshape(len(channels), -1).astype(np.int64))
    if len(weight.scales) <= 1:
        rows = rows.reshape(1, -1)
    divisors = np.maximum(np.gcd.reduce(rows, axis=1), 1)
    largest = int((rows.max(axis=1) // divisors).max())
    return min(largest.bit_length() + 1, _width(weight))
