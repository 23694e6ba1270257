import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import roc_auc_score

from tfcompress import keras_door as kd
from tfcompress.evaluate import Score, drop_points, loss_spoken_of, score, takes_logits
from tfcompress.vocabulary.errors import EvaluationError, RecipeError
from tfcompress.vocabulary.training import Task

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 40)
PROBABILITIES = RNG.dirichlet(np.ones(3), 40).astype(np.float32)
REAL = RNG.normal(size=(40, 2)).astype(np.float32)
FITTED = REAL + RNG.normal(scale=0.3, size=REAL.shape).astype(np.float32)


def test_accuracy_of_integer_labels():
    found = score(Task(), LABELS, PROBABILITIES)
    right = (PROBABILITIES.argmax(1) == LABELS).astype(float)
    assert found.name == "sparse_categorical_accuracy"
    assert found.value == pytest.approx(right.mean())
    assert found.standard_error == pytest.approx(right.std(ddof=1) / np.sqrt(40))
    assert (found.count, found.higher_is_better) == (40, True)


@given(arrays.arrays(np.int64, 12, elements=st.integers(0, 2)), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_accuracy_is_the_same_for_every_form_of_the_labels(labels, seed):
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(3), 12)
    expected = np.mean(probabilities.argmax(1) == labels)
    for targets in (labels, labels[:, None], np.eye(3)[labels]):
        assert score(Task(), targets, probabilities).value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "targets", "predictions", "name"),
    [
        ("accuracy", np.zeros(4, int), np.zeros((4, 1)), "binary_accuracy"),
        ("acc", np.zeros(4, int), np.zeros(4), "binary_accuracy"),
        ("accuracy", np.eye(5), np.ones((5, 5)), "categorical_accuracy"),
        ("accuracy", np.full((4, 5), 0.2), np.ones((4, 5)), "categorical_accuracy"),
        ("accuracy", np.zeros((4, 6, 6), int), np.ones((4, 6, 6, 3)), "sparse_categorical_accuracy"),
        ("crossentropy", np.zeros(4, int), np.ones((4, 2)), "sparse_categorical_crossentropy"),
        ("mse", np.zeros(4), np.zeros(4), "mean_squared_error"),
    ],
)
def test_the_full_name_is_reported(metric, targets, predictions, name):
    assert score(Task(metric=metric), targets, predictions).name == name


@pytest.mark.parametrize(
    ("targets", "predictions"),
    [(REAL[:, 0], FITTED[:, 0]), (REAL[:, 0], FITTED[:, :1]), (REAL[:, :1], FITTED[:, 0]), (REAL, FITTED)],
)
def test_regression_errors_do_not_broadcast(targets, predictions):
    rows = np.square(targets.reshape(40, -1) - predictions.reshape(40, -1)).mean(axis=1)
    found = score(Task(loss="mse", metric="mean_squared_error"), targets, predictions)
    assert found.value == pytest.approx(rows.mean(), rel=1e-5)
    assert found.standard_error == pytest.approx(rows.std(ddof=1) / np.sqrt(40), rel=1e-5)
    assert not found.higher_is_better


def test_multi_label_accuracy_by_name():
    targets = RNG.integers(0, 2, (40, 4))
    predictions = RNG.uniform(size=(40, 4))
    found = score(Task(metric="binary_accuracy"), targets, predictions)
    assert found.value == pytest.approx(np.mean((predictions > 0.5) == targets))


@pytest.mark.parametrize(
    "loss", ["binary_crossentropy", "bce", "BinaryCrossentropy", "binary_focal_crossentropy", "object", "function"]
)
@pytest.mark.parametrize("metric", ["accuracy", "acc"])
def test_accuracy_under_a_binary_loss_counts_every_label(loss, metric):
    targets = RNG.integers(0, 2, (40, 4))
    predictions = RNG.uniform(size=(40, 4))
    losses = {
        "object": kd.keras.losses.BinaryCrossentropy(name="mine"),
        "function": kd.keras.losses.binary_crossentropy,
    }
    found = score(Task(loss=losses.get(loss, loss), metric=metric), targets, predictions)
    assert found.name == "binary_accuracy"
    assert found.value == pytest.approx(np.mean((predictions > 0.5) == targets))


