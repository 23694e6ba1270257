import socket

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tfcompress.data import load_data


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("no_network")
def test_holds_every_digit_of_scikit_learn_once_as_bytes(data_dir, capfd):
    data = load_data("digits", data_dir=data_dir)
    assert "ownload" not in "".join(capfd.readouterr())
    assert (data.train.count + data.validation.count, data.test.count) == (1437, 360)
    assert data.input_shape == (8, 8, 1)
    assert data.class_names == tuple("0123456789")
    assert data.train.inputs.dtype == np.uint8
    digits = load_digits()
    expected = {
        (label, np.floor(image * 255 / 16 + 0.5).astype(np.uint8).tobytes())
        for image, label in zip(digits.images, digits.target.tolist(), strict=True)
    }
    splits = [data.train, data.validation, data.test]
    found = [
        (label, image.tobytes())
        for split in splits
        for image, label in zip(split.inputs, split.targets.tolist(), strict=True)
    ]
    assert len(found) == 1797
    assert set(found) == expected


def test_each_class_gives_a_fifth_to_the_test_split(data_dir):
    tested = np.bincount(load_data("digits", data_dir=data_dir).test.targets)
    fifths = np.bincount(load_digits().target) / 5
    assert np.all(np.abs(tested - fifths) < 1)


@pytest.mark.usefixtures("no_network")
def test_is_prepared_once_and_whole(data_dir):
    first = load_data("digits", data_dir=data_dir)
    files = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*") if path.is_file()}
    second = load_data("digits", data_dir=data_dir)
    assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*") if path.is_file()} == files
    assert not [path for path in files if "incomplete" in str(path)]
    for name, split in first.splits.items():
        np.testing.assert_array_equal(split.inputs, second.splits[name].inputs)
        np.testing.assert_array_equal(split.targets, second.splits[name].targets)
