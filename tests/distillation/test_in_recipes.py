"""Distillation in whole runs: every kind of step, with the promises kept, and whose folder a run may use."""

import json

import numpy as np
import pytest
from fixtures import models

from tfcompress.pipeline import compress, train
from tfcompress.vocabulary.errors import RunFolderError

FAST = ["evaluation.latency_seconds=0.02", "evaluation.threads=1", "data.preprocessing=raw", "data.batch_size=16"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    for seed in (5, 6):
        models.conv_bn(seed=seed).save(folder / f"{seed}.keras")
    return folder


@pytest.fixture(scope="module")
def data():
    return models.inputs_for(models.conv_bn(), 60), np.arange(60) % models.CLASSES


def recipe(teacher):
    by_file, by_float = {"teacher": str(teacher)}, {"temperature": {"begin": 4, "end": 1}}
    pair = {"student": "relu_c1", "teacher": "relu_c1"}
    return {
        "steps": [
            {"technique": "pruning", "frequency": 1, "fit": {"epochs": 1, "distillation": by_file}},
            {"technique": "clustering", "clusters": 8, "fit": {"epochs": 1, "distillation": by_float}},
            {"technique": "fine_tuning", "fit": {"epochs": 1, "distillation": by_file | {"gradient_weight": 0.1}}},
            {"technique": "quantization", "fit": {"epochs": 1, "distillation": by_float | {"features": [pair]}}},
        ]
    }


def test_every_step_listens_and_keeps_the_promises_of_the_others(files, data, tmp_path):
    net = models.conv_bn()
    # With a BatchNormalization behind them shared values of convolutions stay so by channel alone.
    overrides = [*FAST, "clustering.layers=[out]"]
    result = compress(net, data, recipe(files / "5.keras"), overrides=overrides, out=tmp_path / "run")
    assert {p.kind for p in result.evidence.promises} == {"zeros", "distinct"}
    assert all(p.kept for p in result.evidence.promises)
    assert result.evidence.artifact.full_integer
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    parts = {
        name: set(records[0]) & {"soft_target_loss", "feature_loss", "gradient_loss"}
        for name, records in history.items()
    }
    soft = {"soft_target_loss"}
    assert parts == {
        "pruning": soft,
        "clustering": soft,
        "fine_tuning": soft | {"gradient_loss"},
        "quantization": soft | {"feature_loss"},
    }
    assert len(list((tmp_path / "run" / "teachers").iterdir())) == 2, "the file's outputs and the float model's"
    with pytest.raises(RunFolderError, match=r"teacher\[0\]\.model"):
        compress(net, data, recipe(files / "6.keras"), overrides=overrides, out=tmp_path / "run")


def test_the_training_of_a_model_listens_too(files, data, tmp_path):
    tree = {
        "train": {"epochs": 1, "distillation": {"teacher": str(files / "5.keras")}},
        "steps": [{"technique": "post_training"}],
    }
    train(models.conv_bn(), data, tree, overrides=FAST, out=tmp_path / "run")
    assert "soft_target_loss" in json.loads((tmp_path / "run" / "history.json").read_text())["train"][0]
