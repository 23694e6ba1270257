from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tfcompress import keras_door as kd


@dataclass(frozen=True)
class TinyNet:
    """A tiny convolutional classifier, and the .tflite files made from it."""

    keras: object
    samples: np.ndarray
    float: Path
    int8: Path
    float16: Path


def _convert(model, path, **settings):
    converter = kd.tf.lite.TFLiteConverter.from_keras_model(model)
    for name, value in settings.items():
        setattr(converter, name, value)
    path.write_bytes(converter.convert())
    return path


@pytest.fixture
def convert_function(tmp_path):
    """Makes a float .tflite of a TensorFlow function of one tensor of a fixed shape."""

    def convert(function, shape, dtype="float32"):
        concrete = kd.tf.function(function).get_concrete_function(kd.tf.TensorSpec(shape, dtype))
        path = tmp_path / "function.tflite"
        path.write_bytes(kd.tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())
        return path

    return convert


@pytest.fixture(scope="session")
def tiny_net(tmp_path_factory):
    tf, layers = kd.tf, kd.keras.layers
    kd.keras.utils.set_random_seed(0)
    model = kd.keras.Sequential(
        [
            layers.Conv2D(4, 3, activation="relu", input_shape=(8, 8, 1)),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    samples = np.random.default_rng(0).normal(size=(50, 8, 8, 1)).astype(np.float32)
    folder = tmp_path_factory.mktemp("tiny_net")
    return TinyNet(
        model,
        samples,
        float=_convert(model, folder / "float.tflite"),
        int8=_convert(
            model,
            folder / "int8.tflite",
            optimizations=[tf.lite.Optimize.DEFAULT],
            representative_dataset=lambda: ([sample[None]] for sample in samples),
            inference_input_type=tf.int8,
            inference_output_type=tf.int8,
            target_spec=tf.lite.TargetSpec([tf.lite.OpsSet.TFLITE_BUILTINS_INT8]),
        ),
        float16=_convert(
            model,
            folder / "float16.tflite",
            optimizations=[tf.lite.Optimize.DEFAULT],
            target_spec=tf.lite.TargetSpec(supported_types=[tf.float16]),
        ),
    )


@pytest.fixture(scope="session")
def lstm_file(tmp_path_factory):
    """A float network with an LSTM, whose state LiteRT keeps between runs."""
    kd.keras.utils.set_random_seed(0)
    # The converter fuses an LSTM to one operator only when the batch is known.
    series = kd.keras.Input((5, 2), batch_size=1)
    model = kd.keras.Model(series, kd.keras.layers.Dense(2)(kd.keras.layers.LSTM(4)(series)))
    return _convert(model, tmp_path_factory.mktemp("lstm") / "lstm.tflite"), model


@pytest.fixture(scope="session")
def embedding_file(tmp_path_factory):
    """A float network that takes int32 token ids below 20."""
    kd.keras.utils.set_random_seed(0)
    layers = kd.keras.layers
    ids = kd.keras.Input((6,), dtype="int32")
    model = kd.keras.Model(ids, layers.Dense(2)(layers.Flatten()(layers.Embedding(20, 3)(ids))))
    return _convert(model, tmp_path_factory.mktemp("embedding") / "embedding.tflite"), model
