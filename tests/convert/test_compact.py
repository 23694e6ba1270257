"""Vectors of a packed file, looked up by their places in its bytes."""

from collections import Counter

import numpy as np
import pytest

from tfcompress.convert.compact import packed
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.strip import strip_names
from tfcompress.evaluate.prediction import predict


@pytest.fixture(scope="module")
def read(int8_file):
    from ai_edge_litert.tools import flatbuffer_utils

    return flatbuffer_utils.convert_bytearray_to_object(bytearray(int8_file))


def tables(content):
    """The quantizations of all tensors, and the buffers, as they lie in the file."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    tensors = (graph.Tensors(index) for index in range(graph.TensorsLength()))
    quantizations = [tensor.Quantization() for tensor in tensors]
    return [q for q in quantizations if q and q.ScaleLength()], [model.Buffers(i) for i in range(model.BuffersLength())]


def place(table, field):
    """Where the vector of a field starts, by the field's place in the schema."""
    return table._tab.Vector(table._tab.Offset(4 + 2 * field))


SCALE, ZERO_POINT, DATA = 2, 3, 0


def test_equal_zero_points_stand_in_the_file_once(read):
    quantizations, _ = tables(packed(read))
    kinds = {(q.ZeroPointAsNumpy().tobytes(), place(q, ZERO_POINT)) for q in quantizations}
    assert len(kinds) == len({values for values, _ in kinds})
    shared = Counter(place(q, ZERO_POINT) for q in quantizations if q.ZeroPointLength() > 1)
    assert max(shared.values()) > 1
    for values in {q.ScaleAsNumpy().tobytes() for q in quantizations}:
        assert len({place(q, SCALE) for q in quantizations if q.ScaleAsNumpy().tobytes() == values}) == 1


def test_constants_are_where_the_schema_wants_them_and_each_has_its_own(read):
    _, buffers = tables(packed(read))
    places = [place(buffer, DATA) for buffer in buffers if buffer.DataLength()]
    assert len(places) > 3
    assert all(at % 16 == 0 for at in places)
    assert len(set(places)) == len(places)


def test_nothing_but_bytes_is_lost(read, int8_file, network):
    from ai_edge_litert.tools import flatbuffer_utils

    small, plain = packed(read), bytes(flatbuffer_utils.convert_object_to_bytearray(read))
    saved = sum(q.ZeroPointAsNumpy().nbytes for q in tables(plain)[0]) - sum(
        len(values) for values in {q.ZeroPointAsNumpy().tobytes() for q in tables(plain)[0]}
    )
    constants = sum(1 for buffer in tables(plain)[1] if buffer.DataLength())
    assert len(small) < len(plain) - saved + 16 * constants
    for before, after in zip(Flatbuffer(plain).tensors, Flatbuffer(small).tensors, strict=True):
        assert (before.dtype, before.shape, before.axis) == (after.dtype, after.shape, after.axis)
        np.testing.assert_array_equal(before.zero_points, after.zero_points)
        np.testing.assert_array_equal(before.scales, after.scales)
    for kernels in ("xnnpack", "builtin", "reference"):
        outputs = [predict(file, network[1][:8], kernels=kernels) for file in (small, int8_file)]
        np.testing.assert_array_equal(*outputs)


def test_shipped_files_are_written_so(int8_file):
    quantizations, buffers = tables(strip_names(int8_file))
    zeros = {(q.ZeroPointLength(), place(q, ZERO_POINT)) for q in quantizations if q.ZeroPointLength() > 1}
    assert len(zeros) == len({length for length, _ in zeros})
    assert all(place(buffer, DATA) % 16 == 0 for buffer in buffers if buffer.DataLength())


def test_tensors_of_equal_quantization_share_its_table_and_the_model_keeps_its_own(read):
    before = [tensor.quantization for tensor in read.subgraphs[0].tensors]
    quantizations, _ = tables(packed(read))
    kinds = Counter((q.ScaleAsNumpy().tobytes(), q.ZeroPointAsNumpy().tobytes()) for q in quantizations)
    places = {q._tab.Pos for q in quantizations}
    assert max(kinds.values()) > 1
    assert len(places) == len(kinds)
    assert [tensor.quantization for tensor in read.subgraphs[0].tensors] == before
