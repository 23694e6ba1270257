"""An LSTM (Hochreiter and Schmidhuber 1997) that classifies text (Zhang et al. 2015, arXiv:1509.01626)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tfcompress import keras_door as kd
from tfcompress.models.zoo.layers import LayerMaker
from tfcompress.models.zoo.registry import register
from tfcompress.vocabulary.schema import Schema


class LstmTextOptions(Schema):
    """What may follow ``lstm_text:``."""

    width: int = Field(default=64, ge=1, le=4096)
    """Numbers in a word's vector. Defaults to 64."""
    units: int = Field(default=64, ge=1, le=4096)
    """Units of the LSTM. Defaults to 64."""


@register(smallest=None, options=LstmTextOptions, of_tokens=True)
def lstm_text(inputs: Any, classes: int, make: LayerMaker, vocabulary_size: int, width: int, units: int) -> Any:
    """Embedding, LSTM, the mean of its outputs, softmax; 353,284 parameters at 5,000 words, 4 classes.

    The word-based LSTM of Zhang et al., section 3.2, there with 300 numbers a word and 512 units. The mean over all
    steps does not depend on where a text is padded, and without a mask the layer becomes one operator of .tflite.
    """
    x = make.embedding(inputs, vocabulary_size, width, "words")
    x = make.dropout(x, 0.3, "words_dropout")
    x = make.recurrent("LSTM", x, units, "lstm", return_sequences=True)
    x = kd.keras.layers.GlobalAveragePooling1D(name="pool")(x)
    x = make.dropout(x, 0.5, "dropout")
    return make.classifier(x, classes)
