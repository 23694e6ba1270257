"""From texts and sounds to a proven file, with all that it takes to feed it."""

import numpy as np
import pytest
from fixtures.text_and_audio import TinyNews, TinyTones

from tfcompress import keras_door as kd
from tfcompress.evaluate import predict
from tfcompress.pipeline import compress, convert
from tfcompress.recipe import load_recipe
from tfcompress.vocabulary.errors import DataError, RecipeError

FAST = ["evaluation.latency_seconds=0.05", "evaluation.threads=1"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (TinyNews, TinyTones):
        builder(data_dir=folder).download_and_prepare()
    return folder


@pytest.fixture(scope="module")
def news(data_dir, tmp_path_factory):
    overrides = [*FAST, "data.text.length=10", "data.batch_size=8", "train.epochs=3", "train.learning_rate=0.03"]
    out = tmp_path_factory.mktemp("news") / "run"
    return compress(
        "lstm_text:units=8,width=6", "tiny_news", "ptq_int8", data_dir=data_dir, overrides=overrides, out=out
    )


def test_a_text_network_becomes_an_integer_file_of_token_ids(news):
    evidence = news.evidence
    assert evidence.artifact.full_integer
    assert (evidence.artifact.input.dtype, evidence.artifact.input.shape) == ("int32", (1, 10))
    assert evidence.artifact.output.dtype == "int8"
    assert evidence.metric.float > 0.9
    assert evidence.metric.drop_points < 5
    assert evidence.agreement.argmax > 0.9


def test_card_and_folder_say_what_to_feed(news):
    card = (news.folder / "card.md").read_text()
    for said in (*news.evidence.preprocessing.encoding, "int32, 1 x 10"):
        assert said in card
    assert len(news.evidence.preprocessing.encoding) == 3
    assert "as stored" not in card
    vocabulary = (news.folder / "vocabulary.txt").read_text().split("\n")[:-1]
    assert vocabulary[:2] == ["[PAD]", "[UNK]"]
    assert (news.folder / "labels.txt").read_text() == "sport\nmoney\n"


def test_what_the_folder_says_is_enough_to_classify_a_sentence(news):
    vocabulary = (news.folder / "vocabulary.txt").read_text().split("\n")
    labels = (news.folder / "labels.txt").read_text().split()
    for text, label in (("The goal of a team scores", "sport"), ("Stock market profit", "money")):
        ids = [vocabulary.index(word) if word in vocabulary else 1 for word in text.lower().split()]
        outputs = predict(news.artifact, np.array([ids + [0] * (10 - len(ids))], np.int32))
        assert labels[outputs[0].argmax()] == label


def test_a_sound_network_becomes_an_integer_file(data_dir, tmp_path):
    small = {"duration_ms": 250, "frame_ms": 32, "hop_ms": 16, "mel_bins": 12}
    overrides = [*FAST, *(f"data.audio.{key}={value}" for key, value in small.items())]
    overrides += ["train.epochs=2", "data.batch_size=16"]
    result = compress(
        "lenet300", "tiny_tones", "ptq_int8", data_dir=data_dir, overrides=overrides, out=tmp_path / "run"
    )
    assert result.evidence.artifact.full_integer
    assert result.evidence.metric.artifact == 1
    assert (result.evidence.artifact.input.dtype, result.evidence.artifact.input.shape) == ("int8", (1, 14, 12, 1))
    card = (tmp_path / "run" / "card.md").read_text()
    assert "4,000 samples a second" in card
    assert "audio_features.json" in card
    assert (tmp_path / "run" / "audio_features.json").exists()


@pytest.fixture(scope="module")
def tagger():
    layers = kd.keras.layers
    kd.keras.utils.set_random_seed(0)
    tokens = layers.Input((6,), dtype="int32")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(300, 4)(tokens))
    return kd.keras.Model(tokens, layers.Dense(3, activation="softmax")(x), name="tagger")


def test_integer_arrays_reach_an_embedding_as_they_are(tagger, tmp_path):
    ids = np.random.default_rng(0).integers(0, 300, (60, 6))
    assert ids.max() > 255, "bytes would do"
    np.savez(tmp_path / "ids.npz", x=ids, y=ids[:, 0] % 3)
    result = compress(tagger, tmp_path / "ids.npz", "ptq_int8", overrides=FAST, out=tmp_path / "run")
    assert result.evidence.artifact.full_integer
    assert result.evidence.artifact.input.dtype == "int32"
    assert result.evidence.agreement.mean_steps < 1


def test_what_does_not_fit_token_ids_is_refused(tagger, data_dir, tmp_path):
    rng = np.random.default_rng(0)
    ids, labels = rng.integers(0, 300, (60, 6)), np.arange(60) % 3
    with pytest.raises(DataError, match=r"0\.\.\.299.*100\.\.\.400|0\.\.\.299.*400"):
        compress(tagger, (ids + 101, labels), "ptq_int8", out=tmp_path / "a")
    with pytest.raises(DataError, match="takes whole numbers"):
        compress(tagger, (ids + 0.5, labels), "ptq_int8", out=tmp_path / "b")
    with pytest.raises(DataError, match="fed unchanged"):
        compress(tagger, (ids, labels), "ptq_int8", overrides=["data.preprocessing=unit"], out=tmp_path / "c")
    recipe = load_recipe("ptq_int8", ["conversion.preprocessing_in_graph=true"])
    with pytest.raises(RecipeError, match="preprocessing_in_graph needs an input of real numbers"):
        convert(tagger, (ids, labels), recipe, out=tmp_path / "d.tflite")
    with pytest.raises(DataError, match=r"input is of float32.*lstm_text"):
        compress("lenet300", "tiny_news", "ptq_int8", data_dir=data_dir, out=tmp_path / "e")
    with pytest.raises(DataError, match=r"inputs of shape \(6\), and the data has \(64\).*data\.text"):
        compress(tagger, "tiny_news", "ptq_int8", data_dir=data_dir, out=tmp_path / "f")


def test_convert_writes_the_vocabulary_beside_the_file(tagger, data_dir, tmp_path):
    recipe = load_recipe("ptq_int8", ["data.text.length=6"])
    assert convert(tagger, "tiny_news", recipe, data_dir=data_dir, out=tmp_path / "m.tflite").full_integer
    assert (tmp_path / "vocabulary.txt").read_text().startswith("[PAD]\n[UNK]\n")
