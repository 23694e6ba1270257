"""How far a .tflite file's outputs are from those of the Keras model it came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tfcompress.vocabulary.errors import EvaluationError

# Dequantized float32 numbers miss a whole number of steps by rounding alone.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Agreement:
    """Differences between two sets of outputs, counted in output steps.

    Args:
        max_steps: the largest difference.
        mean_steps: the mean difference.
        share_within_one_step: share of outputs, 0...1, that differ by at most one step.
        argmax_agreement: share of samples, 0...1, whose largest output is the same; None unless the outputs are
            `[n, classes]` with two classes or more.
        step: what one step is, in the outputs' own unit.
    """

    max_steps: float
    mean_steps: float
    share_within_one_step: float
    argmax_agreement: float | None
    step: float


def agreement(expected: np.ndarray, actual: np.ndarray, step: float) -> Agreement:
    """Compare the Keras model's outputs with the artifact's.

    Args:
        expected: `[n, ...]`, the Keras model's outputs.
        actual: `[n, ...]`, the artifact's outputs for the same inputs, dequantized.
        step: the artifact's output step (`output_step`). 0, for a float file, counts in the step that an 8-bit
            output over the range of `expected` (0 included) would have: `(max - min) / 255`; where that range is
            empty too, in units of 1.

    Raises:
        EvaluationError: the two differ in shape, are empty, or are not finite.

    Example:
        >>> agreement(np.array([[0.0, 1.0]]), np.array([[0.5, 0.75]]), step=0.25).max_steps
        2.0
    """
    expected, actual = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    if expected.shape != actual.shape or not expected.size:
        raise EvaluationError(
            "Outputs to compare must be of one shape and not empty. "
            f"The Keras model gave {expected.shape}, the artifact {actual.shape}. Feed both the same samples."
        )
    if not (np.isfinite(expected).all() and np.isfinite(actual).all()):
        raise EvaluationError(
            "Outputs to compare must be finite, and hold NaN or infinities. Check the model's weights and inputs."
        )
    unit = step or (max(expected.max(), 0.0) - min(expected.min(), 0.0)) / 255 or 1.0
    steps = np.abs(expected - actual) / unit
    ranked = expected.ndim == 2 and expected.shape[1] >= 2
    return Agreement(
        max_steps=float(steps.max()),
        mean_steps=float(steps.mean()),
        share_within_one_step=float(np.mean(steps <= 1 + _ROUNDING)),
        argmax_agreement=float(np.mean(expected.argmax(1) == actual.argmax(1))) if ranked else None,
        step=float(unit),
    )
