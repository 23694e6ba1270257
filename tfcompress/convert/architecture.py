"""What of a .tflite file decides how long it takes, as a digest: files that differ in weights alone share it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tfcompress.convert.flatbuffer import Flatbuffer, Graph, Tensor

_ARGUMENTS = frozenset({"INT32", "INT64"})


def architecture(flatbuffer: Flatbuffer) -> str:
    """A digest of a file's operators with their options, in order, and of the shapes, types and kinds of their tensors.

    The kernels that LiteRT and XNNPACK choose depend on these, and dense kernels take as long for any weights: int8
    files of one network with random weights, 90 % zeros, zeros alone and three levels took 0.97 to 1.02 of one
    another's time, as the same file twice did. Values of weights, scales, zero points of activations and names are
    therefore left out; integers that are no weights (axes, paddings, shapes) tell an operator what to do, and are not.

    Args:
        flatbuffer: the file.

    Returns:
        32 hexadecimal digits.

    Example:
        >>> one, other = (Flatbuffer(path.read_bytes()) for path in (before, fine_tuned))  # doctest: +SKIP
        >>> architecture(one) == architecture(other)  # doctest: +SKIP
        True
    """
    graphs = [_graph(graph) for graph in flatbuffer.graphs]
    return hashlib.blake2b(json.dumps(graphs, sort_keys=True).encode(), digest_size=16).hexdigest()


def _graph(graph: Graph) -> dict[str, Any]:
    """Plain values; activations are numbered as they come up, for their indices say nothing."""
    places: dict[int, int] = {}

    def tensors(indices: tuple[int, ...]) -> list[Any]:
        found = []
        for index in indices:
            if index < 0:
                found.append(None)
            elif graph.tensors[index].data is None:
                place = places.setdefault(index, len(places))
                found.append({"place": place, **_form(graph.tensors[index])})
            else:
                found.append(_constant(graph.tensors[index]))
        return found

    return {
        "inputs": tensors(tuple(tensor.index for tensor in graph.inputs)),
        "operators": [[o.name, dict(o.options), tensors(o.inputs), tensors(o.outputs)] for o in graph.operators],
        "outputs": tensors(tuple(tensor.index for tensor in graph.outputs)),
    }


def _constant(tensor: Tensor) -> dict[str, Any]:
    if not len(tensor.scales) and tensor.dtype in _ARGUMENTS:
        return {"values": tensor.data.tolist(), **_form(tensor)}
    # XNNPACK takes weights without an offset only.
    return {"symmetric": not tensor.zero_points.any(), **_form(tensor)}


def _form(tensor: Tensor) -> dict[str, Any]:
    channels = tensor.axis if len(tensor.scales) > 1 else None
    kind = "per channel" if len(tensor.scales) > 1 else "per tensor" if len(tensor.scales) else "none"
    return {"type": tensor.dtype, "shape": tensor.shape, "quantization": kind, "axis": channels}
