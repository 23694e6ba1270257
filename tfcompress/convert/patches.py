"""Convolutions of 4-bit weights as fully connected operators over patches, which the fast kernels run.

XNNPACK has no convolution of INT4 weights: the runtime leaves it for one that unpacks them in every invocation. It has
the fully connected operator of INT4 weights. A convolution is that operator over the patches under its kernel
(Chellapilla et al., "High performance convolutional neural networks for document processing", 2006); both take the
weights in the same order, and the built-in kernels do the same integer arithmetic for both. XNNPACK rounds in its own
way, as it does for convolutions of 8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress.convert.compact import packed
from tfcompress.convert.flatbuffer import object_tree

_VERSION = {"RESHAPE": 1, "FULLY_CONNECTED": 12}
"""The first for int8, where it is not 2; of FULLY_CONNECTED, for weights with a scale for each output channel."""


def int4_as_fully_connected(content: bytes) -> bytes:
    """The same model with each convolution of INT4 weights as FULLY_CONNECTED over patches.

    These are made by PAD, RESHAPE, STRIDED_SLICE and CONCATENATION, which take about 1,500 bytes for a 3x3 kernel.
    Values of weights, scales and biases stay as they are. Left alone are convolutions in groups, of an odd number of
    weights a channel, whose rows do not begin at a byte, of activations that are not int8, of open height or width, and
    those whose weight has another use.

    Args:
        content: a .tflite file that still has its signatures of shapes.

    Returns:
        The changed file, or `content` itself where it has no such convolution.
    """
    model = object_tree(content)
    changed = [_Editor(model, graph).rewrite() for graph in model.subgraphs]
    return packed(model) if any(changed) else content


@dataclass(frozen=True)
class _Axis:
    """A convolution along height or width: sizes of input, output and kernel, and how the kernel moves.

    With a stride, inputs are taken together in cells of `stride`, so that the kernel moves by one cell.
    """

    size: int
    outputs: int
    taps: int
    stride: int
    dilation: int
    same: bool

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros before and behind the input: the convolution's own, and up to the last cell's end."""
        reach = (self.outputs - 1) * self.stride + (self.taps - 1) * self.dilation + 1
        before = max(reach - self.size, 0) // 2 if self.same else 0
        end = -(-max(reach, before + self.size) // self.stride) * self.stride
        return before, end - before - self.size

    @property
    def cells(self) -> int:
        return (sum(self.padding) + self.size) // self.stride

    def place(self, tap: int) -> tuple[int, int]:
        """The cell, counted from the output's own, and the place in it that the kernel's `tap` lies on."""
        return divmod(tap * self.dilation, self.stride)

    def runs(self, *, together: bool) -> list[tuple[int, int, int]]:
        """The taps in order: cell, place in it, how many.

        Args:
            together: whether those that follow each other in a cell are one run.
        """
        runs: list[tuple[int, int, int]] = []
        for cell, place in map(self.place, range(self.taps)):
            if together and runs and runs[-1][0] == cell and sum(runs[-1][1:]) == place:
                runs[-1] = (cell, runs[-1][1], runs[-1][2] + 1)
            else:
                runs.append((cell, place, 1))
        return runs


class _Editor:
    """Puts operators into one graph of a model, both of the schema's objects."""

    def __init__(self, model: Any, graph: Any) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._schema, self._model, self._graph = schema, model, graph
        self._constants: dict[tuple[int, ...], int] = {}

    def rewrite(self) -> bool:
        """Change every convolution that can be, and say whether there was one."""
        operators = self._graph.operators
        axes = [self._axes(operator) for operator in operators]
        used = {int(i) for operator, one in zip(operators, axes, strict=True) if one is None for i in operator.inputs}
        found = [
            None if one and int(operator.inputs[1]) in used else one
            for operator, one in zip(operators, axes, strict=True)
        ]
        self._graph.operators = [
            new
            for operator, one in zip(operators, found, strict=True)
            for new in ([operator] if one is None else self._rewritten(operator, *one))
        ]
        return any(found)

    def _rewritten(self, operator: Any, high: _Axis, wide: _Axis) -> list[Any]:
        patches, made = self._patches(operator.inputs[0], high, wide)
        weight = self._graph.tensors[operator.inputs[1]]
        # It may be that of other convolutions as well, and changed already.
        weight.shape = np.asarray([weight.shape[0], np.prod(weight.shape[1:])], np.int32)
        options = self._schema.FullyConnectedOptionsT()
        options.keepNumDims = True
        options.fusedActivationFunction = operator.builtinOptions.fusedActivationFunction
        inputs = [patches, *operator.inputs[1:]]
        version = _VERSION["FULLY_CONNECTED"]
        return [*made, self._operator("FULLY_CONNECTED", inputs, operator.outputs[0], options, version)]

    def _axes(self, operator: Any) -> tuple[_Axis, _Axis] | None:
        """Height and width of a convolution that can be changed; None of all other operators."""
        schema = self._schema
        if self._model.operatorCodes[operator.opcodeIndex].builtinCode != schema.BuiltinOperator.CONV_2D:
            return None
        tensors = (self._graph.tensors[index] for index in (*operator.inputs[:2], operator.outputs[0]))
        (fed, weight, output), how = tensors, operator.builtinOptions
        kernel, types = weight.shape, (fed.type, weight.type, output.type)
        if (
            types != (schema.TensorType.INT8, schema.TensorType.INT4, schema.TensorType.INT8)
            or kernel[3] != fed.shape[3]
            or np.prod(kernel[1:]) % 2
            or weight.sparsity is not None
            or operator.inputs[1] in self._graph.outputs
            or any(end.shapeSignature is not None and -1 in end.shapeSignature[1:] for end in (fed, output))
        ):
            return None
        same = how.padding == schema.Padding.SAME
        return (
            _Axis(fed.shape[1], output.shape[1], kernel[1], how.strideH, how.dilationHFactor, same),
            _Axis(fed.shape[2], output.shape[2], kernel[2], how.strideW, how.dilationWFactor, same),
        )

    def _patches(self, fed: int, high: _Axis, wide: _Axis) -> tuple[int, list[Any]]:
        """The tensor of patches `[batch, height, width, taps x taps x channels]`, and the operators that make it.

        Columns are put side by side first, then rows of these, so that most is copied in long pieces.
        """
        made: list[Any] = []
        shape = [int(size) for size in self._graph.tensors[fed].shape[1:]]
        patches, shape = self._beside(made, fed, shape, wide, 1)
        patches, _ = self._beside(made, patches, shape, high, 0)
        return patches, made

    def _beside(
        self, made: list[Any], fed: int, shape: Sequence[int], axis: _Axis, along: int
    ) -> tuple[int, list[int]]:
        """The inputs of all taps of `axis`, which is `along` of `[height, width, channels]`, as channels: its shape."""
        cells, sizes = self._cells(made, fed, shape, axis, along)
        pieces, channels = [], 0
        for cell, place, taps in axis.runs(together=along == 1):
            begin, size = [0, 0, 0, 0], [*sizes]
            begin[1 + along], size[along] = cell, axis.outputs
            begin[2 + along], size[along + 1] = place * shape[along + 1], taps * shape[along + 1]
            channels += size[2]
            if axis.stride == 1 and axis.outputs == axis.size and cell == axis.padding[0]:
                pieces.append(fed)
            else:
                pieces.append(self._slice(made, cells, begin, size))
        if len(pieces) == 1:
            return pieces[0], size
        options = self._schema.ConcatenationOptionsT()
        options.axis, size[2] = 3, channels
        return self._added(made, "CONCATENATION", pieces, size, options), size

    def _cells(self, made: list[Any], fed: int, shape: Sequence[int], axis: _Axis, along: int) -> tuple[int, list[int]]:
        """The padded input, with what is in a cell of `axis` together on the axis behind it; and its shape."""
        cells, sizes = fed, [*shape]
        if any(axis.padding):
            pads = [(0, 0) for _ in range(4)]
            pads[1 + along] = axis.padding
            sizes[along] = axis.cells * axis.stride
            cells = self._added(made, "PAD", [cells, self._constant(pads)], sizes, self._schema.PadOptionsT())
        if axis.stride > 1:
            # Neighbours along the width lie together in memory, and so do rows: a cell is one piece already.
            sizes[along], sizes[along + 1] = axis.cells, axis.stride * sizes[along + 1]
            options = self._schema.ReshapeOptionsT()
            options.newShape = [-1, *sizes]
            cells = self._added(made, "RESHAPE", [cells, self._constant(options.newShape)], sizes, options)
        return cells, sizes

    def _slice(self, made: list[Any], fed: int, begin: list[int], size: list[int]) -> int:
        """A piece of a tensor, of all of the batch."""
        end = [0, *(start + length for start, length in zip(begin[1:], size, strict=True))]
        limits = [self._constant(values) for values in (begin, end, [1, 1, 1, 1])]
        options = self._schema.StridedSliceOptionsT()
        # The first bit is that of the batch. XNNPACK takes no SLICE that leaves a size open.
        options.beginMask = options.endMask = 1
        return self._added(made, "STRIDED_SLICE", [fed, *limits], size, options)

    def _added(self, made: list[Any], name: str, inputs: Sequence[int], shape: Sequence[int], options: Any) -> int:
        """The output, `[batch, *shape]`, of an operator that moves values, which is appended to those `made`."""
        output = self._activation(inputs[0], shape)
        made.append(self._operator(name, inputs, output, options, _VERSION.get(name, 2)))
        return output

    def _activation(self, like: int, shape: Sequence[int]) -> int:
        """A new tensor of `[batch, *shape]` with the type and the scale of another."""
        source, tensor = self._graph.tensors[like], self._schema.TensorT()
        tensor.shape = np.asarray([source.shape[0], *shape], np.int32)
        tensor.type, tensor.quantization, tensor.hasRank = source.type, source.quantization, source.hasRank
        return self._add(tensor)

    def _constant(self, values: Sequence[Any]) -> int:
        """The tensor of these int32 values, one for all operators."""
        array = np.asarray(values, np.int32)
        key = (*array.shape, *array.ravel().tolist())
        if key not in self._constants:
            buffer, tensor = self._schema.BufferT(), self._schema.TensorT()
            buffer.data = np.frombuffer(array.tobytes(), np.uint8)
            self._model.buffers.append(buffer)
            tensor.shape, tensor.type = np.asarray(array.shape, np.int32), self._schema.TensorType.INT32
            tensor.buffer = len(self._model.buffers) - 1
            self._constants[key] = self._add(tensor)
        return self._constants[key]

    def _add(self, tensor: Any) -> int:
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _operator(self, name: str, inputs: Sequence[int], output: int, options: Any, version: int) -> Any:
        operator = self._schema.OperatorT()
        operator.opcodeIndex = self._code(getattr(self._schema.BuiltinOperator, name), version)
        operator.inputs, operator.outputs = np.asarray(inputs, np.int32), np.asarray([output], np.int32)
        operator.builtinOptionsType = getattr(self._schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        operator.builtinOptions = options
        return operator

    def _code(self, builtin: int, version: int) -> int:
        for index, code in enumerate(self._model.operatorCodes):
            if code.builtinCode == builtin:
                code.version = max(code.version, version)
                return index
        code = self._schema.OperatorCodeT()
        code.builtinCode, code.version = builtin, version
        # The field of readers from before 2020 holds seven bits.
        code.deprecatedBuiltinCode = min(builtin, 127)
        self._model.operatorCodes.append(code)
        return len(self._model.operatorCodes) - 1
