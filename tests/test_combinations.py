"""Recipes that combine techniques: each runs to its file on little data, and the table has what was measured."""

import functools
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fixtures.text_and_audio import TinyNews

from tfcompress import keras_door as kd
from tfcompress.pipeline import compress
from tfcompress.preparation import open_job
from tfcompress.recipe import load_recipe

FOLDER = Path(__file__).parent.parent / "experiments" / "combinations"
FAST = ["evaluation.latency_seconds=0.01", "evaluation.threads=1", "data.batch_size=32", "data.calibration_samples=16"]


def images(side, channels):
    return np.random.default_rng(0).integers(0, 256, (40, side, side, channels), np.uint8), np.arange(40) % 4


def small():
    """Two convolutions and two Dense layers, for recipes that name no layers."""
    layers = kd.keras.layers
    kd.keras.utils.set_random_seed(0)
    x = inputs = kd.keras.Input((8, 8, 3))
    for filters in (32, 48):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
    x = layers.Dense(32, activation="relu")(layers.Flatten()(layers.MaxPooling2D(2)(x)))
    return kd.keras.Model(inputs, layers.Dense(4, activation="softmax")(x))


TINY = {
    "lenet5_prune_share_quantize": ("lenet5", images(16, 1), {"zeros", "distinct"}),
    "lenet5_vector_quantized": ("lenet5", images(20, 1), {"codewords"}),
    "mlp_low_rank_prune_distil_int8": ("lenet300", images(8, 1), {"channels", "zeros"}),
    "resnet8_channels_distil_qat": (small, images(8, 3), {"channels"}),
    "vgg16_prune_int8": (small, images(8, 3), {"zeros"}),
    "transformer_distil_low_rank_int8": ("transformer_text:width=32,embedding=8", "tiny_news", {"channels"}),
}
"""What a recipe is run on here, and the kinds of promise that its file must keep."""

RUN_ELSEWHERE = ("lenet5_prune_share_quantize", "lenet5_vector_quantized")
"""Recipes whose steps follow one another in tests of their techniques too."""

MEASURED = {
    "recipe": "vgg16_prune_int8",
    "model": "vgg16:width=0.25",
    "dataset": "cifar10",
    "steps": ["pruning", "quantization"],
    "seed": 0,
    "samples": 1000,
    "float_accuracy": 0.875,
    "accuracy": 0.8725,
    "standard_error": 0.0105,
    "float_bytes": 4_000_000,
    "bytes": 1_000_000,
    "deflated_bytes": 600_000,
    "speedup": 2.5,
    "full_integer": True,
    "promises": {"zeros": 15},
    "kept": 15,
}
NOT_AS_PROMISED = {"full_integer": False, "promises": {"zeros": 15, "channels": 2}, "kept": 14}

STAND_IN = """
import pathlib, runpy, sys, types
from tfcompress import pipeline
from tfcompress.vocabulary.evidence import Evidence

evidence = Evidence.model_validate_json(sys.stdin.read())

def compress(model, data, recipe, *, data_dir, seed, out, reporter):
    print(model, data, recipe.name, data_dir, seed, out.name, file=sys.stderr)
    return types.SimpleNamespace(evidence=evidence)

pipeline.compress = compress
del sys.argv[0]
sys.path.insert(0, str(pathlib.Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script with another function in the place of `compress`, which gives the evidence on standard input."""


@pytest.fixture(scope="module")
def combinations():
    spec = importlib.util.spec_from_file_location("combinations", FOLDER / "combinations.py")
    # A dataclass asks for its module by name.
    module = sys.modules["combinations"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["combinations"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    TinyNews(data_dir=folder).download_and_prepare()
    return folder


@pytest.fixture(scope="module")
def compressed(combinations, data_dir, tmp_path_factory):
    """Runs a recipe on what `TINY` says, once: its evidence and its folder."""

    @functools.cache
    def run(name):
        model, data, _ = TINY[name]
        recipe, folder = load_recipe(combinations.COMBINATIONS[name].path), tmp_path_factory.mktemp(name) / "run"
        overrides = [*FAST, "train.epochs=0", *(f"{step.name}.fit.epochs=1" for step in recipe.steps if step.trains)]
        overrides += ["data.text.length=10"] if data == "tiny_news" else ["data.preprocessing=unit"]
        model = model() if callable(model) else model
        return compress(model, data, recipe, overrides=overrides, data_dir=data_dir, out=folder).evidence, folder

    return run


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in RUN_ELSEWHERE else []) for name in TINY]
)
def test_each_recipe_runs_to_a_file_that_keeps_its_promises(name, combinations, compressed):
    evidence, folder = compressed(name)
    steps = load_recipe(combinations.COMBINATIONS[name].path).steps
    assert evidence.artifact.full_integer
    assert {promise.kind for promise in evidence.promises} == TINY[name][2]
    assert all(promise.kept for promise in evidence.promises)
    history = json.loads((folder / "history.json").read_text())
    taught = {step for step, records in history.items() if any("soft_target_loss" in record for record in records)}
    assert taught == {step.name for step in steps if step.fit.distillation}
    line = combinations.measured(name, evidence)
    assert (line.kept, line.steps) == (sum(line.promises.values()), tuple(step.name for step in steps))
    assert line.bytes == (folder / "model.tflite").stat().st_size


