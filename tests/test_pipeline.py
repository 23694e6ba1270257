"""The chain from end to end: a small network, real digits, one proven file, and its evidence."""

import hashlib
import json
import zlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

import tfcompress
from tfcompress import keras_door as kd
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.evaluate import predict
from tfcompress.pipeline import compress, convert, train
from tfcompress.recipe import load_recipe
from tfcompress.vocabulary.errors import ConversionError, DataError, ModelError, RecipeError, RunFolderError
from tfcompress.vocabulary.evidence import Evidence
from tfcompress.vocabulary.reporter import Reporter

FAST = ["evaluation.latency_seconds=0.05", "evaluation.threads=1"]


@pytest.fixture(scope="module")
def digits():
    bunch = load_digits()
    return (bunch.images[..., None] * 15.9375).round().astype(np.uint8)[:900], bunch.target[:900]


@pytest.fixture(scope="module")
def network(digits):
    """A trained network with a convolution, BatchNormalization and Dropout, fed 0...1."""
    keras = kd.keras
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(16, 3, padding="same", name="conv")(inputs)
    x = layers.BatchNormalization(name="conv_bn", momentum=0.9)(x)
    x = layers.ReLU(name="conv_relu")(x)
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dropout(0.1, name="dropout")(x)
    outputs = layers.Dense(10, activation="softmax", name="classifier")(x)
    model = keras.Model(inputs, outputs, name="small")
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(digits[0] / 255.0, digits[1], epochs=15, batch_size=32, verbose=0)
    return model


DEEP = {
    "name": "deep",
    "data": {"batch_size": 32},
    "steps": [
        {"technique": "pruning", "final_sparsity": 0.7, "frequency": 5, "fit": {"epochs": 3}},
        {"technique": "clustering", "clusters": 8, "fit": {"epochs": 1}},
        {"technique": "quantization", "per_layer": {"classifier": 6}, "fit": {"epochs": 1, "learning_rate": 1e-4}},
    ],
}


@pytest.fixture(scope="module")
def deep(digits, network, tmp_path_factory):
    return compress(network, digits, DEEP, out=tmp_path_factory.mktemp("deep") / "run", overrides=FAST)


def test_the_file_is_integer_small_and_accurate(deep):
    evidence = deep.evidence
    assert evidence.artifact.full_integer
    assert evidence.artifact.float_operators == ()
    assert (evidence.artifact.input.dtype, evidence.artifact.output.dtype) == ("int8", "int8")
    assert evidence.metric.float > 0.9
    assert evidence.metric.drop_points < 5
    assert evidence.agreement.mean_steps < 1


def test_every_promise_is_kept_in_the_flatbuffer(deep):
    kinds = {(p.weight, p.kind): p for p in deep.evidence.promises}
    assert {w for w, k in kinds if k == "zeros"} == {"conv/kernel", "classifier/kernel"}
    assert {w for w, k in kinds if k == "distinct"} == {"conv/kernel", "classifier/kernel"}
    assert kinds["classifier/kernel", "levels"].promised == 63
    assert all(p.kept for p in kinds.values())
    # Read again with nothing of ours but the parser.
    weights = [
        t.data for t in Flatbuffer(deep.artifact.read_bytes()).tensors if t.dtype == "INT8" and t.data is not None
    ]
    big = [w for w in weights if w.size >= 144]
    assert len(big) == 2
    for weight in big:
        assert np.mean(weight == 0) >= 0.699
        assert len(np.unique(weight)) <= 8


def test_the_evidence_says_what_the_files_say(deep):
    folder, evidence = deep.folder, deep.evidence
    content = deep.artifact.read_bytes()
    assert evidence.artifact.bytes == len(content)
    assert evidence.artifact.sha256 == hashlib.sha256(content).hexdigest()
    assert evidence.artifact.deflated_bytes == len(zlib.compress(content, 9))
    assert evidence.float.bytes == (folder / "float.tflite").stat().st_size
    assert evidence.compression == pytest.approx(evidence.float.bytes / len(content))
    outputs = np.load(folder / "predictions.npz")
    hits = outputs["artifact"].argmax(-1) == outputs["targets"]
    assert evidence.metric.artifact == pytest.approx(hits.mean())
    assert evidence.metric.standard_error == pytest.approx(hits.std(ddof=1) / len(hits) ** 0.5)
    assert evidence.metric.count == len(hits) == 180
    assert evidence.metric.drop_points == pytest.approx(100 * (evidence.metric.float - evidence.metric.artifact))
    assert Evidence.model_validate_json((folder / "evidence.json").read_text()) == evidence


