import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tfcompress import keras_door as kd
from tfcompress.vocabulary.errors import DataError
from tfcompress.vocabulary.preprocessing import NAMED, Preprocessing

BYTES = np.arange(256, dtype=np.uint8)[:, None]


@pytest.mark.parametrize(("name", "low", "high"), [("raw", 0, 255), ("unit", 0, 1), ("signed", -1, 1)])
def test_named_ones_span_their_range(name, low, high):
    found = NAMED[name].apply(BYTES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], np.linspace(low, high, 256), atol=2e-7 * max(1, high))


@given(
    mean=st.lists(st.floats(-200, 200), min_size=3, max_size=3),
    std=st.lists(st.floats(0.5, 100), min_size=3, max_size=3),
)
def test_mean_and_std_standardize_each_channel(mean, std):
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    found = Preprocessing.model_validate({"mean": mean, "std": std}).apply(images)
    expected = (images.astype(np.float64) - mean) / std
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_tensors_and_arrays_come_out_equal():
    tf = pytest.importorskip("tensorflow")
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    for preprocessing in (*NAMED.values(), Preprocessing(scale=(1.0, 0.5, 2.0), offset=(0.0, 1.0, -1.0))):
        in_graph = tf.function(preprocessing.apply)(tf.constant(images))
        np.testing.assert_allclose(in_graph.numpy(), preprocessing.apply(images), rtol=1e-6)


def test_plain_form_reads_back_the_same():
    given_ = Preprocessing.model_validate({"mean": [1, 2], "std": [3, 4]})
    assert Preprocessing.model_validate(given_.model_dump(mode="json")) == given_


def test_description_tells_what_to_feed():
    assert "unchanged" in NAMED["raw"].describe()
    assert "0...255 becomes 0...1" in NAMED["unit"].describe()
    assert "0...255 becomes -1...1" in NAMED["signed"].describe()
    assert "[0.5, 0.25]" in Preprocessing(scale=(0.5, 0.25)).describe()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("bright", "one of raw, unit, signed"),
        ({"mean": 1}, "std"),
        ({"mean": 1, "std": 0}, "greater than 0"),
        ({"mean": [1, 2], "std": [1, 2, 3]}, "2 and 3"),
        ({"scale": [1, 2], "offset": [1, 2, 3]}, "2 and 3"),
        ({"scale": 0}, "must not be 0"),
        ({"scale": float("nan")}, "finite"),
        ({"scale": 1, "shift": 2}, "shift"),
    ],
)
def test_wrong_forms_are_refused(value, message):
    with pytest.raises(ValidationError, match=message):
        Preprocessing.model_validate(value)


def test_per_channel_numbers_must_fit_the_channels():
    with pytest.raises(DataError, match=r"2 numbers for inputs of shape \(4, 4, 3\)"):
        Preprocessing(scale=(1.0, 2.0)).apply(np.zeros((1, 4, 4, 3), np.uint8))


def test_integers_that_mean_themselves_stay_as_they_are():
    ids = np.array([[3, 2**25 + 1]], np.int32)
    for values in (ids, kd.tf.constant(ids)):
        found = NAMED["raw"].apply(values)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, ids)
        with pytest.raises(DataError, match=r"fed unchanged.*unit.*Remedy"):
            NAMED["unit"].apply(values)
