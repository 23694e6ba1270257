"""What a run starts from: identity, promises known beforehand, and a rehearsal of what could only fail later."""

import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.fingerprints import describe
from tfcompress.pipeline import compress
from tfcompress.preparation import open_job, with_promises
from tfcompress.recipe import Recipe, load_recipe
from tfcompress.techniques.clustering import Clustering
from tfcompress.techniques.post_training import PostTraining
from tfcompress.techniques.pruning import Pruning
from tfcompress.techniques.quantization import Quantization
from tfcompress.vocabulary.errors import ConversionError, ModelError, RecipeError, TfcompressError
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.reporter import Reporter
from tfcompress.vocabulary.state import Effect, Lineage, Move, State
from tfcompress.vocabulary.training import Task

FAST = ["evaluation.latency_seconds=0.05", "evaluation.threads=1", "data.batch_size=32"]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 300)
    return (rng.normal(size=(300, 12)) + 3 * np.eye(12)[labels]).astype(np.float32), labels


@pytest.fixture(scope="module")
def model(data):
    keras = kd.keras
    keras.utils.set_random_seed(0)
    net = keras.Sequential(
        [
            keras.layers.Dense(16, activation="relu", input_shape=(12,), name="hidden"),
            keras.layers.Dense(4, activation="softmax", name="out"),
        ]
    )
    net.compile("adam", "sparse_categorical_crossentropy")
    net.fit(*data, epochs=3, verbose=0)
    return net


def job(model, data, recipe, overrides=FAST, seed=0):
    return open_job(
        model,
        data,
        recipe,
        overrides=overrides,
        data_dir=None,
        seed=seed,
        custom_objects=None,
        reporter=Reporter(),
    )


def test_identity_holds_what_the_weights_depend_on_and_nothing_else(model, data):
    base = job(model, data, "prune_qat").identity
    assert job(model, data, "prune_qat", [*FAST, "evaluation.latency_seconds=9"]).identity == base
    inputs, labels = data
    moved = inputs.copy()
    moved[0, 0] += 1
    promised = State(model, promises=(Promise("hidden/kernel", "zeros", 0.0, made_by="earlier"),))
    moved_weight = State(model, lineage=Lineage().moved({"hidden/bias": Move("hidden/bias")}))
    raised = Move("hidden/bias", {"distinct": Effect(bound_raised_by=1)})
    changed_weight = State(model, lineage=Lineage().moved({"hidden/bias": raised}))
    assert job(moved_weight, data, "prune_qat").identity != job(changed_weight, data, "prune_qat").identity
    others = [
        job(model, data, "prune_qat", [*FAST, "pruning.final_sparsity=0.4"]),
        job(model, data, "prune_qat", seed=1),
        job(model, (moved, labels), "prune_qat"),
        job(promised, data, "prune_qat"),
    ]
    assert all(other.identity != base for other in others)
    assert base["versions"].keys() >= {"python", "tensorflow", "tfcompress"}


def test_functions_are_told_apart_by_what_they_do():
    def make(factor):
        return lambda y, p: factor * (y - p) ** 2

    assert describe(make(1.0)) == describe(make(1.0))
    assert describe(make(1.0)) != describe(make(2.0))
    assert describe(lambda y, p: y - p) != describe(lambda y, p: y + p)
    smooth, plain = (kd.keras.losses.CategoricalCrossentropy(label_smoothing=s) for s in (0.1, 0.0))
    assert describe(smooth) == describe(kd.keras.losses.CategoricalCrossentropy(label_smoothing=0.1))
    assert describe(smooth) != describe(plain)
    assert describe(object()) != describe(object())


def test_the_promises_of_a_run_are_known_before_it(model, data, tmp_path):
    recipe = Recipe(
        steps=[
            Pruning(final_sparsity=0.6, per_layer={"out": 0.4}, frequency=1),
            Clustering(clusters=5),
            Quantization(fit={"epochs": 0}),
        ]
    )
    foreseen = with_promises(recipe, State(model)).promises
    result = compress(model, data, recipe, overrides=FAST, out=tmp_path / "run")
    assert set(foreseen) == set(result.state.promises)
    assert {(p.weight, p.kind, p.bound) for p in foreseen} == {
        ("hidden/kernel", "zeros", 0.6),
        ("out/kernel", "zeros", 0.4),
        ("hidden/kernel", "distinct", 5),
        ("out/kernel", "distinct", 5),
    }


def test_what_a_later_step_cannot_take_is_refused_before_the_first_trains(data):
    """The BatchNormalization behind a Dense undoes the values that clustering, two steps earlier, would share."""
    layers = kd.keras.layers
    net = kd.keras.Sequential(
        [
            layers.Dense(16, input_shape=(12,), name="hidden"),
            layers.BatchNormalization(name="bn"),
            layers.Dense(4, activation="softmax", name="out"),
        ]
    )
    with pytest.raises(RecipeError, match=r"hidden .*shared"):
        with_promises(Recipe(steps=[Pruning(), Clustering(), Quantization()]), State(net))


def test_an_earlier_runs_shared_values_forbid_a_converter_that_would_undo_them(model, data):
    shared = State(model, promises=(Promise("hidden/kernel", "distinct", 16, made_by="earlier"),))
    with pytest.raises(RecipeError, match="would break the promise of shared values"):
        job(shared, data, Recipe(steps=[PostTraining()]))
    with pytest.raises(RecipeError, match="would break promises of the earlier run"):
        job(shared, data, "prune_qat")