def test_the_evidence_file_has_the_documented_keys(deep):
    tree = json.loads((deep.folder / "evidence.json").read_text())
    assert tree["schema_version"] == 1
    assert {
        "metric",
        "float",
        "artifact",
        "speedup",
        "compression",
        "promises",
        "stages",
        "recipe",
        "seed",
    } <= tree.keys()
    assert {"versions", "hardware", "agreement", "preprocessing"} <= tree.keys()
    assert {"name", "split", "count", "float", "artifact", "drop_points", "standard_error"} == tree["metric"].keys()
    assert {"weight", "kind", "scope", "domain", "promised", "found", "kept"} <= tree["promises"][0].keys()
    assert [stage["name"] for stage in tree["stages"]] == ["pruning", "clustering", "quantization"]
    assert tree["metric"]["split"] == "test"


def test_the_folder_keeps_history_card_and_recipe(deep):
    history = json.loads((deep.folder / "history.json").read_text())
    assert [len(history[name]) for name in ("pruning", "clustering", "quantization")] == [3, 1, 1]
    card = (deep.folder / "card.md").read_text()
    assert "unit: feed x * 0.00392157" in card
    assert deep.evidence.artifact.sha256 in card
    assert load_recipe(deep.folder / "recipe.yaml").steps == load_recipe(DEEP, FAST).steps


def test_the_preprocessing_was_found_by_measurement_on_training_samples(deep):
    assert deep.evidence.preprocessing.scale == pytest.approx(1 / 255)
    assert "training samples" in deep.evidence.preprocessing.chosen_by


def test_the_callers_model_is_unchanged(digits, network, tmp_path):
    before, layers = network.get_weights(), [layer.name for layer in network.layers]
    compress(network, digits, "ptq_int8", out=tmp_path / "run", overrides=FAST)
    assert all(np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True))
    assert layers == [layer.name for layer in network.layers]


class Interrupt(Reporter):
    def __init__(self, label, done):
        self.moment = (label, done)

    def progress(self, label, done, total, note=""):
        if (label, done) == self.moment:
            raise KeyboardInterrupt

    def message(self, text):
        if text == self.moment[0]:
            raise KeyboardInterrupt


def timeless(evidence):
    tree = evidence.model_dump()
    tree["speedup"] = tree["float"]["latency_ms"] = tree["artifact"]["latency_ms"] = None
    for stage in tree["stages"]:
        stage["seconds"] = None
    return tree


def test_a_run_interrupted_again_and_again_ends_like_an_undisturbed_one(deep, digits, network, tmp_path):
    moments = [("pruning", 30), ("pruning", 57), ("clustering", 12), ("quantization", 18), ("measuring the file", 0)]
    for moment in moments:
        with pytest.raises(KeyboardInterrupt):
            compress(network, digits, DEEP, out=tmp_path / "run", overrides=FAST, reporter=Interrupt(*moment))
    resumed = compress(network, digits, DEEP, out=tmp_path / "run", overrides=FAST)
    assert resumed.artifact.read_bytes() == deep.artifact.read_bytes()
    assert timeless(resumed.evidence) == timeless(deep.evidence)


def test_another_recipe_is_refused_in_the_same_folder(deep, digits, network):
    with pytest.raises(RunFolderError, match=r"differs in: recipe\.steps\[0\]\.final_sparsity"):
        compress(network, digits, DEEP, out=deep.folder, overrides=[*FAST, "pruning.final_sparsity=0.5"])


