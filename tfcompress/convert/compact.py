"""A .tflite model written small: vectors that are equal stand in the file once."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

_FILE_IDENTIFIER = b"TFL3"
_CONSTANT_ALIGNMENT = 16
"""Of a buffer's data, as the schema wants it: kernels read integers of several bytes from there."""


def packed(model: Any) -> bytes:
    """The file of a model.

    Every channel of a weight, and of a bias, has a scale and a zero point of 8 bytes, which is 0. FlatBuffers refer to
    vectors by their place, so that one vector of zeros serves all weights of as many channels, for every reader.
    So do they to tables, of which tensors of the same scale, before and behind a reshape, share that of quantization.
    Constants are not shared: what tells them apart may be where they are.

    Args:
        model: a `ModelT` of the schema, as `flatbuffer.object_tree` reads it.
    """
    builder = _sharing_builder()(1024)
    with _shared_quantizations(model):
        builder.Finish(model.Pack(builder), file_identifier=_FILE_IDENTIFIER)
    return bytes(builder.Output())


@contextmanager
def _shared_quantizations(model: Any) -> Iterator[None]:
    """Within, tensors of equal quantization have one object, which is written when the first of them is."""
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors if tensor.quantization is not None]
    own = [tensor.quantization for tensor in tensors]
    known: dict[bytes, _WrittenOnce] = {}
    try:
        for tensor, quantization in zip(tensors, own, strict=True):
            tensor.quantization = known.setdefault(pickle.dumps(vars(quantization)), _WrittenOnce(quantization))
        yield
    finally:
        for tensor, quantization in zip(tensors, own, strict=True):
            tensor.quantization = quantization


class _WrittenOnce:
    """A table that packs itself once, and gives its place again."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._place: int | None = None

    def Pack(self, builder: Any) -> int:  # noqa: N802
        if self._place is None:
            self._place = self._table.Pack(builder)
        return self._place


@cache
def _sharing_builder() -> type:
    import flatbuffers

    class SharingBuilder(flatbuffers.Builder):
        """Writes a vector of numbers once, and gives its place again."""

        def __init__(self, initial_size: int) -> None:
            super().__init__(initial_size)
            self._places: dict[tuple[str, bytes], int] = {}

        def CreateNumpyVector(self, x: np.ndarray) -> int:  # noqa: N802
            if x.dtype == np.uint8:
                return self._constant(x)
            key = x.dtype.str, x.tobytes()
            if key not in self._places:
                self._places[key] = super().CreateNumpyVector(x)
            return self._places[key]

        def _constant(self, x: np.ndarray) -> int:
            # The same as for other numbers, but for the alignment, which it takes from their type.
            self.StartVector(x.itemsize, x.size, _CONSTANT_ALIGNMENT)
            self.head -= x.size
            self.Bytes[self.head : self.head + x.size] = x.tobytes()
            return self.EndVector()

    return SharingBuilder