def test_accuracy_of_several_labels_under_another_loss_is_refused():
    targets = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]])
    for loss in ("categorical_crossentropy", "no_such_loss", kd.keras.losses.CategoricalCrossentropy()):
        with pytest.raises(RecipeError, match=r"2 target rows.*binary_crossentropy.*binary_accuracy"):
            score(Task(loss=loss), targets, np.full((3, 3), 0.3))
    assert score(Task(metric="categorical_accuracy"), targets, np.eye(3)).value == pytest.approx(2 / 3), "asked for"


@pytest.mark.parametrize("name", ["TopKCategoricalAccuracy", "MeanAbsoluteError", "CosineSimilarity", "KLDivergence"])
def test_a_mean_metric_object_has_the_value_keras_gives(name):
    metric = getattr(kd.keras.metrics, name)()
    targets = np.eye(3, dtype=np.float32)[LABELS]
    expected = float(getattr(kd.keras.metrics, name)()(targets, PROBABILITIES))
    found = score(Task(metric=metric), targets, PROBABILITIES)
    assert found.value == pytest.approx(expected, rel=1e-5)
    assert found.name == metric.name


def test_arguments_of_a_metric_object_count():
    metric = kd.keras.metrics.BinaryAccuracy(threshold=0.9)
    assert score(Task(metric=metric), np.zeros(4), np.array([0.8, 0.8, 0.8, 0.95])).value == 0.75


def test_auc_is_that_of_all_samples_with_a_bootstrapped_error():
    targets = RNG.integers(0, 2, 400)
    predictions = np.clip(0.3 * targets + RNG.uniform(0, 0.7, 400), 0, 1).astype(np.float32)
    found = score(Task(metric="AUC"), targets, predictions)
    expected = roc_auc_score(targets, predictions)
    assert found.value == pytest.approx(expected, abs=5e-3)
    assert (found.name, found.higher_is_better) == ("auc", True)
    # J. Hanley and B. McNeil, "The Meaning and Use of the Area under a ROC Curve", 1982, equation 1.
    q1, q2 = expected / (2 - expected), 2 * expected**2 / (1 + expected)
    ones, zeros = targets.sum(), (1 - targets).sum()
    variance = expected * (1 - expected) + (ones - 1) * (q1 - expected**2) + (zeros - 1) * (q2 - expected**2)
    assert found.standard_error == pytest.approx(np.sqrt(variance / (ones * zeros)), rel=0.3)
    assert score(Task(metric="AUC"), targets, predictions) == found, "the bootstrap is seeded, the name has no number"


def test_a_metric_object_is_left_without_state():
    metric = kd.keras.metrics.Precision()
    metric.update_state([0, 0], [1.0, 1.0])
    assert score(Task(metric=metric), np.array([1, 1]), np.array([0.9, 0.9])).value == 1
    assert float(metric.result()) == 0


def test_an_object_with_state_that_is_not_of_this_keras():
    class Largest:
        name = "largest_3"

        def __call__(self, *_):
            raise AssertionError("a call would add to what earlier calls have left")

        def reset_state(self):
            self.value = 0.0

        def update_state(self, y_true, y_pred):
            self.value = max(self.value, float(np.abs(y_true - y_pred).max()))

        def result(self):
            return self.value

    found = score(Task(metric=Largest(), higher_is_better=False), REAL, FITTED)
    assert found.value == pytest.approx(np.abs(REAL - FITTED).max())
    assert found.standard_error > 0
    assert found.name == "largest"


def test_a_function_of_a_value_for_each_sample():
    def within(y_true, y_pred):
        return np.abs(y_true - y_pred).max(axis=1) < 0.3

    hits = np.abs(REAL - FITTED).max(axis=1) < 0.3
    found = score(Task(metric=within, higher_is_better=True), REAL, FITTED)
    assert (found.name, found.value) == ("within", hits.mean())
    assert found.standard_error == pytest.approx(hits.std(ddof=1) / np.sqrt(40))


def test_a_function_of_one_value_has_a_bootstrapped_error():
    def mean_error(y_true, y_pred):
        return kd.tf.reduce_mean(kd.tf.abs(y_true - y_pred))

    rows = np.abs(REAL - FITTED).mean(axis=1)
    found = score(Task(metric=mean_error, higher_is_better=False), REAL, FITTED)
    assert found.value == pytest.approx(rows.mean(), rel=1e-5)
    assert found.standard_error == pytest.approx(rows.std(ddof=1) / np.sqrt(40), rel=0.25)


