"""A Keras 3 model of the user's goes the whole way without a change."""

import json
import os
import subprocess
import sys
from pathlib import Path

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


TEN_LINES = """
import keras, sklearn.datasets, tfcompress
digits = sklearn.datasets.load_digits()
x, y = digits.images[:900, ..., None].astype("float32") / 16, digits.target[:900]
layers = keras.layers
model = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(8, 3, activation="relu"), layers.Flatten()])
model.add(layers.Dense(10, activation="softmax"))
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x, y, epochs=8, verbose=0)
before = model.get_weights()
result = tfcompress.compress(model, (x, y), "int8_qat")
"""
SHOWN = """
import json
same = all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
evidence = result.evidence
print(json.dumps([same, evidence.artifact.full_integer, evidence.metric.artifact, str(result.artifact)]))
"""


def test_a_program_of_ten_lines_runs_as_it_is_and_needs_no_environment_variable(tmp_path):
    root = Path(tfcompress.__file__).parents[1]
    # What it takes to find Python and the package; nothing that TensorFlow or Keras reads.
    environment = {"PATH": os.defpath, "HOME": str(tmp_path), "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", TEN_LINES + SHOWN],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    unchanged, full_integer, accuracy, artifact = json.loads(done.stdout.splitlines()[-1])
    assert unchanged
    assert full_integer
    assert accuracy > 0.85
    assert (tmp_path / artifact).is_file()
