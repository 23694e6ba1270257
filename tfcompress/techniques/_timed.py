"""What is left of the time that a model takes, measured on int8 files of it and of smaller ones."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.settings import ConversionSettings
from tfcompress.evaluate import measure_latency
from tfcompress.techniques.base import StepPlan

_CALIBRATING = 2
"""Samples that the ranges of the files are taken from: their kernels take as long for any."""
_TIMED_SECONDS = 1.0


class Timed:
    """The time that int8 files of smaller models take, as a share of that of the whole one's.

    The median of the ratios of neighbouring invokes: one thread, XNNPACK. Each smaller model is made, converted and
    measured once.

    Args:
        whole: the model.
        plan: of the step that asks: its samples, its seed.
        known: what need not be measured, by what tells smaller models apart.
    """

    def __init__(self, whole: Any, plan: StepPlan, known: dict[Hashable, float]) -> None:
        self._whole = whole
        self._plan = plan
        self._known = dict(known)
        self._files: dict[str, bytes] = {}

    def __call__(self, key: Hashable, smaller: Callable[[], Any]) -> float:
        """The share of the time left in the model that `smaller` makes, and that `key` tells from others."""
        if key not in self._known:
            self._files.setdefault("whole", self._file(self._whole))
            files = {"whole": self._files["whole"], "smaller": self._file(smaller())}
            report = measure_latency(files, budget_s=_TIMED_SECONDS, seed=self._plan.seed)
            self._known[key] = report.ratio_to("whole")["smaller"]
        return self._known[key]

    def _file(self, model: Any) -> bytes:
        samples = self._plan.calibration[:_CALIBRATING]
        return quantized_tflite(model, "int8", ConversionSettings(allow_float=True), samples)
