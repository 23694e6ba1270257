import pytest
from fixtures.models import conv_bn

from tfcompress import keras_door as kd
from tfcompress.convert.converter import float_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.strip import strip_names
from tfcompress.evaluate.prediction import predict
from tfcompress.vocabulary.errors import ConversionError


@pytest.fixture(scope="module")
def stripped(int8_file):
    return strip_names(int8_file)


def test_names_and_metadata_go_and_bytes_with_them(int8_file, stripped):
    assert len(stripped) < 0.9 * len(int8_file)
    assert {tensor.name for tensor in Flatbuffer(stripped).tensors} == {""}
    assert b"CONVERSION_METADATA" in int8_file
    assert b"CONVERSION_METADATA" not in stripped
    assert b"FusedBatchNorm" not in stripped


def test_outputs_stay_bit_identical(network, int8_file, stripped):
    assert (predict(stripped, network[1]) == predict(int8_file, network[1])).all()


def test_signatures_stay(int8_file, stripped):
    before, after = (kd.litert.Interpreter(model_content=content) for content in (int8_file, stripped))
    assert after.get_signature_list() == before.get_signature_list() != {}
    runner = after.get_signature_runner("serving_default")
    assert list(runner.get_output_details()) == ["out"]


def test_stripping_twice_changes_nothing_more(stripped):
    assert strip_names(stripped) == stripped


def test_every_number_stays(int8_file, stripped):
    before, after = Flatbuffer(int8_file), Flatbuffer(stripped)
    assert before.operators == after.operators
    for a, b in zip(before.tensors, after.tensors, strict=True):
        assert (a.dtype, a.shape, a.axis) == (b.dtype, b.shape, b.axis)
        assert (a.scales == b.scales).all()
        assert (a.zero_points == b.zero_points).all()
        assert (a.data is None) == (b.data is None)
        assert a.data is None or (a.data == b.data).all()


def test_a_difference_is_noticed():
    from tfcompress.convert.strip import _same

    first, second = (Flatbuffer(float_tflite(conv_bn(seed))) for seed in (0, 1))
    assert _same(first, first)
    assert not _same(first, second)


def test_a_damaged_file_is_refused(int8_file):
    with pytest.raises(ConversionError, match="must be complete"):
        strip_names(int8_file[:-500])
