"""The fit loop: repeatable, resumable at every epoch to the bit, and deciding by validation alone."""

import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.data import load_data
from tfcompress.data.settings import DataSettings
from tfcompress.evaluate import takes_logits
from tfcompress.run_folder import RunFolder
from tfcompress.training import Training, learning_rate, make_loss, make_optimizer
from tfcompress.training_data import TrainingData
from tfcompress.vocabulary.errors import RecipeError, TrainingError
from tfcompress.vocabulary.preprocessing import NAMED
from tfcompress.vocabulary.reporter import Reporter
from tfcompress.vocabulary.training import EarlyStopping, Fit, Task


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    inputs = rng.normal(size=(200, 6)).astype(np.float32) + np.eye(6, dtype=np.float32)[labels] * 2
    settings = DataSettings(batch_size=16)
    return TrainingData(load_data((inputs, labels), settings=settings), NAMED["raw"], settings, Task())


def network(seed=0):
    """Dropout and BatchNormalization: what makes resuming hard."""
    keras = kd.keras
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Dense(16, activation="relu", input_shape=(6,)),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.Dense(3, activation="softmax"),
        ]
    )


class InterruptAt(Reporter):
    """Stops a training as Ctrl-C would, in the middle of an epoch."""

    def __init__(self, done):
        self.done = done

    def progress(self, label, done, total, note=""):
        if done == self.done:
            raise KeyboardInterrupt


def train(data, fit, folder=None, **more):
    model = network()
    training = Training("step", 1, fit, data, seed=3, folder=folder, **more)
    return model, training.run(model)


def weights_equal(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first.get_weights(), second.get_weights(), strict=True))


def test_equal_arguments_give_equal_weights_and_another_seed_does_not(data):
    fit = Fit(epochs=2)
    first, _ = train(data, fit)
    second, _ = train(data, fit)
    third = network()
    Training("step", 1, fit, data, seed=4).run(third)
    assert weights_equal(first, second)
    assert not weights_equal(first, third)


@pytest.mark.parametrize("moment", [5, 17, 27])
def test_an_interrupted_training_ends_bit_equal(data, tmp_path, moment):
    fit = Fit(epochs=3, optimizer="adam")
    undisturbed, history = train(data, fit, RunFolder(tmp_path / "a", {}))
    folder = RunFolder(tmp_path / "b", {})
    with pytest.raises(KeyboardInterrupt):
        train(data, fit, folder, reporter=InterruptAt(moment))
    resumed, resumed_history = train(data, fit, folder)
    assert weights_equal(undisturbed, resumed)
    assert [r["loss"] for r in history] == [r["loss"] for r in resumed_history]


def test_a_finished_training_is_not_run_again(data, tmp_path):
    folder = RunFolder(tmp_path / "a", {})
    first, history = train(data, Fit(epochs=2), folder)
    second, again = train(data, Fit(epochs=2), folder, reporter=InterruptAt(1))
    assert weights_equal(first, second)
    assert history == again


def test_early_stopping_keeps_the_best_epoch_even_over_an_interruption(data, tmp_path):
    fit = Fit(epochs=12, learning_rate=0.3, decay="constant", early_stopping=EarlyStopping(patience=2))
    model, history = train(data, fit, RunFolder(tmp_path / "a", {}))
    metrics = [record["validation_metric"] for record in history]
    assert len(metrics) < 12
    assert len(metrics) - 1 - int(np.argmax(metrics)) == 2
    assert data.validation_score(model).value == pytest.approx(max(metrics))
    folder = RunFolder(tmp_path / "b", {})
    with pytest.raises(KeyboardInterrupt):
        train(data, fit, folder, reporter=InterruptAt(data.steps_per_epoch * (len(metrics) - 1) + 2))
    assert weights_equal(train(data, fit, folder)[0], model)


def test_no_epoch_before_the_first_selectable_one_is_kept(data):
    fit = Fit(epochs=4, early_stopping=EarlyStopping(patience=1))
    _, history = train(data, fit, first_selectable_epoch=3)
    assert len(history) == 4


def test_a_loss_that_is_not_finite_is_named_with_a_remedy(data):
    with pytest.raises(TrainingError, match=r"must stay finite.*--set step\.fit\.learning_rate=1"):
        train(data, Fit(epochs=3, optimizer="sgd", learning_rate=10.0), objective=lambda _: _not_a_number)


def _not_a_number(y_true, y_pred):
    return kd.tf.reduce_mean(y_pred, axis=-1) * float("nan")


def test_an_unknown_loss_is_named(data):
    odd = TrainingData(data.dataset, data.preprocessing, data.settings, Task(loss="no_such_loss"))
    with pytest.raises(RecipeError, match="no_such_loss"):
        train(odd, Fit(epochs=1))


@pytest.mark.parametrize(("decay", "expected"), [("cosine", 0.05), ("exponential", 0.1 * 0.01**0.5)])
def test_the_rate_halfway_through(decay, expected):
    rate = learning_rate(Fit(learning_rate=0.1, decay=decay), total_steps=20)
    assert float(rate(10)) == pytest.approx(expected, rel=1e-5)


def test_a_constant_rate_is_a_number_and_reaches_the_optimizer():
    assert learning_rate(Fit(learning_rate=0.1, decay="constant"), total_steps=20) == 0.1
    optimizer = make_optimizer(Fit(optimizer="sgd", learning_rate=0.1, decay="constant"), steps_per_epoch=10)
    assert float(optimizer.learning_rate) == pytest.approx(0.1)


def test_a_cross_entropy_by_name_takes_logits_where_the_model_gives_them():
    logits = np.array([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3]], np.float32)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels = np.array([0, 2])
    expected = -np.log(shares[np.arange(2), labels]).mean()
    for outputs, expects_logits in ((logits, True), (shares, False)):
        assert takes_logits(Task(), outputs) == expects_logits
        loss = make_loss(Task(), takes_logits(Task(), outputs))
        assert float(np.mean(loss(labels, outputs))) == pytest.approx(expected, rel=1e-5)


def test_multi_label_scores_of_several_sigmoids_train_on_their_probabilities():
    """Sigmoids do not add up to 1; a binary cross-entropy must not mistake them for logits."""
    shares = np.array([[0.9, 0.8, 0.1]], np.float32)
    task = Task(loss="binary_crossentropy")
    assert not takes_logits(task, shares)
    assert takes_logits(task, shares * 4 - 2)
    loss = make_loss(task, takes_logits(task, shares))
    targets = np.array([[1.0, 1.0, 0.0]], np.float32)
    assert float(np.mean(loss(targets, shares))) == pytest.approx(-np.log([0.9, 0.8, 0.9]).mean(), rel=1e-4)
