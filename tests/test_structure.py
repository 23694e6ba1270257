"""Models made smaller, from end to end: the file has the channels that were promised."""

import json

import numpy as np
import pytest
from fixtures import models

from tfcompress import keras_door as kd
from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.operations import operations
from tfcompress.convert.read_back import read_promises, require_kept
from tfcompress.convert.settings import ConversionSettings
from tfcompress.evaluate import measure_latency
from tfcompress.evaluate.latency import LatencyReport
from tfcompress.models.channels import channel_groups
from tfcompress.pipeline import compress
from tfcompress.preparation import open_job
from tfcompress.techniques import _timed
from tfcompress.techniques.channels import Channels
from tfcompress.vocabulary.errors import PromiseError, RecipeError
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import State

FAST = ["evaluation.latency_seconds=0.02", "evaluation.threads=1", "data.preprocessing=raw", "data.batch_size=16"]
RECIPE = {
    "steps": [
        {"technique": "channels", "remove": 0.25, "multiple_of": 2, "importance": "taylor", "fit": {"epochs": 1}},
        {"technique": "channels", "name": "again", "target": {"macs": 0.55}, "multiple_of": 2, "fit": {"epochs": 1}},
        {"technique": "pruning", "final_sparsity": 0.5, "frequency": 1, "fit": {"epochs": 1}},
        {"technique": "quantization", "fit": {"epochs": 1}},
    ]
}


@pytest.fixture(scope="module")
def data():
    return models.inputs_for(models.residual(), 60), np.arange(60) % models.CLASSES


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return compress(models.residual(), data, RECIPE, out=tmp_path_factory.mktemp("structure") / "run", overrides=FAST)


def test_the_file_has_the_channels_that_were_promised(run):
    found = [(p.weight, p.promised, p.found) for p in run.evidence.promises if p.kind == "channels"]
    assert sorted(found) == [(f"{name}/kernel", n, 4) for name in ("branch", "stem") for n in (4, 6)]
    shapes = [
        t.shape for t in Flatbuffer(run.artifact.read_bytes()).tensors if t.data is not None and len(t.shape) == 4
    ]
    assert sorted(shapes) == [(4, 3, 3, 4), (4, 3, 3, 4)]
    assert run.evidence.artifact.full_integer
    assert [stage.name for stage in run.evidence.stages] == ["channels", "again", "pruning", "quantization"]


def test_another_run_goes_on_from_the_smaller_model(run, data, tmp_path):
    record = json.loads((run.folder / "state.json").read_text())
    assert {promise["kind"] for promise in record["promises"]} == {"channels", "zeros"}
    on = {"steps": [{"technique": "post_training"}]}
    again = compress(run.folder, data, on, out=tmp_path / "again", overrides=FAST)
    assert all(p.kept for p in again.evidence.promises)
    more = {"steps": [{"technique": "channels", "name": "more", "multiple_of": 1}, *on["steps"]]}
    with pytest.raises(RecipeError, match=r"more would break promises of the earlier run \(sparse\)"):
        open_job(run.folder, data, more, overrides=FAST)


def test_more_channels_than_promised_are_found_in_the_file():
    model = models.conv_bn()
    flat = Flatbuffer(quantized_tflite(model, "int8", ConversionSettings(), models.inputs_for(model, 8)))
    promises = (Promise("c1/kernel", "channels", 6, made_by="channels"), Promise("c1_1/kernel", "channels", 8))
    with pytest.raises(PromiseError, match="c1/kernel: channels promised channels 6, the file has 8") as failure:
        require_kept(read_promises(flat, State(model, promises)))
    assert "c1_1" not in str(failure.value)


def test_later_steps_are_checked_on_the_smaller_model(data):
    """Eight input channels have groups of four; six have none."""
    model = models.residual()
    steps = [
        {"technique": "channels", "remove": 0.25, "multiple_of": 2},
        {"technique": "pruning", "n_of_m": [2, 4], "layers": ["branch"]},
        {"technique": "quantization"},
    ]
    with pytest.raises(RecipeError, match="groups of 4; branch has 6"):
        open_job(model, data, {"steps": steps}, overrides=FAST)
    steps[0]["remove"] = 0.5
    job = open_job(model, data, {"steps": steps}, overrides=FAST)
    assert {g.name: g.size for g in channel_groups(job.state.model)}["stem"] == 8


class Timed:
    """A latency that is the file's arithmetic, and knows how often it was asked for."""

    def __init__(self):
        self.asked = 0

    def __call__(self, files, **_):
        self.asked += 1
        times = {name: (float(operations(Flatbuffer(content)).macs),) for name, content in files.items()}
        return LatencyReport(times)


LATENCY = {
    "steps": [
        {"technique": "channels", "target": {"latency": 0.55}, "multiple_of": 2, "fit": {"epochs": 1}},
        {"technique": "post_training"},
    ]
}


def test_a_latency_is_met_and_measured_once_in_a_runs_life(data, tmp_path, monkeypatch):
    timed = Timed()
    monkeypatch.setattr(_timed, "measure_latency", timed)
    model = models.residual()
    first = compress(model, data, LATENCY, out=tmp_path / "run", overrides=FAST)
    assert {p.found for p in first.evidence.promises} == {4}
    # Once for each number of channels, not for each share that was tried.
    assert timed.asked == 3
    again = compress(model, data, LATENCY, out=tmp_path / "run", overrides=FAST)
    kwargs = {"out": tmp_path / "other", "overrides": FAST, "reuse": [tmp_path / "run"]}
    other = compress(model, data, LATENCY, **kwargs)
    assert timed.asked == 3
    assert first.artifact.read_bytes() == again.artifact.read_bytes() == other.artifact.read_bytes()


@pytest.mark.slow
def test_a_latency_that_was_really_measured_is_met():
    """With half the time left, the file is faster than the whole one in a measurement of its own."""
    layers = kd.keras.layers
    x = inputs = layers.Input((24, 24, 8))
    for index in range(3):
        x = layers.Conv2D(96, 3, padding="same", activation="relu", name=f"conv{index}")(x)
    model = kd.keras.Model(inputs, layers.Dense(4, name="out")(layers.GlobalAveragePooling2D()(x)))
    step = Channels(target={"latency": 0.5}, multiple_of=16)
    samples = models.inputs_for(model, 4)
    smaller = step.prepare(State(model), models.plan_for(samples)).model
    files = {
        name: quantized_tflite(net, "int8", ConversionSettings(), samples)
        for name, net in (("whole", model), ("cut", smaller))
    }
    assert measure_latency(files, budget_s=1.0).ratio_to("whole")["cut"] < 0.7
