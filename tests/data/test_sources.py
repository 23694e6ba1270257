import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfcompress import keras_door as kd
from tfcompress.data import Dataset, Split, check_fits, load_data
from tfcompress.data.settings import DataSettings
from tfcompress.vocabulary.errors import DataError

X = np.random.default_rng(0).integers(0, 256, (50, 6, 6, 1)).astype(np.uint8)
Y = np.arange(50) % 5
SHARED = Path(__file__).resolve().parents[3] / "shared" / "tfds"


def counts(data):
    return tuple(split.count for split in data.splits.values())


class PairsOfTexts(kd.tfds.core.GeneratorBasedBuilder):
    """Two texts and a label: which is the input?"""

    VERSION = kd.tfds.core.Version("1.0.0")

    def _info(self):
        features = kd.tfds.features
        texts = {"left": features.Text(), "right": features.Text(), "same": features.ClassLabel(num_classes=2)}
        return kd.tfds.core.DatasetInfo(builder=self, features=features.FeaturesDict(texts))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"left": "a", "right": "b", "same": 0}


class TestArrays:
    def test_a_pair_is_cut_in_three(self):
        data = load_data((X, Y))
        assert counts(data) == (36, 4, 10)
        assert data.classes == 5
        for split in data.splits.values():
            for image, label in zip(split.inputs, split.targets, strict=True):
                assert Y[np.flatnonzero((image == X).all(axis=(1, 2, 3)))[0]] == label

    @pytest.mark.parametrize("source", [X, (X,), (X, None), list(X), (sample for sample in X)])
    def test_unlabelled(self, source):
        data = load_data(source)
        assert counts(data) == (36, 4, 10)
        assert data.train.targets is None
        assert data.train.inputs.dtype == np.uint8

    def test_a_dict_keeps_its_splits(self):
        data = load_data({"train": (X[:30], Y[:30]), "validation": (X[30:35], Y[30:35]), "test": (X[35:], Y[35:])})
        np.testing.assert_array_equal(data.train.inputs, X[:30])
        np.testing.assert_array_equal(data.validation.targets, Y[30:35])
        np.testing.assert_array_equal(data.test.inputs, X[35:])

    def test_validation_is_never_cut_from_test(self):
        data = load_data({"train": (X[:30], Y[:30]), "test": (X[30:], Y[30:])})
        np.testing.assert_array_equal(data.test.inputs, X[30:])
        assert counts(data) == (27, 3, 20)

    def test_targets_of_any_task(self):
        many_hot = np.eye(5, dtype=bool)[Y]
        assert load_data((X, Y / 2)).train.targets.dtype == np.float32
        assert load_data((X, many_hot)).train.targets.shape == (36, 5)
        assert load_data((X, Y / 2)).classes is None
        assert load_data((X, Y[:, None].astype(np.uint8))).classes == 5

    def test_inputs_other_than_bytes_become_float32(self):
        assert load_data(X.astype(np.float64)).train.inputs.dtype == np.float32
        assert load_data(X.astype(np.int16)).train.inputs.dtype == np.float32

    def test_a_model_of_integers_gets_integers(self, tmp_path):
        ids = np.arange(150, dtype=np.int64).reshape(50, 3) + 2**25
        np.savez(tmp_path / "ids.npz", x=ids, y=Y)
        for source in ((ids, Y), tmp_path / "ids.npz", {"train": (ids, Y), "test": (ids, Y)}):
            data = load_data(source, input_dtype="int64")
            assert {part.inputs.dtype for part in data.splits.values()} == {np.dtype(np.int32)}
            assert set(data.test.inputs.ravel()) <= set(ids.ravel())
            assert data.vocabulary_size == 2**25 + 150
        assert load_data((X, Y), input_dtype="int32").train.inputs.dtype == np.int32
        assert load_data((X.astype(np.float64), Y), input_dtype="int32").train.inputs.dtype == np.int32

    def test_fractions_are_no_integers(self):
        for wrong in (X + 0.5, np.where(X > 200, np.nan, X), X.astype(np.int64) + 2**31):
            with pytest.raises(DataError, match="takes whole numbers within int32"):
                load_data((wrong, Y), input_dtype="int32")

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ((X, Y[:-1]), "50 inputs and 49 targets"),
            ((X, Y, Y), "3 elements"),
            ({"train": X}, "keys train and test"),
            ({"train": X, "test": X, "val": X}, "may have validation"),
            ({"train": (X, Y), "test": (X, Y[1:])}, "test: .*50 inputs and 49 targets"),
            ([X[0], X[0, :3]], "one shape"),
            ([], "at least one"),
            (np.array(["a", "b"]), "real numbers"),
            (7, "real numbers"),
        ],
    )
    def test_what_does_not_serve_is_refused(self, source, message):
        with pytest.raises(DataError, match=message):
            load_data(source)

    def test_settings_that_do_not_fit_are_refused(self):
        with pytest.raises(DataError, match="crop=6"):
            load_data(X, settings=DataSettings(augment={"crop": 6}))
        with pytest.raises(DataError, match="2 numbers"):
            load_data(X, settings=DataSettings(preprocessing={"mean": [1, 2], "std": [1, 2]}))


