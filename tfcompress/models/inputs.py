"""What a model's input takes: real numbers, or integers such as token ids."""

from __future__ import annotations

from typing import Any

from tfcompress import keras_door as kd
from tfcompress.models.rewrites import takers_of_inputs
from tfcompress.vocabulary.errors import ModelError


def input_dtype(model: Any) -> str:
    """The dtype of the model's one input, e.g. `float32`; `int32` for token ids."""
    return model.inputs[0].dtype.name


def token_limit(model: Any) -> int | None:
    """How many token ids the model knows: the rows of the Embedding behind its input; None without one.

    Layers between them may give the ids in another arrangement, and the Embedding may stand in a nested model. Of a
    layer that holds an Embedding of its own, it is not known what the ids in it are.

    Raises:
        ModelError: the input is of real numbers, and an Embedding or a layer that holds one takes it. An integer file
            would quantize the ids to 256 different ones.
    """
    takers = [layer for layers in takers_of_inputs(model) for layer in layers if _looks_up(layer)]
    if takers and not model.inputs[0].dtype.is_integer:
        named = ", ".join(dict.fromkeys(f"{layer.name!r} ({type(layer).__name__})" for layer in takers))
        raise ModelError(
            f"The input in front of an Embedding must be of integers. Token ids from an input of {input_dtype(model)} "
            f"are taken by {named}. Remedy: build the model on `Input(shape, dtype='int32')` and give it the weights "
            "of this one: `new.set_weights(old.get_weights())`."
        )
    return min((layer.input_dim for layer in takers if isinstance(layer, kd.keras.layers.Embedding)), default=None)


def _looks_up(layer: Any) -> bool:
    return any(isinstance(part, kd.keras.layers.Embedding) for part in layer._flatten_layers())
