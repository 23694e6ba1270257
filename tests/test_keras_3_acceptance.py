"""A Keras 3 model of the user's goes the whole way without a change."""

import numpy as np
from sklearn.datasets import load_digits

import tfcompress
from tfcompress import keras_door as kd


def test_a_keras_3_model_of_ten_lines_is_compressed(tmp_path):
    keras = kd.keras_3
    keras.utils.set_random_seed(0)
    digits = load_digits()
    x, y = digits.images[..., None].astype("float32") / 16, digits.target

    inputs = keras.Input((8, 8, 1))
    hidden = keras.layers.Conv2D(8, 3, use_bias=False)(inputs)
    hidden = keras.layers.ReLU()(keras.layers.BatchNormalization()(hidden))
    hidden = keras.layers.Flatten()(hidden)
    outputs = keras.layers.Dense(10, activation="softmax")(hidden)
    model = keras.Model(inputs, outputs)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=4, verbose=0)
    before = [weight.copy() for weight in model.get_weights()]

    fast = ["quantization.fit.epochs=1", "evaluation.latency_seconds=0.05", "evaluation.threads=1"]
    fast.append("data.preprocessing=raw")
    result = tfcompress.compress(model, (x, y), "int8_qat", overrides=fast, out=tmp_path / "run")
    assert result.artifact.stat().st_size < 20_000
    assert result.evidence.artifact.full_integer
    assert result.evidence.metric.artifact > 0.85
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