def test_a_run_goes_on_from_the_state_of_another_and_keeps_its_promises(digits, network, tmp_path):
    pruned = {"steps": [DEEP["steps"][0], {"technique": "post_training"}]}
    first = compress(network, digits, pruned, out=tmp_path / "first", overrides=FAST)
    second = compress(first, digits, {"steps": DEEP["steps"][1:]}, out=tmp_path / "second", overrides=FAST)
    assert {p.kind for p in second.evidence.promises} == {"zeros", "distinct", "levels"}
    assert all(p.kept for p in second.evidence.promises)
    with pytest.raises(RecipeError, match="already quantized"):
        compress(second, digits, "ptq_int8", out=tmp_path / "third", overrides=FAST)


def test_raw_bytes_can_be_fed_when_preprocessing_is_in_the_graph(digits, network, tmp_path):
    inside = ["conversion.preprocessing_in_graph=true", "conversion.input_type=uint8", *FAST]
    result = compress(network, digits, "ptq_int8", out=tmp_path / "run", overrides=inside)
    assert result.evidence.artifact.input.dtype == "uint8"
    assert result.evidence.artifact.input.scale == pytest.approx(1, abs=0.02)
    assert result.evidence.metric.drop_points < 3
    assert result.evidence.preprocessing.in_graph


def test_unlabelled_arrays_are_enough_for_calibration(digits, network, tmp_path):
    result = compress(network, digits[0], "ptq_int8", out=tmp_path / "run", overrides=FAST)
    assert result.evidence.metric is None
    assert result.evidence.preprocessing.scale == pytest.approx(1 / 255), "by the statistics of BatchNormalization"
    assert result.evidence.agreement.argmax > 0.97
    with pytest.raises(DataError, match="Training needs labels"):
        compress(network, digits[0], "int8_qat", out=tmp_path / "trained", overrides=["data.preprocessing=unit"])
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_regression_with_losses_and_metrics_by_name(tmp_path):
    keras, rng = kd.keras, np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    inputs = rng.normal(size=(400, 5)).astype(np.float32)
    targets = (inputs @ np.array([[1.0], [-2.0], [0.5], [0.0], [3.0]]) + 1).astype(np.float32)
    model = keras.Sequential([keras.layers.Dense(16, "relu", input_shape=(5,), name="hidden"), keras.layers.Dense(1)])
    task = {"task": {"loss": "mean_squared_error", "metric": "mean_absolute_error"}, "data": {"batch_size": 16}}
    recipe = {**task, "steps": [{"technique": "quantization", "fit": {"epochs": 20, "learning_rate": 0.01}}]}
    result = compress(model, (inputs, targets), recipe, out=tmp_path / "run", overrides=FAST)
    metric = result.evidence.metric
    assert metric.name == "mean_absolute_error"
    outputs = np.load(result.folder / "predictions.npz")
    assert metric.artifact == pytest.approx(np.abs(outputs["artifact"] - outputs["targets"]).mean(), rel=1e-5)
    assert metric.artifact < metric.float  # the float model is untrained
    assert metric.drop_points < 0


def test_a_network_of_the_zoo_is_trained_first_and_twice_the_same(digits, tmp_path):
    overrides = ["train.epochs=2", "data.batch_size=64", *FAST]
    first, second = (
        compress("lenet300", digits, "ptq_int8", out=tmp_path / name, overrides=overrides) for name in "ab"
    )
    assert [stage.technique for stage in first.evidence.stages] == ["train"]
    assert first.artifact.read_bytes() == second.artifact.read_bytes()
    assert timeless(first.evidence) == timeless(second.evidence)


def test_train_saves_a_model_that_compress_takes(digits, tmp_path):
    path = train("lenet300", digits, "ptq_int8", out=tmp_path / "t", overrides=["train.epochs=2", "data.batch_size=64"])
    # Two epochs leave a network too unsure of its answers to tell what it was fed: what is written beside it does.
    result = compress(path, digits, "ptq_int8", out=tmp_path / "run", overrides=FAST)
    assert result.evidence.metric.float > 0.5
    assert result.evidence.preprocessing.chosen_by == "model.preprocessing.yaml, beside the model"
    (path.parent / "model.preprocessing.yaml").write_text("signed")
    with pytest.raises(RunFolderError, match=r"differs in: preprocessing\.name \(\"unit\" there, \"signed\" now\)"):
        compress(path, digits, "ptq_int8", out=tmp_path / "run", overrides=FAST)


