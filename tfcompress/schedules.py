"""Schedules: plain functions from a training step to a value.

A schedule here is ``step -> value`` with ``step`` an integer tensor, NumPy array or number, and a value of the
same kind; unless it says otherwise it uses arithmetic operators only, so it runs inside a TensorFlow graph and in NumPy
alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Schedule = Callable[[Any], Any]


def constant(value: float) -> Schedule:
    """Always `value`.

    Example:
        >>> constant(0.5)(7)
        0.5
    """
    return lambda step: value + 0.0 * step


def polynomial(initial: float, final: float, begin: int, end: int, power: float = 3.0) -> Schedule:
    """From `initial` at step `begin` to `final` at `end`, fast first and then slower.

    ``s(t) = final + (initial - final) * (1 - (t - begin) / (end - begin)) ** power``, clipped to the ends.
    Zhu and Gupta, "To prune, or not to prune" (2017), equation 1, has power 3.

    Args:
        initial: value at and before `begin`.
        final: value at and after `end`.
        begin: first step.
        end: last step; must lie behind `begin`.
        power: the exponent. Defaults to 3.

    Raises:
        ValueError: `end` does not lie behind `begin`.

    Example:
        >>> round(polynomial(0.0, 0.8, begin=0, end=100)(50), 3)
        0.7
    """
    if end <= begin:
        raise ValueError(f"A polynomial schedule must end behind its beginning. Received: begin={begin}, end={end}")

    def schedule(step: Any) -> Any:
        left = _positive_part(1.0 - _positive_part((step - begin) / (end - begin)))
        return final + (initial - final) * left**power

    return schedule


def half_cosine(initial: float, begin: int, end: int) -> Schedule:
    """From `initial` at step `begin` to 0 at `end`, along half a cosine.

    ``f(t) = initial / 2 * (1 + cos(pi * (t - begin) / (end - begin)))``, clipped to the ends: Evci et al., "Rigging the
    Lottery" (2020), section 3. Of numbers and NumPy arrays alone.

    Args:
        initial: value at and before `begin`.
        begin: first step.
        end: last step; where it does not lie behind `begin`, the value is 0.

    Example:
        >>> half_cosine(0.3, begin=0, end=100)(50)
        0.15
    """

    def schedule(step: Any) -> Any:
        done = np.clip((step - begin) / (end - begin), 0, 1) if end > begin else 1.0
        return initial / 2 * (1 + np.cos(np.pi * done))

    return schedule


def _positive_part(value: Any) -> Any:
    """max(value, 0) by arithmetic that NumPy and TensorFlow share; exact, so that no power is taken below 0."""
    return (value + abs(value)) / 2.0
