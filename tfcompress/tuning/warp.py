"""A scale for a measure on which the hopeless do not drown the differences among the good."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_FARTHEST = 20.0
"""Widths behind the knee; what lies farther, beyond e^20 widths, is nowhere."""


@dataclass(frozen=True)
class Warp:
    """Linear up to `knee`, logarithmic beyond it, with one slope at the knee.

    Args:
        knee: in the measure's unit, to be minimised.
        width: of the linear part, in the same unit.
    """

    knee: float
    width: float

    @classmethod
    def around(cls, values: np.ndarray, knee: float) -> Warp:
        """The warp of `values` with this knee, or with their median when fewer than two lie before it."""
        if np.sum(values < knee) < 2:
            knee = float(np.median(values))
        return cls(knee, float(knee - values.min()) or float(np.ptp(values)) or 1.0)

    def forward(self, values: np.ndarray) -> np.ndarray:
        """From the measure's scale."""
        beyond = np.maximum(values - self.knee, 0.0) / self.width
        return np.minimum(values, self.knee) + self.width * np.log1p(beyond)

    def back(self, values: np.ndarray) -> np.ndarray:
        """To the measure's scale."""
        beyond = np.clip((values - self.knee) / self.width, 0.0, _FARTHEST)
        return np.minimum(values, self.knee) + self.width * np.expm1(beyond)
