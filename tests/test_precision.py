"""Mixed precision: 16 bits within the training step, float32 in everything that it leaves behind."""

from dataclasses import replace

import numpy as np
import pytest
from fixtures import models
from fixtures.distillation import by_teacher, lesson_of
from fixtures.distillation import network as small_network
from pydantic import ValidationError

from tfcompress import keras_door as kd
from tfcompress.callbacks.keep_promises import keep_promises
from tfcompress.data import load_data
from tfcompress.data.settings import DataSettings
from tfcompress.distillation.teachers import Network
from tfcompress.models.loading import clone
from tfcompress.pipeline import compress
from tfcompress.precision import computing_in
from tfcompress.recipe import Recipe
from tfcompress.run_folder import RunFolder
from tfcompress.techniques.adapters import Adapters
from tfcompress.techniques.base import StepPlan
from tfcompress.techniques.clustering import Clustering
from tfcompress.techniques.fine_tuning import FineTuning
from tfcompress.techniques.post_training import PostTraining
from tfcompress.techniques.product_quantization import ProductQuantization
from tfcompress.techniques.pruning import Pruning
from tfcompress.techniques.quantization import Quantization
from tfcompress.training import Training
from tfcompress.training_data import TrainingData
from tfcompress.vocabulary.preprocessing import NAMED
from tfcompress.vocabulary.promises import broken_by
from tfcompress.vocabulary.reporter import Reporter
from tfcompress.vocabulary.state import State
from tfcompress.vocabulary.training import Fit, Task

HALVES = ("mixed_bfloat16", "mixed_float16")


@pytest.fixture(scope="module")
def data():
    inputs = models.inputs_for(models.conv_bn(), 96)
    settings = DataSettings(batch_size=16)
    dataset = load_data((inputs, np.arange(96) % models.CLASSES), settings=settings)
    return TrainingData(dataset, NAMED["raw"], settings, Task(), from_logits=True)


class Stop(Reporter):
    """Ends a training as Ctrl-C would, at a batch."""

    def __init__(self, at):
        self.at = at

    def progress(self, label, done, total, note=""):
        if done == self.at:
            raise KeyboardInterrupt


def fitted(net, data, precision, epochs=1, rate=0.01, **more):
    own = {key: more.pop(key) for key in ("optimizer", "decay", "regularization", "train") if key in more}
    fit = Fit(epochs=epochs, learning_rate=rate, precision=precision, **own)
    Training("step", 1, fit, data, seed=3, **more).run(net)
    return net


def arithmetic(network, data):
    """The type that each operation of a traced training step computes in, by its name in the graph."""
    network.make_train_function()
    graph = network.train_function.get_concrete_function(iter(data.training_batches(0, 1, 0))).graph
    graphs = [graph, *graph._functions.values()] if hasattr(graph, "_functions") else [graph]
    return [
        (op.name, op.type, op.outputs[0].dtype.name)
        for one in graphs
        for op in getattr(one, "graph", one).get_operations()
        if op.type in ("Conv2D", "MatMul", "Conv2DBackpropFilter", "FusedBatchNormV3")
    ]


def as_left(model):
    """What a training step in mixed precision might leave behind in the layers of `model`."""
    layers = model._flatten_layers()
    return [(layer.dtype_policy.name, "call" in vars(layer), [w.dtype.name for w in layer.weights]) for layer in layers]


@pytest.mark.parametrize("precision", HALVES)
def test_layers_compute_in_16_bits_and_the_last_in_32(data, precision):
    net = models.conv_bn()
    network = Training("step", 1, Fit(precision=precision), data, seed=0).network(net)
    found = arithmetic(network, data)
    half = precision.removeprefix("mixed_")
    assert {dtype for name, kind, dtype in found if kind in ("Conv2D", "Conv2DBackpropFilter")} == {half}
    assert {dtype for name, kind, dtype in found if kind == "FusedBatchNormV3"} == {half}
    assert {dtype for name, kind, dtype in found if kind == "MatMul"} == {"float32"}


