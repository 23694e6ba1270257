"""Training of a part: what is not in it stays as it is, to the bit."""

import numpy as np
import pytest
from fixtures import models
from pydantic import ValidationError

from tfcompress import keras_door as kd
from tfcompress.data import load_data
from tfcompress.data.settings import DataSettings
from tfcompress.pipeline import compress
from tfcompress.preparation import open_job
from tfcompress.recipe import Recipe
from tfcompress.run_folder import RunFolder
from tfcompress.techniques.clustering import Clustering
from tfcompress.techniques.quantization import Quantization
from tfcompress.trained_part import lacks, trained_variables
from tfcompress.training import Training
from tfcompress.training_data import TrainingData
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.preprocessing import NAMED
from tfcompress.vocabulary.reporter import Reporter
from tfcompress.vocabulary.state import State
from tfcompress.vocabulary.training import Fit, Task

FAST = ["evaluation.latency_seconds=0.02", "evaluation.threads=1", "data.preprocessing=raw", "data.batch_size=16"]
NORMALIZATIONS = {f"bn/{name}" for name in ("gamma", "beta", "moving_mean", "moving_variance")}


def network(seed=0):
    """Dense - BatchNormalization - ReLU - Dense."""
    layers = kd.keras.layers
    inputs = layers.Input((8,))
    x = layers.Dense(12, name="hidden")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
    return models._model(inputs, layers.Dense(models.CLASSES, name="out")(x), seed)


@pytest.fixture(scope="module")
def arrays():
    return models.inputs_for(network(), 96), np.arange(96) % models.CLASSES


@pytest.fixture(scope="module")
def data(arrays):
    settings = DataSettings(batch_size=16)
    return TrainingData(load_data(arrays, settings=settings), NAMED["raw"], settings, Task())


def fit(model, data, part, epochs=1, **more):
    Training("step", 1, Fit(epochs=epochs, learning_rate=0.02, train=part), data, seed=3, **more).run(model)
    return model


def changed(before, after):
    return {
        new.name.split(":")[0]
        for old, new in zip(before.weights, after.weights, strict=True)
        if not np.array_equal(old, new)
    }


@pytest.mark.parametrize(
    ("part", "moved"),
    [
        (None, {"hidden/kernel", "hidden/bias", "out/kernel", "out/bias"} | NORMALIZATIONS),
        ("biases", {"hidden/bias", "out/bias"}),
        ("normalizations", NORMALIZATIONS),
        ("biases_and_normalizations", {"hidden/bias", "out/bias"} | NORMALIZATIONS),
    ],
)
def test_the_rest_stays_to_the_bit(data, part, moved):
    model = fit(network(), data, part)
    assert changed(network(), model) == moved
    assert all(layer.trainable for layer in model.layers)


class Interrupt(Reporter):
    """Stops a training in its second epoch."""

    def progress(self, label, done, total, note=""):
        if done > total // 2 + 1:
            raise KeyboardInterrupt


def test_an_interrupted_training_of_a_part_ends_bit_equal(data, tmp_path):
    straight = fit(network(), data, "biases", epochs=2)
    folder = RunFolder(tmp_path / "run", {})
    with pytest.raises(KeyboardInterrupt):
        fit(network(), data, "biases", epochs=2, folder=folder, reporter=Interrupt())
    assert changed(straight, fit(network(), data, "biases", epochs=2, folder=folder)) == set()


def test_what_a_step_adds_is_trained_in_any_case(data, arrays):
    prepared = Clustering(clusters=4).prepare(State(network()), models.plan_for(arrays[0])).model
    before = {weight.name: weight.numpy() for weight in prepared.weights}
    fit(prepared, data, "added")
    moved = {weight.name for weight in prepared.weights if not np.array_equal(before[weight.name], weight)}
    assert moved == {f"cluster_{name}/cluster_centroids_kernel:0" for name in ("hidden", "out")}


