import numpy as np
import pytest

from tfcompress import keras_door as kd


@pytest.fixture(scope="session")
def data():
    """Images of three classes that a few steps can tell apart, `[96, 8, 8, 1]`, and their labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 96)
    patterns = rng.normal(size=(3, 8, 8, 1))
    return (patterns[labels] + rng.normal(0, 0.7, (96, 8, 8, 1))).astype(np.float32), labels


@pytest.fixture
def fresh_model():
    """Makes the same small network with BatchNormalization and a seeded Dropout each time."""

    def make():
        kd.keras.utils.set_random_seed(3)
        layers = kd.keras.layers
        images = kd.keras.Input((8, 8, 1))
        x = layers.Conv2D(4, 3, use_bias=False, name="conv")(images)
        x = layers.BatchNormalization(name="norm")(x)
        x = layers.ReLU(name="relu")(x)
        x = layers.Flatten(name="flat")(x)
        x = layers.Dropout(0.3, seed=5, name="drop")(x)
        return kd.keras.Model(images, layers.Dense(3, activation="softmax", name="fc")(x))

    return make


@pytest.fixture
def dense_model():
    """Makes the same network each time: the smallest with a Dropout, quick to convert."""

    def make():
        kd.keras.utils.set_random_seed(3)
        layers = kd.keras.layers
        outputs = layers.Dense(3, activation="softmax")
        return kd.keras.Sequential([layers.Flatten(input_shape=(8, 8, 1)), layers.Dropout(0.3, seed=5), outputs])

    return make


@pytest.fixture
def train(data):
    """Compiles and fits a model, and returns its history."""

    def run(model, *callbacks, epochs=1):
        model.compile("adam", "sparse_categorical_crossentropy")
        return model.fit(*data, epochs=epochs, batch_size=32, verbose=0, callbacks=list(callbacks)).history

    return run
