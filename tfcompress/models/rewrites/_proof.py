"""The proof that a rewritten model is the same function: both run on the same random input."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.rewrites._graph import takers_of_inputs

TOLERANCE = 1e-4
"""The largest difference of outputs, relative to the largest output, that rounding is held to explain."""
SAMPLES = 4
OPEN_SIZE = 12
"""What stands for a size that the model leaves open."""


def random_inputs(model: Any, seed: int = 0) -> list[np.ndarray]:
    """Inputs that `model` takes: standard normal, token numbers for an Embedding, 0...255 for a Rescaling.

    Args:
        model: a Sequential or Functional model.
        seed: of the numbers. Defaults to 0.

    Returns:
        One array for each input, `[SAMPLES, ...]`.
    """
    rng = np.random.default_rng(seed)
    return [_random(tensor, takers, rng) for tensor, takers in zip(model.inputs, takers_of_inputs(model), strict=True)]


def difference(before: Any, after: Any) -> float:
    """The largest difference between the outputs of two models in inference, relative to the largest output.

    Args:
        before, after: models of the same inputs and outputs.

    Returns:
        0 for equal outputs; infinity where shapes differ or a number is not finite.
    """
    inputs = random_inputs(before)
    pairs = zip(_outputs(before, inputs), _outputs(after, inputs), strict=True)
    return max(_difference(old, new) for old, new in pairs)


def _difference(old: np.ndarray, new: np.ndarray) -> float:
    if old.shape != new.shape or not np.isfinite(new).all():
        return np.inf
    return float(np.abs(old - new).max() / max(np.abs(old).max(), np.finfo(np.float32).tiny))


def _outputs(model: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
    outputs = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    return [np.asarray(output, np.float64) for output in kd.tf.nest.flatten(outputs)]


def _random(tensor: Any, takers: list[Any], rng: np.random.Generator) -> np.ndarray:
    layers = kd.keras.layers
    shape = [tensor.shape[0] or SAMPLES, *(size or OPEN_SIZE for size in tensor.shape[1:])]
    parts = [part for layer in takers for part in layer._flatten_layers()]
    tables = [part.input_dim for part in parts if isinstance(part, layers.Embedding)]
    if tables or tensor.dtype.is_integer:
        return rng.integers(0, min(tables, default=2), shape).astype(tensor.dtype.as_numpy_dtype)
    values = rng.standard_normal(shape)
    if any(isinstance(layer, layers.Rescaling) for layer in takers):
        values = rng.uniform(0, 255, shape)
    return values.astype(tensor.dtype.as_numpy_dtype)
