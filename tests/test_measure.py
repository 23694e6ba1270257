"""Figures are put the right way round."""

from pathlib import Path

import numpy as np
import pytest
from fixtures.models import conv_bn, inputs_for

from tfcompress import keras_door as kd
from tfcompress import measure
from tfcompress.convert.converter import float_tflite
from tfcompress.evaluate import LatencyReport
from tfcompress.pipeline import compress
from tfcompress.recipe import EvaluationSettings
from tfcompress.shipping import Shipment
from tfcompress.vocabulary.evidence import AgreementEvidence
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


class Heard(Reporter):
    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)


def agreed(**figures):
    return AgreementEvidence(
        **{"count": 8, "max_steps": 1, "mean_steps": 0.1, "within_one_step": 1, "argmax": 1} | figures
    )


@pytest.fixture(scope="module")
def shipment():
    model = conv_bn()
    content = float_tflite(model)
    return model, Shipment(b"", content, None, ())


@pytest.mark.parametrize("far", [{"mean_steps": 9.0}, {"argmax": 0.9}])
def test_the_layer_that_a_large_difference_comes_from_is_named(shipment, far):
    model, shipped = shipment
    other = kd.keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    other.get_layer("c1_1").set_weights([2 * other.get_layer("c1_1").get_weights()[0]])
    inputs, reporter = inputs_for(model, 8), Heard()
    found = measure.explained(agreed(**far), shipped, other, inputs, inputs, reporter)
    assert found.worst_layer == "relu_c1_1"
    assert found.worst_layer_error > 0.1
    assert "rises most at layer relu_c1_1" in reporter.messages[0]


def test_a_bidirectional_lstms_error_in_int8_is_found_and_told_with_the_layer(tmp_path):
    """The converter's int8 kernels for it are off; nothing but the comparison of outputs shows that."""
    layers = kd.keras.layers
    kd.keras.utils.set_random_seed(0)
    series = layers.Input((4, 3), name="series")
    x = layers.Dense(4, activation="relu", name="front")(series)
    x = layers.Bidirectional(layers.LSTM(4), name="both")(x)
    model = kd.keras.Model(series, layers.Dense(4, activation="softmax", name="out")(x))
    model.set_weights([2 * weight for weight in model.get_weights()])
    rng, reporter = np.random.default_rng(0), Heard()
    data = rng.normal(size=(300, 4, 3)).astype(np.float32), rng.integers(0, 4, 300)
    fast = ["evaluation.latency_seconds=0.05", "evaluation.threads=1", "data.preprocessing=raw"]
    result = compress(model, data, "ptq_int8", overrides=fast, out=tmp_path / "run", reporter=reporter)
    evidence = result.evidence
    assert evidence.artifact.full_integer
    assert evidence.agreement.mean_steps > 10
    assert evidence.agreement.worst_layer == "both"
    share = f"{evidence.agreement.worst_layer_error:.1%} of its output"
    assert evidence.agreement.worst_layer_error > 0.3
    assert any(f"rises most at layer both, to {share}" in message for message in reporter.messages)
    card = (result.folder / "card.md").read_text()
    assert f"| where the error rises most |  | layer both, to {share} |" in card


@pytest.mark.parametrize("near", [{}, {"argmax": None}])
def test_near_outputs_need_no_explanation(near):
    reporter = Heard()
    found = measure.explained(agreed(**near), None, None, None, None, reporter)
    assert found == agreed(**near)
    assert reporter.messages == []
