import numpy as np
import pytest

from tfcompress import keras_door as kd


@pytest.fixture
def layers():
    return kd.keras.layers


@pytest.fixture
def randomised():
    """Gives a function that gives a model weights under which every layer matters, and no normalization is idle."""

    def randomise(model, seed=0):
        rng = np.random.default_rng(seed)
        for weight in model.weights:
            if "variance" in weight.name or "gamma" in weight.name:
                values = rng.uniform(0.5, 2.0, weight.shape)
            elif weight.shape.rank > 1:
                values = rng.normal(0, 1 / np.sqrt(np.prod(weight.shape[:-1])), weight.shape)
            else:
                values = rng.normal(0, 0.5, weight.shape)
            weight.assign(values)
        return model

    return randomise


@pytest.fixture
def same_outputs():
    """Gives a function that tells whether two models agree on random input, computed apart from the proof's."""

    def agree(before, after, *inputs, tolerance=1e-4):
        rng = np.random.default_rng(7)
        if not inputs:
            inputs = [
                rng.normal(0, 1, [3, *(size or 9 for size in x.shape[1:])]).astype("float32") for x in before.inputs
            ]
        fed = list(inputs) if len(inputs) > 1 else inputs[0]
        pairs = zip(
            kd.tf.nest.flatten(before.predict(fed, verbose=0)),
            kd.tf.nest.flatten(after.predict(fed, verbose=0)),
            strict=True,
        )
        return all(
            old.std() > 0 and old.shape == new.shape and np.abs(old - new).max() <= tolerance * np.abs(old).max()
            for old, new in pairs
        )

    return agree
