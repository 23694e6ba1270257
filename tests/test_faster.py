"""Rewrites for speed: what a measurement decides, kept for a run that goes on."""

import json
from functools import partial

import numpy as np
import pytest

from tfcompress import faster
from tfcompress import keras_door as kd
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.evaluate.latency import LatencyReport
from tfcompress.models.loading import load_model
from tfcompress.pipeline import FASTER_FILE, compress
from tfcompress.techniques.post_training import PostTraining
from tfcompress.techniques.quantization import Quantization
from tfcompress.vocabulary.errors import PromiseError, RunFolderError
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.reporter import Reporter
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
    after, found = faster.try_rewrites(state, PostTraining(), lambda state: content, 0.1)
    assert {one.kept for one in found} == {kept}
    assert (after is not state) == kept


def test_a_rewrite_that_breaks_a_promise_is_not_taken(model):
    def convert(state):
        raise PromiseError("the file breaks a promise")

    state = State(model)
    after, found = faster.try_rewrites(state, PostTraining(), convert, 0.1)
    assert after is state
    assert found
    assert all(not one.kept and "breaks a promise" in str(one) for one in found)


TRAINED = ["data.batch_size=32", "pruning.fit.epochs=1", "quantization.fit.epochs=1", "pruning.final_sparsity=0.5"]


@pytest.fixture(scope="module")
def strided():
    """A convolution at full resolution, a strided one behind it, and a pooling over the whole image."""
    layers = kd.keras.layers
    kd.keras.utils.set_random_seed(0)
    x = inputs = layers.Input((8, 8, 4))
    for name, strides in (("first", 1), ("second", 2)):
        x = layers.Conv2D(8, 3, strides, "same", use_bias=False, name=name)(x)
        x = layers.ReLU(name=f"relu_{name}")(layers.BatchNormalization(name=f"bn_{name}")(x))
    x = layers.Flatten(name="flatten")(layers.AveragePooling2D(4, name="pool")(x))
    return kd.keras.Model(inputs, layers.Dense(3, activation="softmax", name="out")(x), name="strided")


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.normal(size=(96, 8, 8, 4)).astype(np.float32), rng.integers(0, 3, 96)


def test_what_is_faster_is_made_before_the_training_as_integers_and_keeps_promises(strided, images, timed, tmp_path):
    timed(0.9)
    result = compress(strided, images, "prune_qat", out=tmp_path / "run", overrides=[*FAST, *TRAINED])
    assert {found.name: found.kept for found in result.evidence.faster} == {
        "mean_pooling": True,
        "space_to_depth": True,
    }
    assert "MEAN" in operators(result)
    assert result.evidence.artifact.full_integer
    assert result.model.get_layer("quant_first").layer.kernel.shape == (4, 4, 4, 32)
    promises = {promise.weight: promise for promise in result.evidence.promises}
    assert set(promises) == {"first/kernel", "second/kernel", "out/kernel"}
    assert all(promise.kept for promise in promises.values())
    # The zeros that fill up the kernel stay too.
    assert promises["first/kernel"].found > 0.6
    # What another run goes on from is the model before: the choice is this machine's.
    assert load_model(tmp_path / "run" / "model.keras").get_layer("first").kernel.shape == (3, 3, 4, 8)


def test_a_rewrite_that_refuses_a_promise_of_an_earlier_step_is_not_taken(strided, timed):
    timed(0.9)
    content = (kd.tf.lite.TFLiteConverter.from_keras_model(strided)).convert()
    state = State(strided, promises=(Promise("second/kernel", "group_zeros", 2, group=4, made_by="pruning"),))
    after, found = faster.try_rewrites(state, Quantization(), lambda state: content, 0.1)
    assert {one.name: one.kept for one in found} == {"mean_pooling": True, "space_to_depth": False}
    assert "second/kernel (group_zeros, promised by pruning): space to depth gives" in found[1].reason
    assert after.model.get_layer("second").kernel.shape == (3, 3, 8, 8)


def test_a_rewrite_that_the_step_cannot_take_is_not_taken(strided, timed):
    timed(0.9)
    content = (kd.tf.lite.TFLiteConverter.from_keras_model(strided)).convert()
    step = Quantization(per_layer={"nothing*": 4})
    after, found = faster.try_rewrites(State(strided), step, lambda state: content, 0.1)
    assert (after.model, {one.kept for one in found}) == (strided, {False})
    assert "No match for: nothing*" in found[0].reason


@pytest.mark.slow
def test_a_run_interrupted_in_that_training_goes_on_with_what_was_measured(strided, images, timed, tmp_path):
    class Interrupting(Reporter):
        def progress(self, label, done, total, note=""):
            if label == "quantization" and done > total / 2:
                raise KeyboardInterrupt

    run = partial(
        compress,
        strided,
        images,
        "prune_cluster_qat",
        overrides=[*FAST, *TRAINED, "clustering.fit.epochs=1", "clustering.clusters=4", "quantization.fit.epochs=2"],
    )
    timed(0.9)
    undisturbed = run(out=tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path / "run", reporter=Interrupting())
    timed(1.5)
    resumed = run(out=tmp_path / "run")
    assert "MEAN" in operators(resumed)
    assert resumed.artifact.read_bytes() == undisturbed.artifact.read_bytes()
    assert resumed.evidence.faster == undisturbed.evidence.faster
    kinds = {(promise.weight, promise.kind) for promise in resumed.evidence.promises if promise.kept}
    assert {(f"{name}/kernel", kind) for name in ("first", "second") for kind in ("zeros", "distinct")} <= kinds