def test_convert_writes_one_proven_file_and_c_source(digits, network, tmp_path):
    recipe = load_recipe("ptq_int8", ["conversion.c_array=true"])
    out = tmp_path / "deep" / "net.tflite"
    proof = convert(network, digits, recipe, out=out)
    assert proof.full_integer
    assert sorted(p.name for p in out.parent.iterdir()) == ["net.c", "net.h", "net.tflite"]
    assert predict(out, digits[0][:5] / np.float32(255)).shape == (5, 10)


def test_an_operator_left_in_float_is_refused_by_layer_and_reported_on_request(digits, tmp_path):
    keras = kd.keras
    model = keras.Sequential(
        [
            keras.layers.Flatten(input_shape=(8, 8, 1)),
            keras.layers.Dense(8, name="hidden"),
            keras.layers.ELU(name="odd_one"),
            keras.layers.Dense(10, activation="softmax", name="out"),
        ]
    )
    fast = ["data.preprocessing=unit", *FAST]
    with pytest.raises(ConversionError, match=r"ELU from odd_one"):
        compress(model, digits, "ptq_int8", out=tmp_path / "strict", overrides=fast)
    result = compress(
        model, digits, "ptq_int8", out=tmp_path / "loose", overrides=["conversion.allow_float=true", *fast]
    )
    assert not result.evidence.artifact.full_integer
    assert any("odd_one" in finding for finding in result.evidence.artifact.float_operators)


def test_what_cannot_start_leaves_nothing_behind(digits, network, tmp_path):
    inputs, targets = digits
    layers = kd.keras.layers
    dense = layers.EinsumDense("ab,bc->ac", output_shape=10, name="odd")
    odd = kd.keras.Sequential([layers.Flatten(input_shape=(8, 8, 1)), dense, layers.Softmax()])
    cases = [
        (ModelError, "no_such_net", digits, "ptq_int8", "name of a network of the zoo"),
        (DataError, network, (inputs[:, :4], targets), "ptq_int8", "fit"),
        (DataError, network, (inputs, targets + 5), "ptq_int8", "classes"),
        (DataError, network, "no_such_data", "ptq_int8", "no_such_data"),
        (RecipeError, network, digits, DEEP | {"steps": DEEP["steps"][::-1]}, "cannot follow"),
        (RecipeError, odd, digits, "int8_qat", "odd"),
    ]
    for error, model, data, recipe, expected in cases:
        with pytest.raises(error, match=expected):
            compress(model, data, recipe, out=tmp_path / "run")
        assert list(tmp_path.iterdir()) == []


def test_the_package_offers_its_names_lazily():
    assert tfcompress.compress is compress
    assert "compress" in dir(tfcompress)
    with pytest.raises(AttributeError):
        _ = tfcompress.no_such_name


def test_nothing_decided_depends_on_the_test_split(digits, network, tmp_path):
    """With other test labels and images the shipped file is the same to the bit; only its figures differ."""
    inputs, targets = digits
    cut = {"train": (inputs[:600], targets[:600]), "validation": (inputs[600:700], targets[600:700])}
    stopping = {"technique": "quantization", "fit": {"epochs": 3, "early_stopping": {"patience": 1}}}
    recipe = {"data": {"batch_size": 64}, "steps": [DEEP["steps"][0], stopping]}
    results = [
        compress(network, cut | {"test": test}, recipe, out=tmp_path / name, overrides=FAST)
        for name, test in {
            "a": (inputs[700:], targets[700:]),
            "b": (255 - inputs[700:], (targets[700:] + 1) % 10),
        }.items()
    ]
    assert results[0].artifact.read_bytes() == results[1].artifact.read_bytes()
    assert results[0].evidence.metric.artifact > 0.85 > results[1].evidence.metric.artifact
