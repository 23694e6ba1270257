"""A model in training, seen as the model it would be if training ended now, without disturbing it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

from tf_keras.src import backend

from tfcompress import keras_door as kd
from tfcompress.callbacks._effective_weights import STRIPPABLE, plain_weights
from tfcompress.vocabulary.errors import ModelError


def inference_model(model: Any) -> Any:
    """An uncompiled model that computes what `model` does in inference.

    Pruning and clustering wrappers are taken off on a copy. Any other model, one under quantization-aware training
    included, is seen through: the result shares its layers, but not its optimizer nor its compiled functions.

    Raises:
        ModelError: `model` is subclassed, or not built yet.
    """
    if model.inputs is None:
        raise ModelError(
            "A model must be Sequential or Functional, and built, to be converted while it trains. "
            f"Received: {model.name!r} ({type(model).__name__}). Remedy: give its first layer an `input_shape`, "
            "or rebuild a subclassed model with `tf_keras.Model(inputs, outputs)`."
        )
    if any(isinstance(part, STRIPPABLE) for part in model._flatten_layers()):
        return _stripped(model)
    return kd.keras.Model(model.inputs, model.outputs, name=model.name)


@contextlib.contextmanager
def randomness_kept(model: Any) -> Iterator[None]:
    """Give back all random numbers that the block draws, so that training goes on with those it would have had.

    Keras takes the seeds of layers and initializers from Python's generator, or from its own one after
    `set_random_seed`; and a layer with a seed of its own moves it on whenever it is traced.
    """
    generators = [random, *filter(None, [getattr(backend._SEED_GENERATOR, "generator", None)])]
    states = [generator.getstate() for generator in generators]
    parts = [value for layer in model._flatten_layers() for value in vars(layer).values()]
    seeded = [part for part in parts if isinstance(part, backend.RandomGenerator)]
    seeds = [part._seed for part in seeded]
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.setstate(state)
        for part, seed in zip(seeded, seeds, strict=True):
            part._seed = seed


def _stripped(model: Any) -> Any:
    """A copy of `model` without pruning and clustering wrappers, with the weights that its forward pass uses."""
    copies = []

    def strip(layer: Any) -> Any:
        if isinstance(layer, kd.keras.Model):
            return kd.keras.models.clone_model(layer, clone_function=strip)
        plain = layer.layer if isinstance(layer, STRIPPABLE) else layer
        copy = type(plain).from_config(plain.get_config())
        copies.append((layer, copy))
        return copy

    stripped = kd.keras.models.clone_model(model, clone_function=strip)
    if not stripped.built:
        stripped.build(model.input_shape)
    for layer, copy in copies:
        copy.set_weights(plain_weights(layer))
    return stripped
