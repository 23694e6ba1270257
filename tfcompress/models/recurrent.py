"""Recurrent layers as the converter can take them."""

from __future__ import annotations

from typing import Any

from tfcompress import keras_door as kd
from tfcompress.models.rewrites import EXPORT, Rewritten, rewrite
from tfcompress.vocabulary.state import Lineage


def unrolled(model: Any) -> Any:
    """`model` with its GRU and SimpleRNN layers without loops, nested ones brought out; `model` itself without any.

    Args:
        model: a Sequential or Functional tf_keras model, not yet quantized where it has such loops.

    Raises:
        ModelError: one has too many steps.

    Example:
        >>> unrolled(model).get_layer("gru").unroll  # doctest: +SKIP
        True
    """
    return unrolling(model).model


def unrolling(model: Any) -> Rewritten:
    """What `unrolled` does to `model`, with its changes; raises as it does."""
    layers = kd.keras.layers
    if any(isinstance(part, (layers.GRU, layers.SimpleRNN)) and not part.unroll for part in model._flatten_layers()):
        return rewrite(model, ("flatten_models", *EXPORT))
    return Rewritten(model, Lineage(), ())