class TestNpz:
    def save(self, folder, **arrays):
        np.savez(folder / "data.npz", **arrays)
        return folder / "data.npz"

    def test_three_splits(self, tmp_path):
        path = self.save(
            tmp_path, x_train=X[:30], y_train=Y[:30], x_val=X[30:35], y_val=Y[30:35], x_test=X[35:], y_test=Y[35:]
        )
        for source in (path, str(path)):
            data = load_data(source)
            assert counts(data) == (30, 5, 15)
            np.testing.assert_array_equal(data.validation.inputs, X[30:35])

    def test_what_is_cut(self, tmp_path):
        assert counts(load_data(self.save(tmp_path, x=X, y=Y))) == (36, 4, 10)
        assert load_data(self.save(tmp_path, x=X)).train.targets is None
        assert load_data(self.save(tmp_path, x_train=X)).train.targets is None

    @pytest.mark.parametrize(
        ("keys", "missing", "unknown"),
        [
            (("x_train", "y_train"), "x_test, y_test", "none"),
            (("x_train", "y_train", "x_test"), "y_test", "none"),
            (("images", "labels"), "x_train", "images, labels"),
            (("y",), "x", "none"),
            (("x", "y", "x_val"), "none", "x_val"),
            (("x_train", "y_train", "x_test", "y_test", "x_valid"), "none", "x_valid"),
        ],
    )
    def test_other_keys_are_refused(self, tmp_path, keys, missing, unknown):
        path = self.save(tmp_path, **dict.fromkeys(keys, Y))
        with pytest.raises(DataError) as refused:
            load_data(path)
        assert f"Missing: {missing}. Unknown: {unknown}." in str(refused.value)

    def test_unreadable_files_are_refused(self, tmp_path):
        path = self.save(tmp_path, x=X)
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(DataError, match="cannot be read"):
            load_data(path)
        with path.open("wb") as file:
            np.save(file, X)
        with pytest.raises(DataError, match="cannot be read"):
            load_data(path)
        np.savez(path, x=np.array([{}], object))
        with pytest.raises(DataError, match="cannot be read"):
            load_data(path)