def test_training_as_integers_moves_biases_and_ranges_alone(data, arrays):
    prepared = Quantization().prepare(State(models.dense()), models.plan_for(arrays[0])).model
    before = {weight.name: weight.numpy() for weight in prepared.weights}
    fit(prepared, data, "biases")
    moved = {weight.name for weight in prepared.weights if not np.array_equal(before[weight.name], weight)}
    assert {"hidden/bias:0", "out/bias:0"} <= moved
    assert not any("kernel" in name for name in moved)
    assert all("bias" in name or "m" in name.rpartition("/")[2] for name in moved)


def test_layers_beside_the_model_are_trained_in_any_case():
    """The projections of a distillation belong to the network that is fitted, and not to the model."""
    model = network()
    beside = kd.keras.layers.Dense(2, name="projection")
    whole = kd.keras.Model(model.inputs, [model.output, beside(model.output)])
    names = [v.name for v in trained_variables(whole, model, "biases", "step")]
    assert names == ["hidden/bias:0", "out/bias:0", "projection/kernel:0", "projection/bias:0"]
    assert [v.name for v in trained_variables(model, model, "normalizations", "step")] == ["bn/gamma:0", "bn/beta:0"]


def test_a_model_without_such_weights_is_refused_before_anything_runs(arrays):
    model = models.dense()
    assert [lacks(model, part) for part in (None, "biases", "normalizations")] == [False, False, True]
    steps = [{"technique": "fine_tuning", "fit": {"train": "normalizations"}}, {"technique": "post_training"}]
    with pytest.raises(
        RecipeError, match=r"fine_tuning\.fit\.train: the model has no normalizations\. Remedy: another"
    ):
        open_job(model, arrays, {"steps": steps}, overrides=FAST)
    with pytest.raises(RecipeError, match=r"step\.fit\.train must leave something to train. Received: normalizations"):
        trained_variables(model, model, "normalizations", "step")


def test_only_what_is_added_needs_a_step_that_adds_something():
    added = {"train": "added"}
    with pytest.raises(ValidationError) as refusal:
        Recipe(train=added, steps=[{"technique": "fine_tuning", "fit": added}, {"technique": "quantization"}])
    drawn = {"train": "biases", "regularization": {"kind": "l1", "strength": 0.1}}
    with pytest.raises(
        ValidationError, match=r"fine_tuning\.fit\.regularization: it draws at kernels, and train: biases"
    ):
        Recipe(steps=[{"technique": "fine_tuning", "fit": drawn}, {"technique": "quantization"}])
    for where in ("train.train", "fine_tuning.fit.train"):
        assert f"{where}: `added` trains what a step adds, and nothing is added here." in str(refusal.value)
    assert Recipe(
        steps=[{"technique": "adapters"}, {"technique": "clustering", "fit": added}, {"technique": "quantization"}]
    )


def test_recovery_in_a_whole_run(arrays, tmp_path):
    """Adapters on what was pruned, code words, biases: every promise is kept to the file."""
    steps = [
        {"technique": "pruning", "layers": ["hidden"], "frequency": 1, "fit": {"epochs": 1}},
        {"technique": "adapters", "rank": 2, "fit": {"epochs": 1, "learning_rate": 0.01}},
        {
            "technique": "product_quantization",
            "layers": ["out"],
            "codewords": 5,
            "fit": {"epochs": 1, "train": "biases"},
        },
        {"technique": "fine_tuning", "fit": {"epochs": 1, "train": "biases"}},
        {"technique": "quantization", "fit": {"epochs": 1, "train": "biases"}},
    ]
    result = compress(models.dense(), arrays, {"steps": steps}, out=tmp_path / "run", overrides=FAST)
    assert {(p.weight, p.kind, p.kept) for p in result.evidence.promises} == {
        ("hidden/kernel", "zeros", True),
        ("out/kernel", "codewords", True),
    }
    assert result.evidence.artifact.full_integer
    assert [stage.epochs for stage in result.evidence.stages] == [1] * 5
