"""A read-only view of a .tflite file: its operators, tensors and constants, without TensorFlow."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress.vocabulary.errors import ConversionError

FLOAT_TYPES = frozenset({"FLOAT16", "FLOAT32", "FLOAT64", "BFLOAT16"})


@dataclass(frozen=True)
class Tensor:
    """One tensor of a graph.

    Args:
        index: its place in the graph.
        name: its name; empty when names were stripped.
        dtype: TFLite's name of its type, e.g. ``INT8``, ``INT4``, ``FLOAT32``.
        shape: its static shape.
        scales: quantization scales, one per channel or one; empty when it is not quantized.
        zero_points: likewise.
        axis: the channel axis of several scales.
        data: the values of a constant in `shape`, INT4 unpacked to int8; None for an activation.
    """

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    scales: np.ndarray
    zero_points: np.ndarray
    axis: int
    data: np.ndarray | None

    @property
    def is_float(self) -> bool:
        """Whether its values are floating-point numbers."""
        return self.dtype in FLOAT_TYPES


@dataclass(frozen=True)
class Operator:
    """One operator of a graph, with the indices of its tensors (-1 for an optional one left out).

    Args:
        index: its place in the graph.
        name: TFLite's, or that of a custom operator.
        inputs: indices of tensors.
        outputs: likewise.
        custom: whether TFLite itself has no such operator.
        options: its options by the schema's names (`strideW`, `fusedActivationFunction`), as plain values; those of a
            custom operator as one list of bytes, `customOptions`.
    """

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    custom: bool
    options: Mapping[str, Any]


class Graph:
    """One graph of a .tflite file.

    Args:
        model: the file's object tree.
        graph: the graph's, in it.
    """

    def __init__(self, model: Any, graph: Any) -> None:
        self._model = model
        self.tensors = tuple(self._tensor(index, raw) for index, raw in enumerate(graph.tensors))
        """All tensors, by index."""
        self.operators = tuple(self._operator(index, raw) for index, raw in enumerate(graph.operators))
        """All operators, in execution order."""
        self.inputs = tuple(self.tensors[i] for i in graph.inputs)
        """The graph's inputs."""
        self.outputs = tuple(self.tensors[i] for i in graph.outputs)
        """The graph's outputs."""

    def constant_behind(self, index: int) -> Tensor | None:
        """The constant at `index`, or the one that a DEQUANTIZE operator makes it from; None for an activation."""
        tensor = self.tensors[index]
        if tensor.data is not None:
            return tensor
        for op in self.operators:
            if op.name == "DEQUANTIZE" and index in op.outputs:
                stored = self.tensors[op.inputs[0]]
                return stored if stored.data is not None else None
        return None

    def _operator(self, index: int, raw: Any) -> Operator:
        from ai_edge_litert import schema_py_generated as schema

        code = self._model.operatorCodes[raw.opcodeIndex]
        # Files from before 2020 hold the code in the deprecated field only.
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        custom = number == schema.BuiltinOperator.CUSTOM
        name = (code.customCode or b"CUSTOM").decode() if custom else _names(schema.BuiltinOperator)[number]
        return Operator(index, name, _ints(raw.inputs), _ints(raw.outputs), custom, _options(raw))

    def _tensor(self, index: int, raw: Any) -> Tensor:
        from ai_edge_litert import schema_py_generated as schema

        dtype = _names(schema.TensorType)[raw.type]
        shape = _ints(raw.shape)
        quantization = raw.quantization
        scales = [] if quantization is None or quantization.scale is None else quantization.scale
        zeros = [] if quantization is None or quantization.zeroPoint is None else quantization.zeroPoint
        return Tensor(
            index=index,
            name=(raw.name or b"").decode(errors="replace"),
            dtype=dtype,
            shape=shape,
            scales=np.asarray(scales, np.float32),
            zero_points=np.asarray(zeros, np.int64),
            axis=0 if quantization is None else quantization.quantizedDimension,
            data=_values(self._model.buffers[raw.buffer].data, dtype, shape),
        )


def object_tree(content: bytes) -> Any:
    """The objects of a .tflite file, `ModelT` of the schema, each constant in its buffer.

    Writers of large models, the LiteRT quantizer among them, put constants behind the tables. LiteRT's own reader of
    these makes lists of all vectors, which `packed` could not share.

    Args:
        content: the file's bytes, which are trusted to be complete.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    for buffer in model.buffers:
        if buffer.offset:
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


# What the object reader raises where a damaged file sends it to places that do not exist.
_DAMAGE = (struct.error, ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError)


class Flatbuffer(Graph):
    """A .tflite file: its main graph, and those that operators such as WHILE call.

    Args:
        content: the file's bytes.

    Raises:
        ConversionError: the bytes are no complete TFLite model.
    """

    def __init__(self, content: bytes) -> None:
        if content[4:8] != b"TFL3":
            raise ConversionError("A .tflite file must carry the identifier TFL3; these bytes do not.")
        try:
            model = object_tree(content)
            super().__init__(model, model.subgraphs[0])
            self.graphs = (self, *(Graph(model, graph) for graph in model.subgraphs[1:]))
            """All graphs, this main one first."""
        except _DAMAGE as error:
            raise ConversionError(
                f"A .tflite file must be complete. These {len(content)} bytes are not ({error}). Convert again."
            ) from error


def _names(enum: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enum).items() if isinstance(value, int)}


def _ints(values: Any) -> tuple[int, ...]:
    return () if values is None else tuple(int(v) for v in values)


def _options(raw: Any) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for table in (raw.builtinOptions, raw.builtinOptions2):
        options |= {} if table is None else _plain(table)
    if raw.customOptions is not None:
        options["customOptions"] = _plain(raw.customOptions)
    return options


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return list(value)
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return {name: _plain(one) for name, one in vars(value).items()} if hasattr(value, "__dict__") else value


_NUMPY = {
    "FLOAT32": "<f4",
    "FLOAT16": "<f2",
    "INT8": "i1",
    "UINT8": "u1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
}


def _values(data: Any, dtype: str, shape: tuple[int, ...]) -> np.ndarray | None:
    if data is None or len(data) == 0:
        return None
    raw = np.asarray(data, np.uint8)
    if dtype == "INT4":
        # Two's complement nibbles, the low one first.
        nibbles = np.stack([raw & 15, raw >> 4], axis=-1).ravel()[: int(np.prod(shape))]
        return ((nibbles.astype(np.int8) ^ 8) - 8).reshape(shape)
    if dtype not in _NUMPY:
        return raw
    return raw.view(_NUMPY[dtype]).reshape(shape)
