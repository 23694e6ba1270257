"""Figures are put the right way round."""

from pathlib import Path

import pytest

from tfcompress import measure
from tfcompress.evaluate import LatencyReport
from tfcompress.recipe import EvaluationSettings
from tfcompress.vocabulary.reporter import Reporter


def test_speedup_is_float_time_over_artifact_time(monkeypatch):
    asked = []

    def timed(models, *, threads, budget_s, progress):
        asked.append((dict(models), threads, budget_s))
        slow = float(threads)
        return LatencyReport({"float": (4.0, 4.0, 4.0 * slow), "artifact": (1.0, 1.0, 2.0)})

    monkeypatch.setattr(measure, "measure_latency", timed)
    found = measure.latency_evidence(Path("f"), Path("a"), EvaluationSettings(threads=3, latency_seconds=7), Reporter())
    assert found.speedup == 4
    assert [(entry.threads, entry.median) for entry in found.float] == [(1, 4.0), (3, 4.0)]
    assert [(entry.threads, entry.median) for entry in found.artifact] == [(1, 1.0), (3, 1.0)]
    assert asked == [({"float": Path("f"), "artifact": Path("a")}, threads, 7) for threads in (1, 3)]


def test_versions_and_hardware_say_what_ran():
    assert measure.versions()["tensorflow"].startswith("2.")
    assert "not installed" not in measure.versions().values()
    assert measure.hardware()["cores"] >= 1


@pytest.mark.parametrize("threads", [None, 1])
def test_one_thread_is_measured_once(monkeypatch, threads):
    calls = []
    monkeypatch.setattr(measure.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(
        measure,
        "measure_latency",
        lambda models, *, threads, **_: calls.append(threads) or LatencyReport({name: (1.0,) for name in models}),
    )
    measure.latency_evidence(Path("f"), Path("a"), EvaluationSettings(threads=threads), Reporter())
    assert calls == [1]
