import re
import string

import numpy as np
import pytest
from fixtures.text_and_audio import TinyNews

from tfcompress.data import Split, load_data
from tfcompress.data.settings import DataSettings
from tfcompress.data.text import TextSettings, encode_text
from tfcompress.vocabulary.errors import DataError


def split(*texts):
    return Split(np.array([text.encode() for text in texts], object), np.zeros(len(texts), np.int64))


def words_of(text):
    """An independent reading of the card's rule."""
    return re.sub("[" + re.escape(string.punctuation) + "]", "", re.sub("[A-Z]", lambda m: m[0].lower(), text)).split()


def lines(encoding):
    content = encoding.files["vocabulary.txt"]
    assert content.endswith("\n")
    return content[:-1].split("\n")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    TinyNews(data_dir=folder).download_and_prepare()
    return folder


@pytest.fixture(scope="module")
def news(data_dir):
    return load_data("tiny_news", data_dir=data_dir, settings=DataSettings(text={"length": 6}))


def test_a_text_set_is_found_by_its_features(news):
    assert {name: part.inputs.shape for name, part in news.splits.items()} == {
        "train": (144, 6),
        "validation": (16, 6),
        "test": (40, 6),
    }
    assert all(part.inputs.dtype == np.int32 for part in news.splits.values())
    assert news.class_names == ("sport", "money")
    assert news.vocabulary_size == len(lines(news.encoding))


def test_ids_are_the_lines_of_the_file_by_the_rule_on_the_card():
    texts = ["The cat, the CAT!", "a dog's the\t[new] dog-house", "ÉTÉ über"]
    encoded, encoding = encode_text({"train": split(*texts)}, TextSettings(length=20))
    vocabulary = lines(encoding)
    assert vocabulary[:3] == ["[PAD]", "[UNK]", "the"]
    assert set(vocabulary[2:]) == {word for text in texts for word in words_of(text)}
    for text, ids in zip(texts, encoded["train"].inputs, strict=True):
        expected = [vocabulary.index(word) for word in words_of(text)]
        assert ids.tolist() == expected + [0] * (20 - len(expected))


def test_the_vocabulary_is_of_the_train_split_alone(news):
    assert "unheard" not in lines(news.encoding)
    assert "untitled" not in lines(news.encoding)
    assert np.any(news.test.inputs == 1)
    assert not np.any(news.train.inputs == 1)


def test_the_vocabulary_does_not_depend_on_the_seed(data_dir, news):
    other = load_data("tiny_news", data_dir=data_dir, settings=DataSettings(text={"length": 6}), seed=7)
    assert other.encoding == news.encoding
    assert not np.array_equal(other.validation.inputs, news.validation.inputs)


def test_long_texts_are_cut_and_rare_words_left_out():
    texts = split("one one one two two three", "one two")
    encoded, encoding = encode_text({"train": texts}, TextSettings(vocabulary_size=4, length=3))
    assert lines(encoding) == ["[PAD]", "[UNK]", "one", "two"]
    assert encoded["train"].inputs.tolist() == [[2, 2, 2], [2, 3, 0]]
    assert encode_text({"train": texts}, TextSettings(vocabulary_size=3))[0]["train"].inputs[1, :3].tolist() == [
        2,
        1,
        0,
    ]


def test_the_description_says_all_that_a_person_deploying_needs(news):
    text = "\n".join(news.encoding.description)
    for said in ("lower case", "[\\]^_`{|}~'", "vocabulary.txt", "counted from 0", "first 6 ids", "0 at the end"):
        assert said in text


def test_a_train_split_without_words_is_refused():
    with pytest.raises(DataError, match="at least one word"):
        encode_text({"train": split("...", "")}, TextSettings())


@pytest.mark.parametrize("wrong", [{"vocabulary_size": 2}, {"length": 0}, {"size": 5}])
def test_settings_are_strict(wrong):
    with pytest.raises(ValueError):
        TextSettings(**wrong)


def test_token_ids_are_fed_unchanged(news, data_dir):
    settings = DataSettings(text={"length": 6}, preprocessing="unit")
    with pytest.raises(DataError, match="fed unchanged"):
        load_data("tiny_news", data_dir=data_dir, settings=settings)
    with pytest.raises(DataError, match="needs images"):
        load_data("tiny_news", data_dir=data_dir, settings=DataSettings(augment={"flip": True}))
