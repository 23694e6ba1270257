"""The plan of a run: the bytes of the file that it would ship."""

import re

import numpy as np
import pytest
from fixtures import models

from tfcompress.dry_run import dry_run
from tfcompress.pipeline import compress
from tfcompress.recipe import load_recipe

FAST = ["evaluation.latency_seconds=0.02", "evaluation.threads=1"]


def planned_bytes(*arguments):
    return int(re.search(r"File: about ([\d,]+) bytes\.", dry_run(*arguments))[1].replace(",", ""))


@pytest.mark.parametrize("storage", ["size", "speed"])
def test_the_bytes_are_those_of_the_file_that_ships(tmp_path, storage):
    net = models.conv_bn()
    data = models.inputs_for(net, 60), np.arange(60) % models.CLASSES
    quantization = {"technique": "quantization", "weight_bits": 4, "low_bit_storage": storage}
    pruning = {"technique": "pruning", "final_sparsity": 0.5, "frequency": 1, "fit": {"epochs": 1}}
    recipe = load_recipe({"name": "low", "steps": [pruning, {**quantization, "fit": {"epochs": 0}}]}, FAST)
    shipped = compress(net, data, recipe, out=tmp_path / "run").evidence.artifact.bytes
    assert planned_bytes(net, data, recipe) == pytest.approx(shipped, rel=0.01)
    if storage == "size":
        eight = load_recipe({"steps": [{"technique": "post_training"}]}, FAST)
        assert planned_bytes(net, data, recipe) < planned_bytes(net, data, eight) - 300, "8 x 8 x 9 weights, halved"
