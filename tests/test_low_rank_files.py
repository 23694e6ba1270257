"""Layers of low rank, from end to end: later steps apply to them, and the file has the ranks that were promised."""

import numpy as np
import pytest
from fixtures import models

from tfcompress import keras_door as kd
from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.settings import ConversionSettings
from tfcompress.pipeline import compress
from tfcompress.preparation import open_job
from tfcompress.vocabulary.errors import RecipeError

FAST = ["evaluation.latency_seconds=0.02", "evaluation.threads=1", "data.preprocessing=raw", "data.batch_size=16"]
LATER = [
    {"technique": "pruning", "final_sparsity": 0.5, "frequency": 1, "fit": {"epochs": 1}},
    {"technique": "quantization", "fit": {"epochs": 1}},
]
RECIPE = {
    "steps": [
        {
            "technique": "low_rank",
            "method": "tucker2",
            "target": {"parameters": 0.4},
            "per_layer": {"conv": 8, "hidden": 12},
            "multiple_of": 4,
            "fit": {"epochs": 1},
        },
        *LATER,
    ]
}


def network():
    """Two convolutions, the second of them 3x3 with BatchNormalization, and two Dense layers."""
    layers = kd.keras.layers
    inputs = layers.Input((6, 6, 4))
    x = layers.Conv2D(16, 1, activation="relu", name="first")(inputs)
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="conv")(x)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
    x = layers.Dense(48, activation="relu", name="hidden")(layers.Flatten(name="flatten")(x))
    return models._model(inputs, layers.Dense(models.CLASSES, name="out")(x), 0)


@pytest.fixture(scope="module")
def data():
    return models.inputs_for(network(), 60), np.arange(60) % models.CLASSES


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return compress(network(), data, RECIPE, out=tmp_path_factory.mktemp("low_rank") / "run", overrides=FAST)


def test_the_file_has_the_ranks_that_were_promised(run):
    promises = {p.weight: p for p in run.evidence.promises if p.kind == "channels"}
    assert list(promises) == ["conv_rank_in/kernel", "conv_rank/kernel", "hidden_rank/kernel"]
    assert all(p.kept and p.found == p.promised for p in promises.values())
    shapes = [tensor.shape for tensor in Flatbuffer(run.artifact.read_bytes()).tensors if tensor.data is not None]
    # As the file has them: outputs first.
    chain = [(8, 1, 1, 16), (8, 3, 3, 8), (32, 1, 1, 8), (12, 288), (48, 12)]
    assert all(shape in shapes for shape in chain)
    assert run.evidence.artifact.full_integer


def test_later_steps_promise_of_the_new_layers_too(run):
    zeros = {p.weight for p in run.evidence.promises if p.kind == "zeros"}
    assert {"conv_rank_in/kernel", "conv_rank/kernel", "conv/kernel", "hidden_rank/kernel", "hidden/kernel"} <= zeros
    assert all(p.kept for p in run.evidence.promises)


def test_the_file_is_smaller_than_without(run, data):
    whole = quantized_tflite(network(), "int8", ConversionSettings(), data[0][:4])
    assert run.evidence.artifact.bytes < 0.7 * len(whole)


def test_another_run_goes_on_from_the_new_layers(run, data):
    job = open_job(run.folder, data, {"steps": [{"technique": "post_training"}]}, overrides=FAST)
    assert {p.weight for p in job.state.promises} == {p.weight for p in run.evidence.promises}


def test_later_steps_are_checked_on_the_new_layers(data):
    steps = [RECIPE["steps"][0], {**LATER[0], "per_layer": {"conv_rank_in": 0.25}}, LATER[1]]
    open_job(network(), data, {"steps": steps}, overrides=FAST)
    with pytest.raises(RecipeError, match="No match for: conv_rank_in"):
        open_job(network(), data, {"steps": steps[1:]}, overrides=FAST)
