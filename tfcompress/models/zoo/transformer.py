"""One encoder block of a Transformer (Vaswani et al. 2017, arXiv:1706.03762) that classifies text."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from tfcompress import keras_door as kd
from tfcompress.models.zoo.layers import LayerMaker
from tfcompress.models.zoo.registry import register
from tfcompress.vocabulary.schema import Schema


class TransformerTextOptions(Schema):
    """What may follow ``transformer_text:``."""

    embedding: int = Field(default=32, ge=1, le=4096)
    """Numbers in a word's vector, before it is mapped to `width`. Defaults to 32."""
    width: int = Field(default=64, ge=1, le=4096)
    """Features of the encoder; its hidden layer has twice as many. Defaults to 64."""
    heads: int = Field(default=4, ge=1, le=64)
    """Attention heads, among which the features are divided. Defaults to 4."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> TransformerTextOptions:
        if self.width % self.heads:
            raise ValueError(f"heads must divide width. Received: heads={self.heads} and width={self.width}")
        return self


@register(smallest=None, options=TransformerTextOptions, of_tokens=True)
def transformer_text(
    inputs: Any, classes: int, make: LayerMaker, vocabulary_size: int, embedding: int, width: int, heads: int
) -> Any:
    """Embedding with positions, one encoder block, the mean over time, softmax.

    199,876 parameters at 64 of 5,000 words, 4 classes. Layers are normalised behind each sum, as in Vaswani et al.,
    section 3.1. Word vectors are narrower than the encoder, as in Lan et al. 2020 (arXiv:1909.11942, section 3.1).
    Padding is attended to like a word: a mask would spoil the range of the scores in integers.
    """
    layers = kd.keras.layers
    x = make.embedding(inputs, vocabulary_size, embedding, "words")
    x = make.positioned(x, width, "positions")
    x = make.dropout(x, 0.2, "positions_dropout")
    attended = make.dropout(make.self_attention(x, heads, "attention"), 0.2, "attention_dropout")
    x = layers.Add(name="attention_add")([x, attended])
    x = layers.LayerNormalization(name="attention_norm")(x)
    hidden = make.dense(x, 2 * width, "hidden")
    hidden = make.dropout(make.projection(hidden, width, "hidden_out"), 0.2, "hidden_dropout")
    x = layers.Add(name="hidden_add")([x, hidden])
    x = layers.LayerNormalization(name="hidden_norm")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    x = make.dropout(x, 0.5, "dropout")
    return make.classifier(x, classes)
