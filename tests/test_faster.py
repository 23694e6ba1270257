"""Rewrites for speed: what a measurement decides, kept for a run that goes on."""

import json

import numpy as np
import pytest

from tfcompress import faster
from tfcompress import keras_door as kd
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.evaluate.latency import LatencyReport
from tfcompress.pipeline import FASTER_FILE, compress
from tfcompress.recipe import load_recipe
from tfcompress.vocabulary.errors import PromiseError, RecipeError, RunFolderError
from tfcompress.vocabulary.state import State

FAST = [
    "evaluation.latency_seconds=0.05",
    "evaluation.threads=1",
    "data.preprocessing=raw",
    "conversion.faster=true",
]


@pytest.fixture(scope="module")
def model():
    layers = kd.keras.layers
    kd.keras.utils.set_random_seed(0)
    stack = [layers.Conv2D(4, 3), layers.AveragePooling2D(4, name="pool"), layers.Flatten(), layers.Dense(3)]
    return kd.keras.Sequential([layers.Input((6, 6, 2)), *stack])


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(96, 6, 6, 2)).astype(np.float32), rng.integers(0, 3, 96)


@pytest.fixture
def timed(monkeypatch):
    """Gives a function that sets how much longer a rewritten file is to take; the files themselves are real."""

    def set_to(ratio, spread=0.0, again=1.0):
        def measured(files, budget_s):
            assert all(Flatbuffer(content).operators for content in files.values())
            base = np.ones(100)
            after = ratio + spread * np.linspace(-1, 1, 100)
            return LatencyReport({"before": tuple(base), "after": tuple(after), "again": tuple(base * again)})

        monkeypatch.setattr(faster, "measure_latency", measured)

    return set_to


def operators(result):
    return {op.name for op in Flatbuffer(result.artifact.read_bytes()).operators}


def test_what_was_measured_once_decides_for_the_run(model, data, timed, tmp_path):
    timed(0.9)
    first = compress(model, data, "ptq_int8", out=tmp_path / "run", overrides=FAST)
    assert "MEAN" in operators(first)
    assert "AVERAGE_POOL_2D" not in operators(first)
    mean = next(found for found in first.evidence.faster if found.name == "mean_pooling")
    assert (mean.kept, mean.latency_ratio) == (True, pytest.approx(0.9))
    assert "mean_pooling: kept, 0.900x the latency" in (tmp_path / "run" / "card.md").read_text()
    assert "mean_pooling: kept, 0.900x the latency" in (tmp_path / "run" / "log.txt").read_text()
    assert first.evidence.rewrites == ()
    assert "## Exact rewrites" not in (tmp_path / "run" / "card.md").read_text()
    content = first.artifact.read_bytes()
    first.artifact.unlink()
    timed(1.5)
    again = compress(model, data, "ptq_int8", out=tmp_path / "run", overrides=FAST)
    assert again.artifact.read_bytes() == content
    assert again.evidence.faster == first.evidence.faster
    (tmp_path / "run" / FASTER_FILE).write_text(json.dumps([{"name": 3}]))
    with pytest.raises(RunFolderError, match=r"damaged.*measured again"):
        compress(model, data, "ptq_int8", out=tmp_path / "run", overrides=FAST)


@pytest.mark.parametrize(
    ("timing", "kept"),
    [
        ({"ratio": 0.97}, True),
        ({"ratio": 1.7}, False),
        ({"ratio": 0.97, "again": 0.95}, False),
        ({"ratio": 0.97, "spread": 0.5}, False),
    ],
)
def test_only_what_is_faster_by_more_than_the_noise_is_kept(model, timed, timing, kept):
    timed(**timing)
    content = (kd.tf.lite.TFLiteConverter.from_keras_model(model)).convert()
    state = State(model)
    after, found = faster.try_rewrites(state, lambda state: content, 0.1)
    assert {one.kept for one in found} == {kept}
    assert (after is not state) == kept


def test_a_rewrite_that_breaks_a_promise_is_not_taken(model):
    def convert(state):
        raise PromiseError("the file breaks a promise")

    state = State(model)
    after, found = faster.try_rewrites(state, convert, 0.1)
    assert after is state
    assert found
    assert all(not one.kept and "breaks a promise" in str(one) for one in found)


def test_it_is_not_for_models_trained_as_integers():
    with pytest.raises(RecipeError, match=r"conversion\.faster.*quantization trains it as integers.*post_training"):
        load_recipe("int8_qat", ["conversion.faster=true"])
