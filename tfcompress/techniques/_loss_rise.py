"""By how much a changed model's outputs are worse than the float model's, on the calibration samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.techniques.base import StepPlan


def loss_rise(reference: np.ndarray, plan: StepPlan) -> Callable[[np.ndarray], float]:
    """A function that tells what the loss has risen by, of outputs for the calibration samples.

    Args:
        reference: the float model's outputs, `[n, ...]`.
        plan: of the step: the samples' targets and the loss where there are labels.

    Returns:
        Of outputs `[n, ...]`, the rise of the mean loss over `reference`'s. Without labels it is the mean
        Kullback-Leibler divergence from `reference` where this is probabilities, and else the mean squared difference
        by its variance.
    """
    if plan.targets is None or plan.loss is None:
        return lambda outputs: _divergence(reference, outputs)

    def loss(outputs: np.ndarray) -> float:
        # Of tensors, unlike arrays, Keras brings the shapes together; some losses tell one number a sample.
        return float(np.mean(plan.loss(kd.tf.constant(plan.targets), kd.tf.constant(outputs))))

    before = loss(reference)
    return lambda outputs: loss(outputs) - before


def _divergence(reference: np.ndarray, outputs: np.ndarray) -> float:
    sums = reference.sum(axis=-1)
    if reference.shape[-1] > 1 and (reference >= 0).all() and np.allclose(sums, 1, atol=1e-3):
        p, q = (np.clip(part.astype(float), 1e-12, None) for part in (reference, outputs))
        return float(np.mean(np.sum(p * np.log(p / q), axis=-1)))
    variance = float(reference.var(dtype=float))
    return float(np.mean((outputs - reference) ** 2, dtype=float)) / (variance or 1.0)
