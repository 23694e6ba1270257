from contextlib import contextmanager

import pytest
from fixtures import models

from tfcompress.convert.converter import float_tflite, quantized_tflite
from tfcompress.convert.settings import ConversionSettings
from tfcompress.evaluate import LatencyReport
from tfcompress.run_folder import RunFolder
from tfcompress.tuning import latencies
from tfcompress.tuning.latencies import Latencies
from tfcompress.vocabulary.errors import EvaluationError, RunFolderError


def quantized(model, number_format="int8"):
    return quantized_tflite(model, number_format, ConversionSettings(), models.inputs_for(model))


@pytest.fixture(scope="module")
def files():
    dense = models.dense()
    return {
        "int8": quantized(dense),
        "int8 of other weights": quantized(models.dense(seed=1)),
        "narrower int8": quantized(models.dense(features=4)),
        "float16": quantized(dense, "float16"),
        "float": float_tflite(dense),
    }


TIMES_MS = {"int8": 2.0, "int8 of other weights": 2.0, "narrower int8": 1.0, "float16": 7.0}


class Machine:
    """Stands for a timing: the float file takes as long as the machine is disturbed at the time."""

    def __init__(self, files):
        self.timed = []
        self.float_ms = 8.0
        self._names = {content: name for name, content in files.items()}

    def measure_latency(self, timed, budget_s):
        assert budget_s == 0.5
        names = {role: self._names[one if isinstance(one, bytes) else one.read_bytes()] for role, one in timed.items()}
        self.timed.append((names["artifact"], names["reference"]))
        times = TIMES_MS | {"float": self.float_ms}
        return LatencyReport({role: (times[name],) for role, name in names.items()})


@pytest.fixture
def machine(files, monkeypatch):
    machine = Machine(files)
    monkeypatch.setattr(latencies, "measure_latency", machine.measure_latency)
    return machine


@pytest.fixture
def start(files, tmp_path):
    """Makes one more, of the same folder."""

    def make():
        with RunFolder(tmp_path / "search", {}) as folder:
            return Latencies(folder, folder.write("float.tflite", files["float"]), budget_s=0.5)

    return make


def test_an_architecture_is_timed_once_also_when_the_search_goes_on(files, machine, start):
    first = start()
    assert first.ratio(files["int8"]) == 0.25
    assert first.ratio(files["int8 of other weights"]) == 0.25
    assert start().ratio(files["int8 of other weights"]) == 0.25
    assert machine.timed == [("int8", "float")]


def test_artifacts_of_one_arithmetic_are_compared_with_one_another(files, machine, start):
    assert start().ratio(files["int8"]) == 0.25
    machine.float_ms = 6.0
    found = start()
    assert found.ratio(files["narrower int8"]) == 0.125
    assert found.ratio(files["float16"]) == 7 / 6
    assert machine.timed == [("int8", "float"), ("narrower int8", "int8"), ("float16", "float")]


def test_without_its_record_everything_is_timed_again(files, machine, start, tmp_path):
    start().ratio(files["int8"])
    (tmp_path / "search" / "latencies.json").unlink()
    again = start()
    assert again.ratio(files["narrower int8"]) == 0.125
    assert again.ratio(files["int8"]) == 0.25
    assert machine.timed[1:] == [("narrower int8", "float"), ("int8", "narrower int8")]


def test_it_is_quiet_while_an_artifact_is_timed_and_only_then(files, machine, start):
    entered = []

    @contextmanager
    def quiet():
        entered.append(len(machine.timed))
        yield
        entered.append(len(machine.timed))

    found = start()
    for name in ("int8", "int8 of other weights"):
        found.ratio(files[name], quiet)
    assert entered == [0, 1]


def test_a_failure_is_told_and_not_kept(files, machine, start, monkeypatch):
    def crash(*_, **__):
        raise EvaluationError("LiteRT crashed")

    found = start()
    monkeypatch.setattr(latencies, "measure_latency", crash)
    with pytest.raises(EvaluationError, match="LiteRT crashed"):
        found.ratio(files["int8"])
    monkeypatch.setattr(latencies, "measure_latency", machine.measure_latency)
    assert found.ratio(files["int8"]) == 0.25


def test_a_damaged_record_is_refused(start, tmp_path):
    start()
    (tmp_path / "search" / "latencies.json").write_text('{"a": {"ratio": "fast"}}')
    with pytest.raises(RunFolderError, match=r"latencies\.json is damaged: .*Remedy: remove it"):
        start()


def test_a_file_is_timed_for_real(files, tmp_path):
    with RunFolder(tmp_path / "search", {}) as folder:
        found = Latencies(folder, folder.write("float.tflite", files["float"]), budget_s=0.01)
    assert 0 < found.ratio(files["int8"]) < 100
