"""Gradients against the Jacobians of linear models, which are their kernels."""

import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.distillation.gradients import along, directions, gradient_loss, normalized


def linear(seed):
    return np.random.default_rng(seed).normal(size=(6, 4)).astype(np.float32)


def test_the_loss_is_the_squared_norm_of_the_jacobians_difference_along_the_directions():
    student, teacher = linear(0), linear(1)
    inputs = kd.tf.constant(np.ones((3, 6), np.float32))
    chosen = directions(kd.tf.zeros((3, 4)), seed=7, step=5)
    mine, theirs = (along(chosen, lambda x, w=w: x @ w, inputs) for w in (student, teacher))
    expected = np.mean(np.sum((chosen.numpy() @ (student - teacher).T) ** 2, axis=1))
    assert float(gradient_loss(mine, theirs)) == pytest.approx(expected, rel=1e-4)


def test_its_expectation_is_the_squared_frobenius_norm():
    student, teacher = linear(0), linear(1)
    inputs = kd.tf.zeros((20_000, 6))
    chosen = directions(kd.tf.zeros((20_000, 4)), seed=7, step=0)
    mine, theirs = (along(chosen, lambda x, w=w: x @ w, inputs) for w in (student, teacher))
    assert float(gradient_loss(mine, theirs)) == pytest.approx(np.sum((student - teacher) ** 2), rel=0.05)


def test_directions_depend_on_seed_and_step_alone():
    scores = kd.tf.zeros((3, 4))
    first = directions(scores, seed=7, step=5).numpy()
    assert np.array_equal(first, directions(scores, seed=7, step=5))
    assert not np.array_equal(first, directions(scores, seed=7, step=6))
    assert not np.array_equal(first, directions(scores, seed=8, step=5))


def test_what_all_classes_share_is_no_difference():
    scores = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_allclose(normalized(scores, "softmax"), normalized(scores + 5, "softmax"), atol=1e-5)
    assert normalized(scores, "sigmoid") is scores
