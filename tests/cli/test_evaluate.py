"""`tfcompress evaluate`: what it refuses, and models side by side."""

import json

import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.cli.main import main

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
LABELS = np.arange(40) % 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of four networks, and data of every kind."""
    folder = tmp_path_factory.mktemp("evaluate")
    for name, shape, columns in (("net", (8, 8, 1), 3), ("yes_no", (8, 8, 1), 1), ("large", (9, 9, 1), 3)):
        layers = kd.keras.layers
        model = kd.keras.Sequential(
            [layers.Flatten(input_shape=shape), layers.Dense(columns, activation="sigmoid" if columns == 1 else None)]
        )
        (folder / f"{name}.tflite").write_bytes(kd.tf.lite.TFLiteConverter.from_keras_model(model).convert())
    np.savez(folder / "good.npz", x=IMAGES, y=LABELS)
    np.savez(folder / "two.npz", x=IMAGES, y=LABELS % 2)
    np.savez(folder / "unlabelled.npz", x=IMAGES)
    np.savez(folder / "beyond.npz", x=IMAGES, y=LABELS + 5)
    np.savez(folder / "no_test.npz", x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:0], y_test=LABELS[:0])
    return folder


def evaluate(capsys, folder, models, data=None, *more):
    flags = [f"--model={folder / model}.tflite" for model in models]
    flags += [f"--dataset={folder / data}.npz", "--preprocessing=unit"] if data else []
    code = main(["evaluate", *flags, "--latency_seconds=0.01", *more])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize(
    ("models", "data", "expected"),
    [
        (["net"], "unlabelled", ["unlabelled.npz has none", "without --dataset"]),
        (["net"], "no_test", ["net.tflite", "the test split is empty"]),
        (["net"], "beyond", ["net.tflite", "labels must be 0...2 for a model of 3 classes"]),
        (["net", "large"], "good", ["large.tflite", "(9, 9, 1), and the data has (8, 8, 1)"]),
    ],
)
def test_data_that_cannot_measure_a_model_is_refused(capsys, folder, models, data, expected):
    code, out, err = evaluate(capsys, folder, models, data)
    assert code == 1
    assert out == ""
    assert all(words in err for words in expected)
    assert len(models) == 1 or "net.tflite:" not in err, "only the model that does not fit is named"


def test_models_side_by_side_at_several_numbers_of_threads(capsys, folder, tmp_path):
    path = tmp_path / "figures.json"
    code, out, _ = evaluate(capsys, folder, ["net", "yes_no"], None, "--threads=2", "--threads=1", f"--json={path}")
    assert code == 0
    first, second = json.loads(path.read_text())
    assert list(first["latency"]) == list(second["latency"]) == ["2", "1"]
    for threads in ("1", "2"):
        figures = second["latency"][threads]
        assert 0 < figures["median_ms"] <= figures["p95_ms"]
        assert figures["ratio"] > 0
        assert first["latency"][threads]["ratio"] == 1
        assert all(f"{row}, {threads} thread(s)" in out for row in ("median ms", "p95 ms", "ratio"))


def test_one_column_answers_two_labels(capsys, folder, tmp_path):
    path = tmp_path / "figures.json"
    assert evaluate(capsys, folder, ["yes_no"], "two", f"--json={path}")[0] == 0
    assert 0 <= json.loads(path.read_text())[0]["binary_accuracy"] <= 1


@pytest.mark.parametrize(("metric", "loss"), [("accuracy", None), ("AUC", "binary_crossentropy")])
def test_a_metric_is_of_the_probabilities_of_logits(capsys, tmp_path, metric, loss):
    layers = kd.keras.layers
    outputs = {}
    for name, activation in (("logits", None), ("shares", "sigmoid")):
        kd.keras.utils.set_random_seed(0)
        model = kd.keras.Sequential([layers.Flatten(input_shape=(8, 8, 1)), layers.Dense(1, activation)])
        kernel = model.layers[1].kernel.numpy()
        # Answers of both kinds: the middle one at 0.
        model.layers[1].bias.assign([-np.median(IMAGES.reshape(40, 64) / np.float32(255) @ kernel)])
        (tmp_path / f"{name}.tflite").write_bytes(kd.tf.lite.TFLiteConverter.from_keras_model(model).convert())
        outputs[name] = model.predict(IMAGES / np.float32(255), verbose=0)[:, 0]
    labels = (outputs["logits"] + RNG.normal(0, 0.3, 40) > 0).astype(int)
    assert ((outputs["logits"] > 0.5) != (outputs["logits"] > 0)).any()
    np.savez(tmp_path / "data.npz", x_train=IMAGES, y_train=labels, x_test=IMAGES, y_test=labels)
    path = tmp_path / "figures.json"
    flags = [f"--metric={metric}", f"--json={path}", *([f"--loss={loss}"] if loss else [])]
    code, _, err = evaluate(capsys, tmp_path, ["logits", "shares"], "data", *flags)
    assert code == 0, err
    of_logits, of_shares = (
        {k: v for k, v in row.items() if k in ("binary_accuracy", "auc")} for row in json.loads(path.read_text())
    )
    assert of_logits == pytest.approx(of_shares, rel=1e-5)
    if metric == "accuracy":
        assert of_logits["binary_accuracy"] == pytest.approx(np.mean((outputs["shares"] > 0.5) == labels))


def test_preprocessing_is_said_as_in_a_recipe(capsys, folder, tmp_path):
    """The last of two equal flags counts."""
    found = []
    for said in ("unit", "{mean: 0, std: [255]}", "{scale: [-1.0], offset: 0}"):
        path = tmp_path / "figures.json"
        flags = ["--metric=crossentropy", f"--preprocessing={said}", f"--json={path}"]
        assert evaluate(capsys, folder, ["net"], "good", *flags)[0] == 0
        found.append(json.loads(path.read_text())[0]["sparse_categorical_crossentropy"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0] != pytest.approx(found[2], rel=0.1)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("centered", "must be one of raw, unit, signed, {mean, std} or {scale, offset}. Received: centered"),
        ("{mean: [1, 2], std: [3]}", "Received: 2 and 1"),
        ("{mean: [1, 2], std: [3, 4]}", "2 numbers for inputs of shape (8, 8, 1)"),
        ("{scale: 1, ofset: 2}", "Did you mean `offset`?"),
    ],
)
def test_a_wrong_preprocessing_is_refused(capsys, folder, said, expected):
    code, _, err = evaluate(capsys, folder, ["net"], "good", f"--preprocessing={said}")
    assert code == 1
    assert expected in " ".join(err.split())


def test_threads_below_one_are_wrong_usage(capsys, folder):
    assert evaluate(capsys, folder, ["net"], None, "--threads=0")[0] == 2
