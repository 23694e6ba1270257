"""What a model's input takes: real numbers, or integers such as token ids."""

from __future__ import annotations

from typing import Any

from tfcompress import keras_door as kd
from tfcompress.models.graph import moves_values, producers
from tfcompress.vocabulary.errors import ModelError


def input_dtype(model: Any) -> str:
    """The dtype of the model's one input, e.g. `float32`; `int32` for token ids."""
    return model.inputs[0].dtype.name


def token_limit(model: Any) -> int | None:
    """How many token ids the model knows: the rows of the Embedding behind its input; None without one.

    Layers between them may give the ids in another arrangement.

    Raises:
        ModelError: the input is of real numbers. An integer file would quantize the ids to 256 different ones.
    """
    embeddings = [
        layer
        for layer in model.layers
        if isinstance(layer, kd.keras.layers.Embedding) and _takes_an_input(model, layer)
    ]
    if not embeddings:
        return None
    if not model.inputs[0].dtype.is_integer:
        raise ModelError(
            f"The input in front of an Embedding must be of integers. Layer {embeddings[0].name!r} takes token ids "
            f"from an input of {input_dtype(model)}. Remedy: build the model on `Input(shape, dtype='int32')` and give "
            "it the weights of this one: `new.set_weights(old.get_weights())`."
        )
    return min(layer.input_dim for layer in embeddings)


def _takes_an_input(model: Any, layer: Any) -> bool:
    return any(
        isinstance(source, kd.keras.layers.InputLayer) or (moves_values(source) and _takes_an_input(model, source))
        for source in producers(model, layer)
    )
