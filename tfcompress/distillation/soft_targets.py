"""Soft targets: a student's outputs compared with those of its teachers, softened by a temperature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.evaluate.metric import cross_entropy_of, is_binary
from tfcompress.schedules import Schedule, constant, polynomial
from tfcompress.vocabulary.distillation import Distillation, Temperatures
from tfcompress.vocabulary.training import Task

Kind = Literal["softmax", "sigmoid", "real"]
"""What a model's outputs are: shares of classes that exclude one another, answers yes or no, or numbers."""

_SOFTMAX_FLOOR = 1e-30
"""Below it the gradient of a float32 logarithm would overflow."""
_SIGMOID_FLOOR = 1e-7
"""As near as float32 tells a probability from 1."""


def kind_of(task: Task, output_shape: Sequence[int | None]) -> Kind:
    """What the outputs of a model of `task` are, by its loss.

    Args:
        task: under a loss that is no cross-entropy outputs are real numbers.
        output_shape: of one sample, without the batch.

    Example:
        >>> kind_of(Task(), (10,)), kind_of(Task(loss="mean_squared_error"), (1,))
        ('softmax', 'real')
    """
    if cross_entropy_of(task) is None:
        return "real"
    return "sigmoid" if is_binary(task) or (output_shape[-1] if output_shape else 1) == 1 else "softmax"


def scores(outputs: Any, kind: Kind, *, from_logits: bool, step: float = 0.0) -> Any:
    """What a temperature divides: logits, recovered from probabilities by the logarithm; real numbers as they are.

    Of a softmax they are known up to a number that all classes share, which no comparison here depends on.

    Args:
        outputs: `[batch, ...]` of a model.
        kind: what they are.
        from_logits: whether they are logits already.
        step: one step of quantized outputs: a probability that reads 0 lies below half of it. Defaults to 0.

    Returns:
        float32 `[batch, ...]`.
    """
    tf = kd.tf
    outputs = tf.cast(outputs, tf.float32)
    if from_logits or kind == "real":
        return outputs
    if kind == "softmax":
        return tf.math.log(tf.maximum(outputs, max(_SOFTMAX_FLOOR, step / 2)))
    floor = max(_SIGMOID_FLOOR, step / 2)
    inside = tf.clip_by_value(outputs, floor, 1 - floor)
    return tf.math.log(inside) - tf.math.log1p(-inside)


def soft_target_loss(student: Any, teachers: Any, shares: Sequence[float], temperature: Any, kind: Kind) -> Any:
    """How far a student is from its teachers, a number: the mean over the batch.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015), section 2: the softened
    probabilities are ``p = sum_i share_i softmax(teacher_i / T)`` and ``q = softmax(student / T)``, and the loss is
    ``T ** 2 * KL(p || q)``, whose gradients keep their size at every temperature. Of answers yes or no each has its
    own two probabilities, by the sigmoid, and the divergence is the mean over the answers. Of real numbers it is the
    mean squared difference from the teachers' weighted mean, and there is no temperature.

    Args:
        student: scores `[batch, ..., k]`; see `scores`.
        teachers: scores `[batch, teachers, ..., k]`.
        shares: of each teacher; they add up to 1.
        temperature: T, a number or tensor above 0.
        kind: what the outputs are.
    """
    tf = kd.tf
    weights = tf.reshape(tf.constant(shares, tf.float32), [-1, *[1] * (len(teachers.shape) - 2)])
    if kind == "real":
        return tf.reduce_mean(tf.square(student - tf.reduce_sum(weights * teachers, axis=1)))
    soften = tf.nn.softmax if kind == "softmax" else tf.sigmoid
    expected = tf.reduce_sum(weights * soften(teachers / temperature), axis=1)
    logits = student / temperature
    if kind == "softmax":
        by_class = tf.math.xlogy(expected, expected) - expected * tf.nn.log_softmax(logits)
        divergence = tf.reduce_mean(tf.reduce_sum(by_class, axis=-1))
    else:
        entropy = -tf.math.xlogy(expected, expected) - tf.math.xlogy(1 - expected, 1 - expected)
        cross = tf.nn.sigmoid_cross_entropy_with_logits(labels=expected, logits=logits)
        divergence = tf.reduce_mean(cross - entropy)
    return temperature**2 * divergence


def shares_of(settings: Distillation) -> np.ndarray:
    """Each teacher's share, float32 `[teachers]`; they add up to 1."""
    weights = np.array([one.weight for one in settings.teacher], np.float64)
    return (weights / weights.sum()).astype(np.float32)


def temperature_schedule(settings: Distillation, epochs: int) -> Schedule:
    """The temperature as a function of the epoch, from 0, of a step of `epochs`.

    Example:
        >>> temperature_schedule(Distillation(temperature={"begin": 8, "end": 2}), epochs=4)(1)
        6.0
    """
    if not isinstance(settings.temperature, Temperatures):
        return constant(settings.temperature)
    begin, end = settings.temperature.begin, settings.temperature.end
    return polynomial(begin, end, 0, epochs - 1, power=1.0) if epochs > 1 else constant(begin)