class TestFolder:
    def make(self, folder, splits=("train", "test"), sizes=((6, 6),), colour=(200, 100, 0)):
        for split in splits:
            for label in ("cat", "dog"):
                target = folder / split / label
                target.mkdir(parents=True)
                for index in range(4):
                    Image.new("RGB", sizes[index % len(sizes)], colour).save(target / f"{index}.png")
        return folder

    def test_is_read_with_its_class_names(self, tmp_path):
        data = load_data(str(self.make(tmp_path, ("train", "validation", "test"))))
        assert counts(data) == (8, 8, 8)
        assert data.class_names == ("cat", "dog")
        assert data.input_shape == (6, 6, 3)
        assert np.all(data.train.inputs == np.array([200, 100, 0], np.uint8))

    def test_images_are_resized_to_the_model(self, tmp_path):
        data = load_data(self.make(tmp_path, sizes=((6, 6), (9, 3))), input_shape=(4, 5, 3))
        assert data.input_shape == (4, 5, 3)
        assert data.train.inputs.dtype == np.uint8
        assert np.all(data.train.inputs == np.array([200, 100, 0], np.uint8))

    def test_shrinking_averages(self, tmp_path):
        self.make(tmp_path)
        checkered = np.indices((6, 6)).sum(0) % 2 * 255
        Image.fromarray(checkered.astype(np.uint8)).save(tmp_path / "test" / "cat" / "0.png")
        data = load_data(tmp_path, input_shape=(2, 2, 1))
        grey = data.test.inputs[(data.test.targets == 0)]
        assert np.any(np.all(np.abs(grey.astype(int) - 127.5) < 40, axis=(1, 2, 3)))

    def test_grey_models_get_grey_images(self, tmp_path):
        data = load_data(self.make(tmp_path, colour=(90, 90, 90)), input_shape=(6, 6, 1))
        assert data.input_shape == (6, 6, 1)
        assert np.all(np.abs(data.train.inputs.astype(int) - 90) <= 1)

    def test_several_sizes_need_a_model_to_resize_to(self, tmp_path):
        with pytest.raises(DataError, match="2 sizes"):
            load_data(self.make(tmp_path, sizes=((6, 6), (9, 3))))

    def test_another_layout_is_refused_with_all_its_faults(self, tmp_path):
        self.make(tmp_path, ("val",))
        (tmp_path / "train").mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / "train" / "stray.png")
        with pytest.raises(DataError) as refused:
            load_data(tmp_path)
        for fault in ("test is missing", "val is no split", "train has no class folders"):
            assert fault in str(refused.value)

    def test_an_unreadable_image_is_named(self, tmp_path):
        broken = self.make(tmp_path) / "test" / "dog" / "1.png"
        broken.write_bytes(b"not an image")
        with pytest.raises(DataError, match=r"test/dog/1\.png cannot be read"):
            load_data(tmp_path, input_shape=(6, 6, 3))