def test_a_loss_object_is_better_when_smaller():
    found = score(Task(metric=kd.keras.losses.MeanSquaredError()), REAL, FITTED)
    assert found.value == pytest.approx(np.square(REAL - FITTED).mean(), rel=1e-5)
    assert not found.higher_is_better


def test_a_wrapped_function_of_the_users_own_needs_a_direction():
    def error(y_true, y_pred):
        return kd.tf.abs(y_true - y_pred)

    wrapped = kd.keras.metrics.MeanMetricWrapper(error, name="mine")
    with pytest.raises(RecipeError, match=r"'mine'.*higher_is_better"):
        score(Task(metric=wrapped), REAL, FITTED)
    found = score(Task(metric=wrapped, higher_is_better=False), REAL, FITTED)
    assert found.value == pytest.approx(np.abs(REAL - FITTED).mean(), rel=1e-5)


def test_the_task_may_turn_the_direction_round():
    assert not score(Task(higher_is_better=False), LABELS, PROBABILITIES).higher_is_better


@pytest.mark.parametrize("higher", ["Recall", "F1Score", "R2Score", "BinaryIoU", "TopKCategoricalAccuracy"])
def test_more_is_better_of(higher):
    targets = np.eye(3, dtype=np.float32)[LABELS]
    assert score(Task(metric=higher), targets, PROBABILITIES).higher_is_better


@pytest.mark.parametrize("lower", ["mae", "hinge", "poisson", "RootMeanSquaredError", "FalsePositives"])
def test_less_is_better_of(lower):
    targets = np.eye(3, dtype=np.float32)[LABELS]
    assert not score(Task(metric=lower), targets, PROBABILITIES).higher_is_better


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("acuracy", "'acuracy'.*accuracy"),
        ("auc", "AUC"),
        ("mean_square_error", "mean_squared_error"),
        ("MeanIoU", "'MeanIoU'.*as an object"),
        ("zzz", "'zzz'"),
        ("get", "'get'"),
        ("Mean", "'Mean'"),
    ],
)
def test_an_unknown_name_is_refused_with_those_like_it(name, words):
    with pytest.raises(RecipeError, match=words):
        score(Task(metric=name), LABELS, PROBABILITIES)


@pytest.mark.parametrize(
    ("targets", "predictions", "words"),
    [
        (np.zeros(3), np.zeros((4, 2)), r"\(3,\).*\(4, 2\)"),
        (np.zeros(1), np.zeros((1, 2)), "at least two"),
        (np.zeros(2), np.array([[np.nan, 1], [0, 1]]), "1 of 2 samples"),
        (np.zeros((4, 3)), np.zeros((4, 5)), "cannot be computed"),
    ],
)
def test_what_cannot_be_scored_is_refused(targets, predictions, words):
    with pytest.raises(EvaluationError, match=words):
        score(Task(metric="mean_squared_error"), targets, predictions)


def test_a_function_of_neither_one_value_nor_one_each_is_refused():
    with pytest.raises(EvaluationError, match=r"shape \(2,\) for 40 samples"):
        score(Task(metric=lambda t, p: np.zeros(2), higher_is_better=True), REAL, FITTED)


def test_a_value_that_is_not_finite_is_refused():
    with pytest.raises(EvaluationError, match="finite"):
        score(Task(metric=lambda t, p: np.full(len(t), np.inf), higher_is_better=True), REAL, FITTED)


def _score(value, higher=True, name="accuracy"):
    return Score(name, value, 0.01, 100, higher)


@pytest.mark.parametrize(
    ("before", "after", "drop"),
    [
        (_score(0.91), _score(0.9), 1.0),
        (_score(0.9), _score(0.91), -1.0),
        (_score(0.5, higher=False), _score(0.75, higher=False), 0.25),
        (_score(31.0, name="psnr"), _score(30.5, name="psnr"), 0.5),
        (_score(0.9, name="r2_score"), _score(-0.1, name="r2_score"), 1.0),
        (_score(0.9, name="r2_score"), _score(0.4, name="r2_score"), 0.5),
    ],
)
def test_drop_points(before, after, drop):
    assert drop_points(before, after) == drop


LOGITS = (RNG.normal(size=(40, 3)) * 3).astype(np.float32)
SIGMOID, SOFTMAX = 1 / (1 + np.exp(-LOGITS)), np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)


