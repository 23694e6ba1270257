"""The MLPerf Tiny experiment: its recipes fit the network, and its table says what was measured; nothing is trained."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from tfcompress.preparation import open_job
from tfcompress.recipe import load_recipe

FOLDER = Path(__file__).parent.parent / "experiments" / "mlperf_tiny_ic"
MODELS = Path(__file__).parents[2] / "shared" / "models" / "mlperf_tiny_ic"


@pytest.fixture(scope="module")
def table():
    spec = importlib.util.spec_from_file_location("mlperf_tiny_ic_table", FOLDER / "table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(table):
    def make(recipe="fast", seed=0, **changes):
        measured = {
            "accuracy": 0.88,
            "standard_error": 0.0103,
            "official_accuracy": 0.878,
            "difference_points": 0.2,
            "interval_points": 1.4,
            "images": 1000,
            "bytes": 60_000,
            "deflated_bytes": 50_000,
            "latency_ratio": 0.39,
            "kept": True,
        }
        return table.Run(recipe=recipe, seed=seed, **measured | changes)

    return make


def test_the_difference_is_of_the_same_images(table):
    rng = np.random.default_rng(0)
    official = rng.random(1000) < 0.88
    right = official.copy()
    right[:20] = ~right[:20]
    difference, interval = table.paired(right, official)
    gained, lost = (right & ~official).sum(), (official & ~right).sum()
    assert difference == pytest.approx((gained - lost) / 10)
    # McNemar's standard error of a difference of paired shares.
    error = np.sqrt((gained + lost) / 1000 - (difference / 100) ** 2) / np.sqrt(1000)
    assert interval == pytest.approx(1.96 * 100 * error, rel=1e-3)


def test_finished_runs_are_found_again(table, run, tmp_path):
    path = tmp_path / "result.json"
    assert table.read(path) == {}
    runs = {("small", 0): run("small"), ("fast", 1): run(seed=1)}
    table.write(path, runs)
    assert table.read(path) == runs


def test_the_table_gives_the_median_of_several_seeds_and_what_misses_its_goal(table, run):
    runs = [run(seed=2, accuracy=0.87, latency_ratio=0.41), run(seed=0), run(seed=1, accuracy=0.881), run("smallest")]
    lines = table.text(runs).splitlines()[2:]
    assert [line.split(" | ")[1] for line in lines] == ["0", "1", "2", "median of 3", "0"]
    assert lines[2].endswith("| accuracy under 87.8%, more than 0.40x |")
    assert lines[3] == "| fast | median of 3 | 88.0% | +0.2 | 60,000 | 50,000 | 0.39x | met |"
    assert lines[4].endswith("| more than 45,000 bytes |")


def test_every_recipe_is_in_the_table_of_goals(table):
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(table.GOALS)
    for name in table.GOALS:
        assert load_recipe(FOLDER / f"{name}.yaml").steps[-1].technique == "post_training"


@pytest.mark.skipif(not MODELS.exists(), reason="the benchmark's networks are not there")
@pytest.mark.parametrize("name", ["fast", "small", "smallest"])
def test_the_recipe_can_be_carried_out_on_the_network(name):
    images = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), np.uint8)
    teacher = f"taught.fit.distillation.teacher={MODELS / 'pretrainedResnet_large_float.tflite'}"
    data = images, np.arange(200) % 10
    job = open_job(MODELS / "pretrainedResnet.h5", data, FOLDER / f"{name}.yaml", overrides=[teacher])
    assert [step.name for step in job.recipe.steps][-2:] == ["taught", "post_training"]