def test_a_model_that_cannot_ship_is_refused_before_it_is_trained(data, tmp_path):
    layers = kd.keras.layers
    net = kd.keras.Sequential(
        [layers.Dense(8, "elu", input_shape=(12,), name="odd"), layers.Dense(4, activation="softmax", name="out")]
    )
    steps = {"steps": [{"technique": "pruning"}, {"technique": "post_training"}]}
    with pytest.raises(ConversionError, match="ELU from odd"):
        compress(net, data, steps, overrides=FAST, out=tmp_path / "run", reporter=NoTraining())
    assert not (tmp_path / "run").exists()


class NoTraining(Reporter):
    def progress(self, label, done, total, note=""):
        raise AssertionError("nothing may be trained")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("task.metric=acuracy", "acuracy"),
        ("task.loss=no_such_loss", "no_such_loss"),
        ("task.loss=categorical_crossentropy", "must take the targets"),
        ("conversion.input_type=int16", "a file of int8 has int8 or uint8 or float32. Received: int16"),
    ],
)
def test_a_wrong_task_or_type_is_refused_before_anything_runs(model, data, tmp_path, override, expected):
    with pytest.raises(TfcompressError, match=expected):
        compress(model, data, "prune_qat", overrides=[*FAST, override], out=tmp_path / "run", reporter=NoTraining())
    assert not (tmp_path / "run").exists()


def test_nested_models_are_refused_by_the_techniques_that_cannot_reach_into_them(data):
    layers = kd.keras.layers
    inner = kd.keras.Sequential([layers.Dense(8, activation="relu", input_shape=(12,), name="deep")], name="backbone")
    net = kd.keras.Sequential([inner, layers.Dense(4, activation="softmax", name="head")])
    for step in (Pruning(), Clustering()):
        with pytest.raises((ModelError, RecipeError), match="backbone"):
            step.check(State(net))


def test_a_negative_seed_is_refused(model, data):
    with pytest.raises(RecipeError, match="seed must be at least 0"):
        job(model, data, "ptq_int8", seed=-1)


def test_objects_as_loss_and_metric_run_and_resume_by_what_they_are(model, data, tmp_path):
    def recipe(smoothing):
        inputs, labels = data
        loss = kd.keras.losses.CategoricalCrossentropy(label_smoothing=smoothing)
        task = Task(loss=loss, metric=kd.keras.metrics.categorical_accuracy, higher_is_better=True)
        return load_recipe("int8_qat").model_copy(update={"task": task}), (inputs, np.eye(4, dtype=np.float32)[labels])

    for _ in range(2):
        made, one_hot = recipe(0.1)
        result = compress(model, one_hot, made, overrides=(), out=tmp_path / "run")
    assert result.evidence.metric.name == "categorical_accuracy"
    other, one_hot = recipe(0.3)
    with pytest.raises(TfcompressError, match=r"belongs to another run.*task\.loss"):
        compress(model, one_hot, other, out=tmp_path / "run")


def test_one_column_answers_yes_or_no_to_integer_labels(data):
    inputs, labels = data
    net = kd.keras.Sequential([kd.keras.layers.Dense(1, activation="sigmoid", input_shape=(12,), name="yes")])
    task = ["task.loss=binary_crossentropy", "task.metric=binary_accuracy"]
    opened = job(net, (inputs, (labels > 1).astype(int)), "ptq_int8", [*FAST, *task])
    assert opened.data.dataset.classes == 2
    assert not opened.data.from_logits


@pytest.mark.parametrize("columns", [1, 4])
def test_logits_of_yes_and_no_are_judged_by_their_probabilities_throughout(data, tmp_path, columns):
    """Above 0, not above 0.5: in validation, and of both files."""
    inputs, labels = data
    targets = (labels > 1).astype(int) if columns == 1 else np.eye(4, dtype=np.float32)[labels]
    kd.keras.utils.set_random_seed(0)
    net = kd.keras.Sequential([kd.keras.layers.Dense(columns, input_shape=(12,), name="logits")])
    task = ["task.loss=binary_crossentropy", "task.metric=binary_accuracy"]
    opened = job(net, (inputs, targets), "ptq_int8", [*FAST, *task])
    validation = opened.data.dataset.validation
    hits = (net.predict(validation.inputs, verbose=0) > 0) == validation.targets.reshape(-1, columns)
    assert opened.data.validation_score(net).value == pytest.approx(hits.mean())
    result = compress(net, (inputs, targets), "ptq_int8", overrides=[*FAST, *task], out=tmp_path / "run")
    outputs = np.load(result.folder / "predictions.npz")
    for of in ("float", "artifact"):
        hits = (outputs[of] > 0) == outputs["targets"].reshape(-1, columns)
        assert getattr(result.evidence.metric, of) == pytest.approx(hits.mean())
        assert hits.mean() != ((outputs[of] > 0.5) == outputs["targets"].reshape(-1, columns)).mean()


def test_a_model_of_several_inputs_or_outputs_cannot_run(data):
    layers = kd.keras.layers
    one, two = layers.Input((12,), name="one"), layers.Input((12,), name="two")
    both = layers.Add(name="both")([one, two])
    several = kd.keras.Model([one, two], [both, layers.ReLU(name="positive")(both)])
    with pytest.raises(ModelError, match=r"one input;.*It has 2: one, two.*one output;.*It has 2: both, positive"):
        job(several, data, "ptq_int8")