@pytest.mark.parametrize("precision", HALVES)
def test_it_trains_like_keras_own_mixed_precision(data, precision):
    def network():
        layers = kd.keras.layers
        inputs = layers.Input(models.SHAPE)
        x = layers.Conv2D(8, 3, name="conv")(inputs)
        x = layers.ReLU()(layers.BatchNormalization(name="bn")(x))
        x = layers.Dense(6, activation="relu", name="hidden")(layers.Flatten()(x))
        return kd.keras.Model(inputs, layers.Dense(models.CLASSES, name="out", dtype="float32")(x))

    ours = network()
    kd.keras.mixed_precision.set_global_policy(precision)
    try:
        theirs = network()
        theirs.set_weights(ours.get_weights())
        # compile() puts the scaling of the loss around it by itself.
        theirs.compile(
            kd.keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
            kd.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        theirs.fit(data.training_batches(3, 1, 0), verbose=0)
    finally:
        kd.keras.mixed_precision.set_global_policy("float32")
    alone = fitted(clone(ours), data, "float32", optimizer="sgd", decay="constant")
    fitted(ours, data, precision, optimizer="sgd", decay="constant")
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(not np.array_equal(a, b) for a, b in zip(alone.get_weights(), ours.get_weights(), strict=True))


@pytest.mark.parametrize("precision", HALVES)
def test_it_leaves_a_plain_model_with_its_own_variables_trained(data, precision):
    net = models.depthwise()
    before, left, variables = net.get_weights(), as_left(net), net.weights
    fitted(net, data, precision)
    assert as_left(net) == left
    assert {w.dtype.name for w in net.weights} == {"float32"}
    assert all(one is other for one, other in zip(net.weights, variables, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(net.get_weights(), before, strict=True))
    assert kd.keras.mixed_precision.global_policy().name == "float32"
    # Not of a graph that was traced for training.
    plain = clone(net)
    inputs = data.dataset.validation.inputs
    np.testing.assert_array_equal(net.predict(inputs, verbose=0), plain.predict(inputs, verbose=0))


def test_an_error_leaves_a_plain_model():
    net, seen = models.conv_bn(), {}
    left = as_left(net)

    def fail():
        with computing_in(net, "mixed_float16"):
            seen.update({layer.name: layer.compute_dtype for layer in net.layers})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (seen["c1"], seen["out"]) == ("float16", "float32")
    assert as_left(net) == left


def test_layers_that_cannot_compute_in_float32(data):
    """An LSTM, an operator and a layer of one's own between others that compute in 16 bits; attention, embeddings."""

    class Twice(kd.keras.layers.Layer):
        def call(self, inputs, other):
            return inputs + other

    layers = kd.keras.layers
    x = inputs = layers.Input(models.SHAPE)
    x = layers.Reshape((9, 16))(layers.SeparableConv2D(4, 3, padding="same", name="separable")(x))
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    y = layers.PReLU(name="prelu")(layers.LayerNormalization(name="norm")(x))
    x = Twice(name="twice")(y, other=x) * 0.5 + y
    x = layers.LSTM(4, name="lstm")(x)
    x = layers.Dense(4, activation="relu", name="hidden")(x)
    net = kd.keras.Model(inputs, layers.Softmax(name="softmax")(layers.Dense(3, name="out")(x)))
    before = net.get_weights()
    with computing_in(net, "mixed_bfloat16"):
        in_16 = {layer.name for layer in net.layers if layer.compute_dtype == "bfloat16"}
    assert {"separable", "attention", "norm", "prelu", "hidden"} <= in_16
    assert in_16.isdisjoint({"twice", "lstm", "out", "softmax"})
    fitted(net, data, "mixed_bfloat16")
    assert not any(np.array_equal(a, b) for a, b in zip(before[1:], net.get_weights()[1:], strict=True))


def test_embeddings_are_looked_up_and_not_cast():
    layers = kd.keras.layers
    inputs = layers.Input((4,), dtype="int32")
    x = layers.Embedding(5, 3, name="embedding")(inputs)
    net = kd.keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    with computing_in(net, "mixed_bfloat16"), kd.tf.GradientTape() as tape:
        found = net.get_layer("embedding")(kd.tf.constant([[0, 1, 2, 4]]))
        assert found.dtype == kd.tf.bfloat16
    assert isinstance(tape.gradient(found, net.get_layer("embedding").embeddings), kd.tf.IndexedSlices)


@pytest.mark.parametrize(
    ("step", "precision"),
    [
        (Pruning(final_sparsity=0.5, frequency=1), "mixed_bfloat16"),
        (Pruning(importance="gradient", regrow="momentum", distribution="global", frequency=2), "mixed_float16"),
        (Clustering(clusters=4, layers=["c1*"]), "mixed_float16"),
        (ProductQuantization(block=2, codewords=8, layers=["c1"]), "mixed_bfloat16"),
        (Adapters(rank=1, layers=["c1_1"]), "mixed_float16"),
    ],
    ids=["pruning", "regrowth", "clustering", "product_quantization", "adapters"],
)
def test_steps_keep_their_promises(data, step, precision):
    state = State(models.conv_bn())
    if not isinstance(step, Pruning):
        state = models.run(Pruning(final_sparsity=0.5, layers=["c1_1"]), state, data.dataset.train.inputs, epochs=0)
    calibration = data.dataset.calibration(preprocessing=data.preprocessing, count=32, seed=0)
    targets = data.dataset.calibration_targets(count=32, seed=0)
    loss = kd.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    prepared = step.prepare(state, StepPlan(data.steps_per_epoch, 1, calibration, 0, targets=targets, loss=loss))
    with computing_in(prepared.model, precision):
        wrappers = [layer for layer in prepared.model.layers if isinstance(layer, kd.keras.layers.Wrapper)]
        given = [wrapper(kd.tf.ones([1, *wrapper.input_shape[1:]])).dtype for wrapper in wrappers[:2]]
    assert {dtype.name for dtype in given} == {precision.removeprefix("mixed_")}
    callbacks = [*step.callbacks(prepared), *keep_promises(prepared)]
    fitted(prepared.model, data, precision, callbacks=callbacks, train=step.fit.train)
    finished = step.finish(prepared)
    assert {w.dtype.name for w in finished.model.weights} == {"float32"}
    before, after = state.model.get_weights(), finished.model.get_weights()
    assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    for promise in finished.promises:
        layer, _, attribute = promise.weight.rpartition("/")
        assert not broken_by(getattr(finished.model.get_layer(layer), attribute).numpy(), [promise])


def test_movement_is_gathered_in_bfloat16(data):
    step = Pruning(importance="movement", frequency=2, fit={"precision": "mixed_bfloat16"})
    prepared = step.prepare(State(models.conv_bn()), StepPlan(data.steps_per_epoch, 1, data.dataset.train.inputs, 0))
    fitted(prepared.model, data, "mixed_bfloat16", callbacks=step.callbacks(prepared))
    assert step.finish(prepared).promises


@pytest.mark.parametrize("precision", HALVES)
def test_students_and_penalties(data, precision):
    """Outputs and features of teachers are compared in float32, gradients in bfloat16; penalties are of the masters."""
    digits = load_data("digits", settings=data.settings)
    few = TrainingData(digits, NAMED["unit"], DataSettings(batch_size=512), Task())
    teacher, student = small_network(16, 1), small_network(8, 2)
    more = {"gradient_weight": 0.01} if precision == "mixed_bfloat16" else {}
    features = [{"student": "conv", "teacher": "bn"}, {"student": "hidden", "teacher": "hidden"}]
    lesson = lesson_of(by_teacher(features=features, **more), few, Network("teacher", model=teacher))
    penalty = {"kind": "l1", "strength": 1e-4}
    before, left = student.get_weights(), as_left(student)
    fitted(student, few, precision, lesson=lesson, regularization=penalty)
    assert as_left(student) == left
    assert not any(np.array_equal(a, b) for a, b in zip(before, student.get_weights(), strict=True))


def test_an_interrupted_training_ends_bit_equal_with_the_scale_of_its_loss(data, tmp_path):
    # Gradients that overflow at first: the scale falls, and has to be remembered.
    train = replace(data.dataset.train, inputs=data.dataset.train.inputs * 10)
    large = replace(data, dataset=replace(data.dataset, train=train))

    def run(folder, **more):
        kd.keras.utils.set_random_seed(0)
        layers = kd.keras.layers
        head = [layers.Dense(8, "relu"), layers.Dense(models.CLASSES)]
        net = kd.keras.Sequential([layers.Flatten(input_shape=models.SHAPE), *head])
        fitted(net, large, "mixed_float16", epochs=2, rate=1e-4, folder=folder, **more)

    run(RunFolder(tmp_path / "a", {}))
    folder = RunFolder(tmp_path / "b", {})
    with pytest.raises(KeyboardInterrupt):
        run(folder, reporter=Stop(data.steps_per_epoch + 2))
    run(folder)
    undisturbed, resumed = (np.load(tmp_path / run / "checkpoints" / "01-step.npz") for run in "ab")
    names = [name for name in undisturbed.files if name != "progress"]
    assert all(np.array_equal(undisturbed[name], resumed[name]) for name in names)
    scale, steps_since = (undisturbed[name] for name in sorted(n for n in names if n.startswith("optimizer"))[-2:])
    assert scale < 2**15
    assert 0 < steps_since < 2 * data.steps_per_epoch


def test_recipes_train_in_it_from_the_zoo_to_the_file(tmp_path):
    recipe = Recipe(
        train={"epochs": 1, "precision": "mixed_bfloat16"},
        steps=[FineTuning(fit={"precision": "mixed_bfloat16"}), PostTraining()],
        evaluation={"latency_seconds": 0.02, "threads": 1},
        data={"batch_size": 256},
    )
    result = compress("lenet300", "digits", recipe, out=tmp_path / "run")
    assert result.evidence.artifact.full_integer
    saved = kd.keras.models.load_model(tmp_path / "run" / "model.keras")
    assert {layer.dtype_policy.name for layer in saved.layers} == {"float32"}
    assert kd.keras.mixed_precision.global_policy().name == "float32"


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (
            [{"technique": "quantization", "fit": {"precision": "mixed_bfloat16"}}],
            r"quantization\.fit\.precision: .* float32\. Received: mixed_bfloat16\. Remedy: leave it out",
        ),
        (
            [
                {"technique": "pruning", "importance": "movement", "fit": {"precision": "mixed_float16"}},
                {"technique": "post_training"},
            ],
            r"importance movement sums gradients, which mixed_float16 scales.*Remedy: mixed_bfloat16",
        ),
        (
            [
                {
                    "technique": "fine_tuning",
                    "fit": {
                        "precision": "mixed_float16",
                        "distillation": {"teacher": "float", "gradient_weight": 0.1},
                    },
                },
                {"technique": "post_training"},
            ],
            r"fine_tuning\.fit\.precision: the gradients that .*gradient_weight.*Remedy: mixed_bfloat16",
        ),
        ([{"technique": "fine_tuning", "fit": {"precision": "float16"}}, PostTraining()], "mixed_float16"),
    ],
)
def test_what_needs_float32_is_refused_by_name(steps, expected):
    with pytest.raises(ValidationError, match=expected):
        Recipe(steps=steps)


def test_other_steps_stand_beside_quantization_in_float32():
    steps = [Pruning(fit={"precision": "mixed_float16"}), Quantization()]
    assert [step.fit.precision for step in Recipe(steps=steps).steps] == ["mixed_float16", "float32"]
