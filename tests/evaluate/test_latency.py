import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.evaluate import Latency, LatencyReport, latency, measure_latency
from tfcompress.vocabulary.errors import EvaluationError


def test_summary_of_known_samples():
    times = tuple(float(t) for t in range(1, 102))
    assert LatencyReport({"net": times}).latencies == {"net": Latency(51.0, 96.0, 101)}


def test_the_ratio_is_of_neighbours_not_of_medians():
    # The machine slows down by ten half-way; the second model always takes twice the first one's time.
    first = np.array([1.0] * 10 + [10.0] * 11)
    report = LatencyReport({"first": tuple(first), "second": tuple(2 * first)})
    assert report.ratio_to("first") == {"first": 1.0, "second": 2.0}
    shifted = LatencyReport({"first": (1.0, 1.0, 9.0), "second": (2.0, 9.0, 9.0)})
    assert shifted.ratio_to("first")["second"] == 2.0  # the ratio of medians would be 9


def test_models_take_turns(tiny_net, monkeypatch):
    turns = []
    original = latency.open_interpreter

    def spied(file, **settings):
        interpreter = original(file, **settings)
        invoke = interpreter.invoke
        interpreter.invoke = lambda: (turns.append(file.where), invoke())
        return interpreter

    monkeypatch.setattr(latency, "open_interpreter", spied)
    # Without the child process, where there is no spying.
    monkeypatch.setattr(latency, "in_child", lambda function, *arguments, progress, **_: function(*arguments, progress))
    report = measure_latency({"float": tiny_net.float, "int8": tiny_net.int8}, budget_s=0)
    assert turns == [str(tiny_net.float), str(tiny_net.int8)] * (len(turns) // 2)
    assert {name: entry.runs for name, entry in report.latencies.items()} == {"float": 30, "int8": 30}
    assert len(turns) > 60, "warm-up rounds are not timed"


def test_the_budget_decides_how_many_rounds_there_are(tiny_net):
    report = measure_latency({"int8": tiny_net.int8}, budget_s=0.1)
    assert report.latencies["int8"].runs > 100
    assert 0 < report.latencies["int8"].median_ms <= report.latencies["int8"].p95_ms


def test_token_ids_stay_within_the_table(embedding_file):
    path, _ = embedding_file
    assert measure_latency({"net": path}, budget_s=0, kernels="builtin").latencies["net"].runs == 30


def test_a_larger_model_is_slower(tiny_net, convert_function):
    def heavy(x):
        for _ in range(3):
            x = kd.tf.linalg.matmul(x, kd.tf.constant(np.eye(512, dtype=np.float32)))
        return x

    path = convert_function(heavy, [1, 512, 512])
    report = measure_latency({"tiny": tiny_net.int8, "heavy": path}, budget_s=0)
    assert report.ratio_to("tiny")["heavy"] > 5


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(EvaluationError, match="gone"):
        measure_latency({"net": tmp_path / "gone.tflite"})
