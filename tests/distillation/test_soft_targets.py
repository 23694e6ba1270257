"""Soft targets against NumPy, and their gradients against differences."""

import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.distillation.soft_targets import (
    kind_of,
    scores,
    shares_of,
    soft_target_loss,
    temperature_schedule,
)
from tfcompress.vocabulary.distillation import Distillation
from tfcompress.vocabulary.training import Task

SHARES = np.array([0.25, 0.75], np.float32)


@pytest.fixture
def logits():
    rng = np.random.default_rng(0)
    return rng.normal(0, 3, (5, 4)).astype(np.float32), rng.normal(0, 3, (5, 2, 4)).astype(np.float32)


def softmax(values):
    shares = np.exp(values - values.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def by_numpy(student, teachers, temperature, kind):
    student, teachers = np.float64(student), np.float64(teachers)
    mean = SHARES[0] * teachers[:, 0] + SHARES[1] * teachers[:, 1]
    if kind == "real":
        return np.mean((student - mean) ** 2)
    soften = softmax if kind == "softmax" else sigmoid
    p = SHARES[0] * soften(teachers[:, 0] / temperature) + SHARES[1] * soften(teachers[:, 1] / temperature)
    q = soften(student / temperature)
    if kind == "softmax":
        return temperature**2 * np.mean(np.sum(p * np.log(p / q), axis=-1))
    return temperature**2 * np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "real"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_that_of_numpy(logits, kind, temperature):
    student, teachers = logits
    loss = soft_target_loss(kd.tf.constant(student), kd.tf.constant(teachers), SHARES, temperature, kind)
    assert float(loss) == pytest.approx(by_numpy(student, teachers, temperature, kind), rel=1e-5)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "real"])
def test_the_gradient_is_that_of_differences(logits, kind):
    student, teachers = logits
    values = kd.tf.constant(student)
    with kd.tf.GradientTape() as tape:
        tape.watch(values)
        loss = soft_target_loss(values, kd.tf.constant(teachers), SHARES, 3.0, kind)
    gradient = tape.gradient(loss, values).numpy()
    step = 1e-4
    for place in np.ndindex(student.shape):
        up, down = np.float64(student), np.float64(student)
        up[place] += step
        down[place] -= step
        expected = (by_numpy(up, teachers, 3.0, kind) - by_numpy(down, teachers, 3.0, kind)) / (2 * step)
        assert gradient[place] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_gradients_keep_their_size_when_the_temperature_is_high(logits):
    """Hinton et al. (2015): without T ** 2 they would fall by a factor of 100 from T = 10 to T = 100."""
    student, teachers = map(kd.tf.constant, logits)
    sizes = []
    for temperature in (10.0, 100.0):
        with kd.tf.GradientTape() as tape:
            tape.watch(student)
            loss = soft_target_loss(student, teachers, SHARES, temperature, "softmax")
        sizes.append(float(kd.tf.norm(tape.gradient(loss, student))))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.2)


def test_a_student_equal_to_its_teacher_has_nothing_to_learn(logits):
    student, _ = logits
    for kind in ("softmax", "sigmoid", "real"):
        loss = soft_target_loss(kd.tf.constant(student), kd.tf.constant(student[:, None]), [1.0], 2.0, kind)
        assert float(loss) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("kind", "soften"), [("softmax", softmax), ("sigmoid", sigmoid)])
def test_logits_are_recovered_from_probabilities(logits, kind, soften):
    given, _ = logits
    found = scores(soften(given), kind, from_logits=False).numpy()
    same = found - found.mean(-1, keepdims=True), given - given.mean(-1, keepdims=True)
    np.testing.assert_allclose(*(same if kind == "softmax" else (found, given)), atol=1e-3)
    assert np.array_equal(scores(given, kind, from_logits=True), given)
    assert np.array_equal(scores(given, "real", from_logits=False), given)


def test_a_sure_student_still_learns():
    """The logarithm of a probability far below float32's resolution at 1 has a gradient."""
    logits = kd.tf.constant([[30.0, 0.0]])
    with kd.tf.GradientTape() as tape:
        tape.watch(logits)
        found = scores(kd.tf.nn.softmax(logits), "softmax", from_logits=False)
        loss = soft_target_loss(found, kd.tf.constant([[[0.0, 5.0]]]), [1.0], 1.0, "softmax")
    assert tape.gradient(loss, logits).numpy()[0] == pytest.approx([0.993, -0.993], abs=1e-3)


def test_a_quantized_zero_is_no_certainty():
    found = scores(np.array([[1.0, 0.0]], np.float32), "softmax", from_logits=False, step=1 / 256).numpy()
    assert found[0, 1] == pytest.approx(np.log(1 / 512))
    found = scores(np.array([[0.0]], np.float32), "sigmoid", from_logits=False, step=1 / 256).numpy()
    assert found[0, 0] == pytest.approx(np.log(1 / 511))


def test_kinds_of_outputs_follow_the_loss():
    assert kind_of(Task(), (10,)) == "softmax"
    assert kind_of(Task(), (1,)) == "sigmoid"
    assert kind_of(Task(loss="binary_crossentropy"), (10,)) == "sigmoid"
    assert kind_of(Task(loss="mean_absolute_error"), (10,)) == "real"


def test_shares_add_up_to_one():
    assert shares_of(Distillation(teacher=[{"model": "a.h5", "weight": 3}, "float"])).tolist() == [0.75, 0.25]


@pytest.mark.parametrize(
    ("temperature", "epochs", "expected"),
    [(3, 3, [3, 3, 3]), ({"begin": 8, "end": 2}, 4, [8, 6, 4, 2]), ({"begin": 8, "end": 2}, 1, [8])],
)
def test_the_temperature_of_every_epoch(temperature, epochs, expected):
    schedule = temperature_schedule(Distillation(temperature=temperature), epochs)
    assert [schedule(epoch) for epoch in range(epochs)] == pytest.approx(expected)
