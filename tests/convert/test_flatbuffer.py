import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.convert.flatbuffer import Flatbuffer, _values
from tfcompress.convert.strip import strip_names
from tfcompress.evaluate.prediction import predict
from tfcompress.vocabulary.errors import ConversionError


def test_the_graph_is_told_as_it_runs(int8_file):
    flat = Flatbuffer(int8_file)
    assert [op.name for op in flat.operators] == ["CONV_2D", "CONV_2D", "RESHAPE", "FULLY_CONNECTED"]
    assert [op.index for op in flat.operators] == [0, 1, 2, 3]
    assert not any(op.custom for op in flat.operators)
    (fed,), (given_back,) = flat.inputs, flat.outputs
    assert (fed.dtype, fed.shape, fed.data, fed.is_float) == ("INT8", (1, 6, 6, 4), None, False)
    assert (given_back.dtype, given_back.shape) == ("INT8", (1, 3))
    assert flat.operators[0].inputs[0] == fed.index
    assert flat.operators[-1].outputs == (given_back.index,)
    assert flat.graphs == (flat,)


def test_constants_hold_the_numbers_of_the_model(network, int8_file):
    flat = Flatbuffer(int8_file)
    weight = flat.tensors[flat.operators[0].inputs[1]]
    assert (weight.dtype, weight.shape, weight.axis) == ("INT8", (8, 3, 3, 4), 0)
    assert (weight.zero_points == 0).all()
    # BN is folded: of every channel a multiple.
    stored = weight.data * weight.scales[:, None, None, None]
    kernel = np.moveaxis(network[0].get_layer("c1").get_weights()[0], -1, 0)
    norm = network[0].get_layer("bn_c1")
    factor = norm.gamma.numpy() / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
    np.testing.assert_allclose(stored, kernel * factor[:, None, None, None], atol=weight.scales.max() / 2 * 1.001)


def test_an_activation_is_no_constant(int8_file):
    flat = Flatbuffer(int8_file)
    assert flat.constant_behind(flat.inputs[0].index) is None
    assert flat.constant_behind(flat.operators[0].outputs[0]) is None
    weight = flat.operators[0].inputs[1]
    assert flat.constant_behind(weight) is flat.tensors[weight]


def test_a_constant_is_found_behind_its_dequantize(island_file):
    flat = Flatbuffer(island_file)
    boundary = next(op for op in flat.operators if op.name == "DEQUANTIZE")
    # This one carries an activation.
    assert flat.constant_behind(boundary.outputs[0]) is None


@given(st.lists(st.integers(-8, 7), min_size=1, max_size=33))
def test_int4_is_unpacked_low_nibble_first(values):
    padded = np.array([*values, 0][: len(values) + len(values) % 2], np.int8)
    packed = (padded[0::2] & 15) | ((padded[1::2] & 15) << 4)
    np.testing.assert_array_equal(_values(packed.astype(np.uint8), "INT4", (len(values),)), values)


@pytest.mark.parametrize("data", [None, np.zeros(0, np.uint8)])
def test_a_buffer_without_bytes_is_no_constant(data):
    assert _values(data, "INT8", (3,)) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "identifier TFL3"),
        (b"PK\x03\x04 a zip file", "identifier TFL3"),
        (b"\x1c\x00\x00\x00TFL3", "must be complete"),
        (b"\x1c\x00\x00\x00TFL3" + b"\xff" * 400, "must be complete"),
    ],
)
def test_bytes_of_something_else_are_refused(content, message):
    with pytest.raises(ConversionError, match=message):
        Flatbuffer(content)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_file_cut_short_is_refused(int8_file, data):
    end = data.draw(st.integers(8, len(int8_file) - 100))
    with pytest.raises(ConversionError, match=f"These {end} bytes are not"):
        Flatbuffer(int8_file[:end])


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_damage_is_refused_or_read_but_never_crashes(int8_file, data):
    content = bytearray(int8_file)
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(8, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        flat = Flatbuffer(bytes(content))
    except ConversionError:
        return
    assert len(flat.graphs) >= 1


def with_constants_behind(content):
    """The file with its constants behind the tables, told by offset and size."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    constants = {i: bytes(b.data) for i, b in enumerate(model.buffers) if b.data is not None and len(b.data)}
    for index in constants:
        model.buffers[index].data = None
        model.buffers[index].offset = model.buffers[index].size = 1
    made = bytearray(flatbuffer_utils.convert_object_to_bytearray(model))
    for index, data in constants.items():
        made += bytes(-len(made) % 16)
        table = schema.Model.GetRootAs(made, 0).Buffers(index)
        flatbuffer_utils.update_packed_buffer(table, offset=len(made), size=len(data))
        made += data
    return bytes(made)


def test_constants_behind_the_tables_are_read_and_stripped_files_hold_them(int8_file, network):
    behind = with_constants_behind(int8_file)
    assert b"TFL3" in behind
    for before, after in zip(Flatbuffer(int8_file).tensors, Flatbuffer(behind).tensors, strict=True):
        np.testing.assert_array_equal(before.data, after.data)
    assert strip_names(behind) == strip_names(int8_file)
    np.testing.assert_array_equal(predict(behind, network[1]), predict(strip_names(behind), network[1]))
