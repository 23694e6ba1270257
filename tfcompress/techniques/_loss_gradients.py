"""Gradients of the task's loss on a step's calibration samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.techniques.base import StepPlan
from tfcompress.vocabulary.errors import RecipeError

BATCH = 32


class LossGradients:
    """Gradients by some weights of a model, which may be asked for again as the weights change.

    Args:
        model: may be called.
        weights: variables of it.
        plan: of the step; its calibration samples, their targets and the loss.
        where: the step's name, for messages.
        what: what needs them, for messages.
        instead: what would do without.

    Raises:
        RecipeError: the data has no labels.
    """

    def __init__(
        self, model: Any, weights: Sequence[Any], plan: StepPlan, *, where: str, what: str, instead: str
    ) -> None:
        self._model, self._weights, self._plan = model, list(weights), plan
        self._loss = loss_of(plan, where, what, instead)
        self._graphs: dict[Callable[[Any], Any], Any] = {}

    def mean(self, of: Callable[[Any], Any], batch: int = BATCH) -> list[np.ndarray]:
        """The mean of a function of gradients over batches.

        Args:
            of: the function, elementwise in TensorFlow, of the gradient of the mean loss of one batch.
            batch: samples in one; of fewer, as in the last, the gradient counts for less. Defaults to 32.

        Returns:
            One array for each weight, float64, in its shape.
        """
        step = self._graphs.setdefault(of, kd.tf.function(lambda *fed: self._sums(of, *fed), reduce_retracing=True))
        sums = [kd.tf.zeros(weight.shape) for weight in self._weights]
        for inputs, targets in batches(self._plan, batch):
            sums = step(sums, inputs, kd.tf.constant(targets))
        return [total.numpy().astype(np.float64) / len(self._plan.calibration) for total in sums]

    def _sums(self, of: Callable[[Any], Any], sums: list[Any], inputs: Any, targets: Any) -> list[Any]:
        tf = kd.tf
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._weights)
            # Outside training samples do not touch one another through a BatchNormalization.
            value = tf.reduce_mean(self._loss(targets, self._model(inputs, training=False)))
        found = tape.gradient(value, self._weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        count = tf.cast(tf.shape(inputs)[0], tf.float32)
        return [total + count * of(gradient) for total, gradient in zip(sums, found, strict=True)]


def gradients_of(tape: Any, value: Any, sources: Sequence[Any]) -> list[np.ndarray]:
    """Of `value` by each of `sources`; zero where it does not depend on one."""
    found = tape.gradient(value, sources, unconnected_gradients=kd.tf.UnconnectedGradients.ZERO)
    # Those of a table come by the rows that were looked up.
    return [kd.tf.convert_to_tensor(gradient).numpy() for gradient in found]


def batches(plan: StepPlan, size: int = BATCH) -> Iterator[tuple[Any, Any]]:
    """Calibration samples and their targets, where there are any, by the batch."""
    for start in range(0, len(plan.calibration), size):
        part = slice(start, start + size)
        yield kd.tf.constant(plan.calibration[part]), None if plan.targets is None else plan.targets[part]


def loss_of(plan: StepPlan, where: str, what: str, instead: str) -> Callable[..., Any]:
    """The task's loss.

    Args:
        plan: of the step.
        where: the step's name, for the message.
        what: what needs the loss.
        instead: what would do without.

    Raises:
        RecipeError: the data has no labels.
    """
    if plan.targets is None or plan.loss is None:
        raise RecipeError(
            f"{where}: {what} needs labelled data, for it is of the loss. Received data without labels. "
            f"Remedy: {instead}, or labels."
        )
    return plan.loss
