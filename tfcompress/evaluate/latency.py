"""Latency of .tflite files beside one another, so that their ratio means something."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.evaluate.interpreter import Kernels, ModelFile, in_child, open_interpreter, read
from tfcompress.vocabulary.reporter import Progress, unheard

_WARM_UP_ROUNDS = 5
_LEAST_ROUNDS = 30


@dataclass(frozen=True)
class Latency:
    """How long one invoke took.

    Args:
        median_ms: milliseconds that half of the invokes stayed within.
        p95_ms: milliseconds that 95 % of them stayed within.
        runs: how many were timed.
    """

    median_ms: float
    p95_ms: float
    runs: int


@dataclass(frozen=True)
class LatencyReport:
    """The times of several models that were invoked in turn.

    Args:
        samples_ms: for each model, the milliseconds of its invokes; the i-th ones of all models are neighbours in
            time.
    """

    samples_ms: Mapping[str, tuple[float, ...]]

    @property
    def latencies(self) -> dict[str, Latency]:
        """Each model's latency."""
        return {
            name: Latency(float(np.median(times)), float(np.percentile(times, 95)), len(times))
            for name, times in self.samples_ms.items()
        }

    def ratio_to(self, reference: str) -> dict[str, float]:
        """Each model's time over that of `reference`: the median of the ratios of neighbouring invokes.

        Neighbours share what the machine was doing at the moment, which a ratio of two medians does not.

        Example:
            >>> LatencyReport({"float": (2.0, 4.0, 2.0), "int8": (1.0, 2.0, 3.0)}).ratio_to("float")
            {'float': 1.0, 'int8': 0.5}
        """
        base = np.asarray(self.samples_ms[reference])
        return {name: float(np.median(np.asarray(times) / base)) for name, times in self.samples_ms.items()}


def measure_latency(
    models: Mapping[str, Path | bytes],
    *,
    threads: int = 1,
    budget_s: float = 3.0,
    kernels: Kernels = "xnnpack",
    seed: int = 0,
    progress: Progress = unheard,
) -> LatencyReport:
    """Time single-sample invokes of `models`, one of each in turn (A B A B ...), in one child process.

    Every round invokes each model once on random input at the batch it was made for; five rounds warm up, then
    rounds are timed until the budget is spent, never fewer than 30. Only the invoke itself is timed.

    Args:
        models: .tflite files by name.
        threads: threads that the kernels may use. Defaults to 1.
        budget_s: seconds to spend on timed rounds, over all models together. Defaults to 3.
        kernels: which kernels run the graphs. Defaults to `xnnpack`.
        seed: seed of the random inputs.
        progress: told of the milliseconds spent, twice a second, between rounds. Defaults to silence.

    Raises:
        EvaluationError: a file cannot be read or run, or crashed LiteRT.

    Example:
        >>> report = measure_latency({"float": Path("f.tflite"), "int8": Path("q.tflite")})  # doctest: +SKIP
        >>> report.ratio_to("float")["int8"]  # doctest: +SKIP
        0.63
    """
    files = {name: read(model) for name, model in models.items()}
    where = ", ".join(file.where for file in files.values())
    arguments = (files, threads, budget_s, kernels, seed)
    return in_child(_measure, *arguments, where=where, doing="Timing", progress=progress)


def _measure(
    files: Mapping[str, ModelFile], threads: int, budget_s: float, kernels: Kernels, seed: int, progress: Progress
) -> LatencyReport:
    interpreters = {name: open_interpreter(file, threads=threads, kernels=kernels) for name, file in files.items()}
    for interpreter in interpreters.values():
        _feed(interpreter, np.random.default_rng(seed))
    for _ in range(_WARM_UP_ROUNDS):
        for interpreter in interpreters.values():
            interpreter.invoke()
    samples: dict[str, list[float]] = {name: [] for name in files}
    started = told = time.perf_counter()
    rounds = 0
    while rounds < _LEAST_ROUNDS or time.perf_counter() < started + budget_s:
        if time.perf_counter() > told + 0.5:
            told = time.perf_counter()
            progress(min(int(1000 * (told - started)), int(1000 * budget_s)), int(1000 * budget_s))
        for name, interpreter in interpreters.items():
            began = time.perf_counter_ns()
            interpreter.invoke()
            samples[name].append((time.perf_counter_ns() - began) / 1e6)
        rounds += 1
    return LatencyReport({name: tuple(times) for name, times in samples.items()})


def _feed(interpreter: Any, rng: np.random.Generator) -> None:
    """Give every input random numbers of its own type; ids, whose range is not known, stay 0."""
    for details in interpreter.get_input_details():
        shape, dtype = details["shape"], details["dtype"]
        if np.issubdtype(dtype, np.floating):
            values = rng.uniform(-1, 1, shape)
        elif np.issubdtype(dtype, np.integer) and details["quantization"][0]:
            limits = np.iinfo(dtype)
            values = rng.integers(limits.min, limits.max, shape, endpoint=True)
        else:
            values = np.zeros(shape)
        interpreter.set_tensor(details["index"], values.astype(dtype))
