"""Removal of what a shipped file does not need: tensor names and metadata, and vectors that it has already."""

from __future__ import annotations

from tfcompress.convert.compact import packed
from tfcompress.convert.flatbuffer import Flatbuffer, Graph, object_tree
from tfcompress.vocabulary.errors import ConversionError


def strip_names(content: bytes) -> bytes:
    """The same model without tensor names, observed ranges, metadata and descriptions; signatures stay.

    Vectors that are equal stand in it once: see `packed`. It can still be resized to any batch, for its inputs keep
    saying which axes are open.

    Args:
        content: a .tflite file.

    Raises:
        ConversionError: the bytes are no .tflite file, or the stripped file does not hold the same graph and constants.
    """
    before = Flatbuffer(content)
    model = object_tree(content)
    model.description = None
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    for entry in model.metadata or []:
        if entry.buffer not in used:
            model.buffers[entry.buffer].data = None
    model.metadata = None
    for graph in model.subgraphs:
        graph.name = None
        ends = {*graph.inputs, *graph.outputs}
        for index, tensor in enumerate(graph.tensors):
            tensor.name = None
            if index not in ends:
                # Which axes may be resized is a question to inputs and outputs; the runtime derives the others.
                tensor.shapeSignature = None
            if tensor.quantization is not None:
                # What was observed in calibration; scale and zero point are what is run.
                tensor.quantization.min = tensor.quantization.max = None
    stripped = packed(model)
    if not _same(before, Flatbuffer(stripped)):
        raise ConversionError("Stripping names changed the graph or a constant; the file is not shipped.")
    return stripped


def _same(before: Flatbuffer, after: Flatbuffer) -> bool:
    def essence(graph: Graph) -> list[tuple]:
        tensors = [
            (
                t.dtype,
                t.shape,
                t.scales.tobytes(),
                t.zero_points.tobytes(),
                t.axis,
                None if t.data is None else t.data.tobytes(),
            )
            for t in graph.tensors
        ]
        ends = [tuple(t.index for t in graph.inputs), tuple(t.index for t in graph.outputs)]
        return [*tensors, *ends, *((op.name, op.inputs, op.outputs) for op in graph.operators)]

    return [essence(graph) for graph in before.graphs] == [essence(graph) for graph in after.graphs]
