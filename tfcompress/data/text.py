"""Text as token ids: words looked up in a vocabulary, outside the graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import Field

from tfcompress import keras_door as kd
from tfcompress.data.encoding import Encoding
from tfcompress.data.split import Split
from tfcompress.vocabulary.errors import DataError
from tfcompress.vocabulary.schema import Schema

VOCABULARY_FILE = "vocabulary.txt"
PADDING, UNKNOWN = "[PAD]", "[UNK]"
"""The first two lines of the file, ids 0 and 1. No word can be one of them: words have no brackets."""

_ENCODED_AT_ONCE = 4096


class TextSettings(Schema):
    """How text becomes token ids.

    Example:
        >>> TextSettings(length=128).vocabulary_size
        5000
    """

    vocabulary_size: int = Field(default=5000, ge=3, le=10_000_000)
    """Most token ids there may be, padding and unknown words among them: the commonest words of the training text
    get one. Defaults to 5000."""
    length: int = Field(default=64, ge=1, le=100_000)
    """Token ids of one text: longer ones are cut, shorter ones padded, both at the end. Defaults to 64."""


def encode_text(splits: Mapping[str, Split], settings: TextSettings) -> tuple[dict[str, Split], Encoding]:
    """Splits of token ids, made by Keras' `TextVectorization` with a vocabulary of the train split alone.

    Args:
        splits: inputs `[n]` of UTF-8 bytes. `train` must not hold what is tested on; what is validated on may still
            be in it, so that the vocabulary does not depend on the seed of that cut: a model trained under one seed
            is fed the same ids under another.
        settings: size and length.

    Returns:
        The splits with inputs int32 `[n, length]`, and how they came to be.

    Raises:
        DataError: there is no word in the train split.

    Example:
        >>> texts = Split(np.array([b"A cat, a dog.", b"A dog"], object), np.array([0, 1]))
        >>> encode_text({"train": texts}, TextSettings(length=4))[0]["train"].inputs.tolist()  # doctest: +SKIP
        [[2, 4, 2, 3], [2, 3, 0, 0]]
    """
    vectorizer = kd.keras.layers.TextVectorization(
        max_tokens=settings.vocabulary_size, output_sequence_length=settings.length
    )
    texts = kd.tf.data.Dataset.from_tensor_slices(splits["train"].inputs)
    vectorizer.adapt(texts.batch(_ENCODED_AT_ONCE))
    vocabulary = (PADDING, UNKNOWN, *map(str, vectorizer.get_vocabulary(include_special_tokens=False)))
    if len(vocabulary) == 2:
        raise DataError("A vocabulary needs at least one word, and the train split has none.")
    encoded = {name: Split(_ids(vectorizer, split.inputs), split.targets) for name, split in splits.items()}
    return encoded, _encoding(settings, vocabulary)


def _ids(vectorizer: object, texts: np.ndarray) -> np.ndarray:
    parts = [
        vectorizer(kd.tf.constant(texts[start : start + _ENCODED_AT_ONCE])).numpy()
        for start in range(0, len(texts), _ENCODED_AT_ONCE)
    ]
    return np.concatenate(parts).astype(np.int32)


def _encoding(settings: TextSettings, vocabulary: tuple[str, ...]) -> Encoding:
    return Encoding(
        description=(
            "Text: turn A-Z to lower case, remove every character of !\"#$%&()*+,-./:;<=>?@[\\]^_`{|}~', and split at "
            "white space",
            f"Token ids: a word's line in `{VOCABULARY_FILE}`, counted from 0; 1 for a word that is not in it "
            f"({len(vocabulary):,} lines, learned from the training text)",
            f"Length: the first {settings.length} ids; shorter texts are filled up with 0 at the end",
        ),
        files={VOCABULARY_FILE: "".join(f"{word}\n" for word in vocabulary)},
        setting="data.text",
        vocabulary_size=len(vocabulary),
    )