class TestNames:
    def test_an_unknown_name_brings_close_ones_and_the_accepted_forms(self):
        with pytest.raises(DataError, match=r"Did you mean .*cifar10.*npz"):
            load_data("cifar01")
        with pytest.raises(DataError, match="Did you mean digits"):
            load_data("digit")

    @pytest.mark.parametrize("source", ["./nowhere", "nowhere.npz", Path("nowhere")])
    def test_a_missing_path_is_refused(self, source, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(DataError, match="no such file"):
            load_data(source)

    def test_a_bare_name_means_tfds_and_a_path_the_folder(self, tmp_path, monkeypatch):
        TestFolder().make(tmp_path / "digits")
        monkeypatch.chdir(tmp_path)
        assert load_data("./digits").class_names == ("cat", "dog")
        assert load_data("digits", data_dir=tmp_path / "tfds").classes == 10

    def test_without_a_network_the_remedy_is_named_at_once(self, tmp_path, monkeypatch):
        def unknown_host(*_args, **_kwargs):
            raise OSError("no such host")

        monkeypatch.setattr("socket.getaddrinfo", unknown_host)
        monkeypatch.setattr("tfcompress.data._tfds.getproxies", dict)
        started = time.monotonic()
        with pytest.raises(DataError, match=r"kmnist cannot be downloaded.*Remedy: as data_dir"):
            load_data("kmnist", data_dir=tmp_path)
        assert time.monotonic() - started < 20
        assert not any(tmp_path.rglob("*incomplete*"))

    def test_an_unknown_config_is_refused(self, tmp_path):
        with pytest.raises(DataError, match="lettres not found"):
            load_data("emnist/lettres", data_dir=tmp_path)

    @pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
    def test_a_read_only_folder_is_refused(self, tmp_path):
        tmp_path.chmod(0o500)
        with pytest.raises(DataError, match="digits cannot be prepared"):
            load_data("digits", data_dir=tmp_path)

    def test_a_data_dir_that_is_a_file_is_refused(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(DataError, match="digits cannot be prepared"):
            load_data("digits", data_dir=tmp_path / "file")

    def test_a_damaged_record_is_refused(self, tmp_path):
        load_data("digits", data_dir=tmp_path)
        record = next(tmp_path.rglob("*train.tfrecord*"))
        content = bytearray(record.read_bytes())
        content[len(content) // 2] ^= 0xFF
        record.write_bytes(content)
        with pytest.raises(DataError, match="Remedy: remove that folder"):
            load_data("digits", data_dir=tmp_path)

    def test_images_are_resized_to_the_model(self, tmp_path):
        assert load_data("digits", data_dir=tmp_path, input_shape=(16, 16, 1)).input_shape == (16, 16, 1)

    @pytest.mark.skipif(not SHARED.is_dir(), reason="needs prepared TFDS folders")
    def test_prepared_sets_are_read_without_a_network(self, monkeypatch):
        def refuse(*_args, **_kwargs):
            raise AssertionError("the network was asked for")

        monkeypatch.setattr("socket.getaddrinfo", refuse)
        data = load_data("cifar10", data_dir=SHARED, input_shape=(32, 32, 3))
        assert counts(data) == (36_000, 4_000, 1_000)
        assert data.classes == 10
        digits = load_data("spoken_digit", data_dir=SHARED)
        assert (digits.input_shape, digits.classes, counts(digits)) == ((49, 40, 1), 10, (1080, 120, 300))
        news = load_data("ag_news_subset", data_dir=SHARED)
        assert (news.input_shape, news.vocabulary_size, counts(news)) == ((64,), 5000, (5940, 660, 1000))
        assert news.class_names == ("World", "Sports", "Business", "Sci/Tech")

    def test_a_set_with_several_texts_is_refused_with_its_features(self, tmp_path):
        PairsOfTexts(data_dir=tmp_path).download_and_prepare()
        with pytest.raises(DataError, match=r"one image, sound or text and one label.*left \(Text\), right \(Text\)"):
            load_data("pairs_of_texts", data_dir=tmp_path)


class TestFits:
    def test_what_fits_passes(self):
        check_fits(load_data((X, Y)), (6, 6, 1), 5)
        check_fits(load_data((X, Y)), (None, None, 1), 10)
        check_fits(load_data(X), (6, 6, 1), 5)
        check_fits(load_data((X, Y / 2)), (6, 6, 1), None)

    def test_every_problem_is_named_at_once(self):
        inputs = np.zeros((4, 3), np.float32)
        inputs[1, 2] = np.nan
        data = Dataset(
            "sorry",
            Split(inputs, np.array([0, 1, 2, 7])),
            Split(np.zeros((0, 3), np.float32), np.zeros(0, int)),
            Split(np.zeros((2, 4), np.float32), np.array([-1, 0])),
        )
        with pytest.raises(DataError) as refused:
            check_fits(data, (None, 3), 3)
        for problem in (
            "train: inputs must be finite, and 1 values",
            "train: labels must be 0...2 for a model of 3 classes, and 1 are not, from 0 to 7",
            "test: labels must be 0...2 for a model of 3 classes, and 1 are not, from -1 to 0",
            "the validation split is empty",
            "takes inputs of shape (any, 3), and the data has (3)",
            "takes inputs of shape (any, 3), and the data has (4)",
        ):
            assert problem in str(refused.value)

    def test_targets_must_be_finite(self):
        targets = np.where(np.arange(50) == 49, np.inf, 1.0)
        with pytest.raises(DataError, match="targets must be finite, and 1 values"):
            check_fits(load_data((X, targets)), (6, 6, 1), None)

    def test_token_ids_must_be_rows_of_the_embedding(self):
        ids = np.arange(150).reshape(50, 3)
        data = load_data({"train": (ids, Y), "validation": (ids, Y), "test": (ids - 1, Y)}, input_dtype="int32")
        check_fits(load_data((ids, Y), input_dtype="int32"), (3,), 5, tokens=150)
        with pytest.raises(DataError) as refused:
            check_fits(data, (3,), 5, tokens=149)
        assert "train: token ids must be 0...148, the rows of the model's Embedding, and are 0...149" in str(
            refused.value
        )
        assert "test: token ids must be 0...148, the rows of the model's Embedding, and are -1...148" in str(
            refused.value
        )

    def test_half_labelled_data_is_refused(self):
        with pytest.raises(DataError, match="some splits have targets and some have none"):
            check_fits(load_data({"train": (X, Y), "test": X}), (6, 6, 1), 5)

    @pytest.mark.parametrize("empty", ["train", "validation", "test"])
    def test_empty_splits_are_refused(self, empty):
        splits = {name: (X, Y) for name in ("train", "validation", "test")}
        splits[empty] = (X[:0], Y[:0])
        with pytest.raises(DataError, match=f"the {empty} split is empty"):
            check_fits(load_data(splits), (6, 6, 1), 5)