@pytest.mark.parametrize("name", ["channels_distil_qat", "low_rank_distil_qat"])
def test_those_that_ship_can_be_carried_out_on_any_model(name):
    job = open_job(small(), images(8, 3), name, overrides=["data.preprocessing=unit"])
    assert all(step.fit.distillation.teacher[0].is_float for step in job.recipe.steps)
    step = job.recipe.steps[0]
    assert step.foreseen(job.state).model.count_params() < 0.8 * job.state.model.count_params()


@pytest.mark.parametrize("name", RUN_ELSEWHERE)
def test_those_that_are_run_elsewhere_fit_their_network(name, combinations):
    model, data, _ = TINY[name]
    assert open_job(model, data, combinations.COMBINATIONS[name].path).from_zoo


def test_all_recipes_are_in_the_table_and_in_readme(combinations):
    assert list(TINY) == list(combinations.COMBINATIONS)
    listed = {combination.path for combination in combinations.COMBINATIONS.values()}
    assert set(FOLDER.glob("*.yaml")) <= listed
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in combinations.COMBINATIONS)


def test_results_are_read_as_they_were_written_in_the_order_of_the_recipes(combinations, tmp_path):
    path = tmp_path / "result.json"
    assert combinations.read(path) == {}
    lines = {
        name: combinations.Line.model_validate(MEASURED | {"recipe": name})
        for name in reversed(combinations.COMBINATIONS)
    }
    combinations.write(path, lines)
    assert combinations.read(path) == lines
    assert [line["recipe"] for line in json.loads(path.read_text())] == list(combinations.COMBINATIONS)


def test_the_table_has_a_row_for_each_line(combinations):
    line = combinations.Line.model_validate(MEASURED)
    broken = combinations.Line.model_validate(MEASURED | {"recipe": "resnet8_channels_distil_qat"} | NOT_AS_PROMISED)
    header, dashes, *rows = combinations.table({line.recipe: line, broken.recipe: broken}).splitlines()
    assert header.count("|") == dashes.count("|") == rows[0].count("|")
    assert rows == [
        "| resnet8_channels_distil_qat | vgg16:width=0.25, cifar10 | pruning → quantization | 87.50% "
        "| 87.25% (1.05), not full-integer | 4,000,000 | 1,000,000 | 600,000 | 4.00x | 2.50x "
        "| 14 of 17 (15 zeros, 2 channels) |",
        "| vgg16_prune_int8 | vgg16:width=0.25, cifar10 | pruning → quantization | 87.50% | 87.25% (1.05) "
        "| 4,000,000 | 1,000,000 | 600,000 | 4.00x | 2.50x | 15 of 15 (15 zeros) |",
    ]


def test_the_command_adds_its_line_to_the_others(combinations, compressed, tmp_path):
    name = "mlp_low_rank_prune_distil_int8"
    evidence, _ = compressed(name)
    combinations.write(tmp_path / "result.json", {"vgg16_prune_int8": combinations.Line.model_validate(MEASURED)})
    arguments = [f"--recipe={name}", f"--out={tmp_path / 'result'}", "--work=W", "--data_dir=D", "--seed=3"]
    done = subprocess.run(
        [sys.executable, "-c", STAND_IN, FOLDER / "run.py", *arguments],
        input=evidence.model_dump_json(),
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.split() == ["lenet300", "mnist", f"{name}.yaml", "D", "3", f"{name}-3"]
    lines = combinations.read(tmp_path / "result.json")
    assert set(lines) == {name, "vgg16_prune_int8"}
    assert lines[name] == combinations.measured(name, evidence)
    assert (tmp_path / "result.md").read_text(encoding="utf-8") == done.stdout == combinations.table(lines)


def test_what_was_measured_is_of_the_recipes_as_they_are(combinations):
    lines = combinations.read(FOLDER / "result.json")
    for name, line in lines.items():
        combination = combinations.COMBINATIONS[name]
        steps = tuple(step.name for step in load_recipe(combination.path).steps)
        assert (line.model, line.dataset, line.steps) == (combination.model, combination.dataset, steps)
    if lines:
        assert (FOLDER / "result.md").read_text(encoding="utf-8") == combinations.table(lines)
