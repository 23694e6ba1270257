"""A recipe on a model that exact rewrites make possible: promises go by the caller's names, down to the file."""

import json

import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.dry_run import dry_run
from tfcompress.enabling import Rewriting, enabled
from tfcompress.feasibility import preflight
from tfcompress.models.loading import fingerprint
from tfcompress.pipeline import EVIDENCE_FILE, compress
from tfcompress.recipe import load_recipe
from tfcompress.vocabulary.errors import DataError
from tfcompress.vocabulary.reporter import Reporter
from tfcompress.vocabulary.state import State

FAST = [
    "evaluation.latency_seconds=0.05",
    "evaluation.threads=1",
    "data.batch_size=32",
    "data.preprocessing=raw",
    "pruning.fit.epochs=1",
    "clustering.fit.epochs=1",
    "quantization.fit.epochs=1",
]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 192)
    inputs = rng.normal(0, 0.5, (192, 6, 6, 2))
    inputs[np.arange(192), :, 2 * labels] += 1.5
    return inputs.astype(np.float32), labels


@pytest.fixture(scope="module")
def model(data):
    """A convolution inside a nested model, which no technique reaches, and a separable one."""
    layers = kd.keras.layers
    kd.keras.utils.set_random_seed(0)
    inside = layers.Input((6, 6, 2))
    nested = kd.keras.Model(inside, layers.Conv2D(8, 3, activation="relu", name="conv")(inside), name="nested")
    x = inputs = layers.Input((6, 6, 2))
    x = layers.SeparableConv2D(8, 3, activation="relu", name="separable")(nested(x))
    x = layers.Flatten(name="flatten")(x)
    net = kd.keras.Model(inputs, layers.Dense(3, activation="softmax", name="out")(x), name="net")
    net.compile("adam", "sparse_categorical_crossentropy")
    net.fit(*data, epochs=2, verbose=0)
    return net


class Listening(Reporter):
    def __init__(self):
        self.heard = []

    def message(self, text):
        self.heard.append(text)


def test_a_nested_model_is_flattened_pruned_clustered_and_trained_as_integers(model, data, tmp_path):
    before, reporter = fingerprint(model), Listening()
    result = compress(model, data, "prune_cluster_qat", out=tmp_path / "run", overrides=FAST, reporter=reporter)
    assert fingerprint(model) == before
    assert sum(text.startswith("flatten_models: 1 layer (nested); ") for text in reporter.heard) == 1
    assert "flatten_models: nested (Functional) becomes conv (Conv2D);" in (tmp_path / "run" / "log.txt").read_text()
    assert [(change.rewrite, change.layer, change.kinds) for change in result.evidence.rewrites] == [
        ("flatten_models", "nested", ("Conv2D",)),
        ("separable_convolutions", "separable", ("DepthwiseConv2D", "Conv2D")),
    ]
    card = (tmp_path / "run" / "card.md").read_text()
    assert "## Exact rewrites\n\n- flatten_models: 1 layer (nested); " in card
    assert result.evidence.artifact.full_integer
    kept = {(promise.weight, promise.kind) for promise in result.evidence.promises if promise.kept}
    assert {("nested/conv/kernel", "zeros"), ("nested/conv/kernel", "distinct")} <= kept
    assert len(kept) == len(result.evidence.promises)
    assert "nested/conv/kernel" in result.state.quantization
    # What the run goes on from is a model to check too, with its promises.
    report = preflight(str(tmp_path / "run"))
    assert report.of_model == ()
    assert "would break the promise of shared values" in report.problems(load_recipe("ptq_int8"))[0]


def test_the_plan_of_such_a_run_is_told(model, data):
    assert "quantization: 1 epochs" in dry_run(model, data, load_recipe("int8_qat", FAST[:4] + FAST[6:]))


def test_weights_are_trained_as_integers_although_their_activation_cannot_be():
    layers = kd.keras.layers
    inputs = layers.Input((4,))
    inside = layers.Dense(3, activation="elu", name="inside")(inputs)
    net = kd.keras.Model(inputs, layers.ELU(name="alone")(layers.Dense(3, name="linear")(inside)))
    recipe = load_recipe("int8_qat")
    (step,) = recipe.steps
    verdicts = {verdict.layer: verdict for verdict in Rewriting(net).verdicts(step)}
    assert verdicts["inside"].outcome == "by rewrite"
    assert "has inside, inside_elu in its place, of which inside_elu stays" in verdicts["inside"].reason
    assert "choose one that has" in verdicts["inside"].remedy
    assert verdicts["alone"].outcome == "by calibration"
    after = enabled(recipe, State(net)).state.model
    assert list(step.layers_with_values(after)) == ["inside", "linear"]
    samples = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    np.testing.assert_allclose(after.predict(samples, verbose=0), net.predict(samples, verbose=0), atol=1e-6)


@pytest.mark.parametrize(("ranges", "rewritten"), [("min_max", False), ("mse", True)])
def test_layers_are_rewritten_for_calibration_that_is_not_the_converters(model, ranges, rewritten):
    recipe = load_recipe({"steps": [{"technique": "post_training", "ranges": ranges}]})
    assert bool(enabled(recipe, State(model)).changes) == rewritten


def test_a_text_model_takes_its_ids_as_integers_and_ships_without_loops(tmp_path):
    layers = kd.keras.layers
    kd.keras.utils.set_random_seed(0)
    words = layers.Embedding(30, 4, kd.keras.initializers.RandomNormal(stddev=1), input_length=6)
    stack = [words, layers.GRU(4, name="gru"), layers.Dense(3)]
    text = kd.keras.Sequential(stack)
    ids = np.random.default_rng(0).integers(0, 30, (64, 6))
    result = compress(text, (ids, ids[:, 0] % 3), "ptq_int8", out=tmp_path / "run", overrides=FAST[:3])
    assert text.inputs[0].dtype == "float32"
    assert result.evidence.artifact.input.dtype == "int32"
    written = json.loads((tmp_path / "run" / EVIDENCE_FILE).read_text())["rewrites"]
    assert [(change["rewrite"], change["kind"]) for change in written] == [
        ("integer_inputs", "InputLayer"),
        ("unroll_recurrent", "GRU"),
    ]
    assert result.evidence.artifact.full_integer
    assert result.evidence.agreement.mean_steps < 3
    name = f"{text.input_names[0]} (InputLayer)"
    said = f"integer_inputs: {name} becomes {name}; what it takes are token ids"
    assert said in (tmp_path / "run" / "log.txt").read_text()
    with pytest.raises(DataError, match=r"0\.\.\.29"):
        compress(text, (ids + 1, ids[:, 0] % 3), "ptq_int8", out=tmp_path / "other", overrides=FAST[:3])
