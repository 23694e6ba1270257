"""Gradients: how a student's outputs change with its inputs, compared with how its teacher's do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfcompress import keras_door as kd
from tfcompress.distillation.soft_targets import Kind


def gradient_loss(student: Any, teacher: Any) -> Any:
    """The squared distance of gradients, a number: the mean over the batch of the sum over a sample's inputs.

    Czarnecki et al., "Sobolev Training for Neural Networks" (2017), equation 4: for directions of independent
    standard normal numbers its expectation is ``|| J_student - J_teacher || ** 2``, the squared Frobenius norm of the
    difference of whole Jacobians, at the price of one gradient.

    Args:
        student: `[batch, ...]`, see `along`.
        teacher: of the same shape.
    """
    tf = kd.tf
    return tf.reduce_mean(tf.reduce_sum(tf.reshape(tf.square(student - teacher), [tf.shape(student)[0], -1]), axis=1))


def normalized(scores: Any, kind: Kind) -> Any:
    """`scores` without the number that all classes of a softmax share, which is no part of what a model says."""
    return kd.tf.nn.log_softmax(scores) if kind == "softmax" else scores


def directions(scores: Any, seed: int, step: Any) -> Any:
    """Independent standard normal numbers of the shape of `scores`, that depend on `seed` and the training `step`."""
    tf = kd.tf
    pair = tf.stack([tf.constant(seed, tf.int64), tf.cast(step, tf.int64)])
    return tf.random.stateless_normal(tf.shape(scores), pair)


def along(directions: Any, scores_of: Callable[[Any], Any], inputs: Any) -> Any:
    """The gradient with respect to `inputs` `[batch, ...]` of the scores along `directions`: ``J^T v``.

    Args:
        directions: v, of the scores' shape.
        scores_of: a model's normalized scores for inputs.
        inputs: float.
    """
    tf = kd.tf
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        value = tf.reduce_sum(scores_of(inputs) * directions)
    return tape.gradient(value, inputs)