@pytest.mark.parametrize(
    ("loss", "metric", "targets", "probabilities"),
    [
        ("binary_crossentropy", "accuracy", (RNG.uniform(size=(40, 3)) < SIGMOID).astype(int), SIGMOID),
        ("binary_crossentropy", "AUC", (RNG.uniform(size=(40, 3)) < SIGMOID).astype(int), SIGMOID),
        ("BinaryCrossentropy", "binary_crossentropy", (SIGMOID > 0.4).astype(int), SIGMOID),
        ("sparse_categorical_crossentropy", "crossentropy", LABELS, SOFTMAX),
        ("sparse_categorical_crossentropy", "SparseTopKCategoricalAccuracy", LABELS, SOFTMAX),
        ("categorical_crossentropy", "MeanSquaredError", np.eye(3)[LABELS], SOFTMAX),
    ],
)
def test_a_metric_by_name_is_of_the_probabilities_that_logits_stand_for(loss, metric, targets, probabilities):
    found = score(Task(loss=loss, metric=metric), targets, LOGITS, from_logits=True)
    assert found.value == pytest.approx(score(Task(loss=loss, metric=metric), targets, probabilities).value, rel=1e-5)


def test_one_column_of_logits_answers_yes_above_zero():
    logits = np.array([[-1.0], [0.2], [0.4], [2.0]])
    task = Task(loss="binary_crossentropy")
    assert score(task, np.array([0, 1, 1, 1]), logits, from_logits=True).value == 1
    assert score(task, np.array([0, 1, 1, 1]), logits).value == 0.5, "without being told it takes probabilities"


def test_a_metric_object_gets_logits_as_they_are():
    targets = (LOGITS > 0).astype(int)
    at_zero = Task(loss="binary_crossentropy", metric=kd.keras.metrics.BinaryAccuracy(threshold=0.0))
    assert score(at_zero, targets, LOGITS, from_logits=True).value == 1
    seen = []
    task = Task(metric=lambda t, p: seen.append(p) or np.zeros(len(p)), higher_is_better=True)
    score(task, targets, LOGITS, from_logits=True)
    assert np.array_equal(seen[0], LOGITS)


@pytest.mark.parametrize(
    ("loss", "outputs", "expected"),
    [
        ("sparse_categorical_crossentropy", SOFTMAX, False),
        ("sparse_categorical_crossentropy", LOGITS, True),
        ("sparse_categorical_crossentropy", SIGMOID, True),
        ("sparse_categorical_crossentropy", SIGMOID[:, :1], False),
        ("categorical_focal_crossentropy", LOGITS, True),
        ("binary_crossentropy", SIGMOID[:, 0], False),
        ("bce", SIGMOID, False),
        ("bce", LOGITS, True),
        ("mean_squared_error", LOGITS, False),
        ("no_such_loss", LOGITS, False),
        (lambda t, p: t - p, LOGITS, False),
    ],
)
def test_outputs_that_cannot_be_probabilities_are_logits_to_a_cross_entropy(loss, outputs, expected):
    assert takes_logits(Task(loss=loss), outputs) == expected


def test_a_loss_object_says_itself_whether_it_takes_logits():
    losses = kd.keras.losses
    for make in (losses.BinaryCrossentropy, losses.CategoricalCrossentropy, losses.SparseCategoricalCrossentropy):
        assert takes_logits(Task(loss=make(from_logits=True)), SOFTMAX)
        assert not takes_logits(Task(loss=make()), LOGITS)
    assert not takes_logits(Task(loss=losses.binary_crossentropy), LOGITS)


def test_the_rounding_of_an_integer_file_makes_no_logits_of_probabilities():
    step = 1 / 256
    shares = np.full((2, 30), 1.4 * step)
    shares[:, 0] = 1 - 29 * 1.4 * step
    rounded = np.round(shares / step) * step
    assert abs(rounded.sum(-1) - 1).max() > 0.01
    assert takes_logits(Task(), rounded)
    assert not takes_logits(Task(), rounded, output_step=step)


@pytest.mark.parametrize(
    ("metric", "columns", "loss"),
    [
        ("accuracy", 1, "binary_crossentropy"),
        ("acc", 10, "sparse_categorical_crossentropy"),
        ("BinaryAccuracy", 4, "binary_crossentropy"),
        ("sparse_top_k_categorical_accuracy", 10, "sparse_categorical_crossentropy"),
        ("mean_absolute_error", 1, "mean_squared_error"),
        ("kullback_leibler_divergence", 4, "mean_squared_error"),
    ],
)
def test_the_loss_that_a_metric_speaks_of(metric, columns, loss):
    assert loss_spoken_of(metric, columns) == loss
