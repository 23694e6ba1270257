"""Recipes are strict, and say what is wrong, all of it, with its place."""

import subprocess
import sys

import pytest
import yaml

from tfcompress.recipe import Recipe, load_recipe, shipped
from tfcompress.techniques.base import techniques
from tfcompress.techniques.clustering import Clustering
from tfcompress.techniques.fine_tuning import FineTuning
from tfcompress.techniques.post_training import PostTraining
from tfcompress.techniques.pruning import Pruning
from tfcompress.techniques.quantization import Quantization
from tfcompress.vocabulary.errors import RecipeError


def refused(tree, overrides=()):
    with pytest.raises(RecipeError) as caught:
        load_recipe(tree, overrides)
    return str(caught.value)


def test_every_shipped_recipe_loads_and_describes_itself():
    assert {"demo", "ptq_int8", "prune_cluster_qat"} <= shipped().keys()
    for name in shipped():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.description


def test_a_recipe_written_to_a_file_loads_to_the_same_recipe(tmp_path):
    recipe = load_recipe("prune_cluster_qat", ["pruning.per_layer.fc1=0.95"])
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(recipe.plain()))
    assert load_recipe(path) == recipe


def test_yaml_and_python_speak_of_the_same_objects():
    typed = Recipe(steps=[Pruning(final_sparsity=0.8), Quantization(weight_bits=4)])
    tree = {"steps": [{"technique": "pruning", "final_sparsity": 0.8}, {"technique": "quantization", "weight_bits": 4}]}
    assert load_recipe(tree) == typed


def test_all_problems_are_named_at_once_with_line_rule_and_what_came(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(
        "steps:\n"
        "  - technique: pruning\n"
        "    final_sparcity: 0.9\n"
        "    end: 1.5\n"
        "  - technique: quantization\n"
        "    weight_bits: 9\n"
        "data: {batch_size: 0}\n"
        "conversion: {imput_type: int8}\n"
    )
    message = refused(path)
    assert "bad.yaml" in message
    for expected in (
        "line 3, steps.pruning.final_sparcity: unknown key. Did you mean `final_sparsity`?",
        "line 4, steps.pruning.end: must be less than or equal to 1. Received: 1.5",
        "line 6, steps.quantization.weight_bits: must be less than or equal to 8. Received: 9",
        "line 7, data.batch_size: must be greater than or equal to 1. Received: 0",
        "line 8, conversion.imput_type: unknown key. Did you mean `input_type`?",
    ):
        assert expected in message


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({"technique": "pruning", "final_sparsity": 1.5}, "final_sparsity: must be less than 1. Received: 1.5"),
        (
            {"technique": "prunning"},
            "must be one of adapters, blocks, channels, clustering, equalization, fine_tuning, low_rank, ",
        ),
        ({"final_sparsity": 0.5}, "must be one of"),
        ({"technique": "pruning", "begin": 0.8, "end": 0.4}, "end must lie behind begin"),
        ({"technique": "pruning", "n_of_m": [4, 4]}, "0 < zeros < group"),
        ({"technique": "pruning", "n_of_m": [2, 4], "block_size": [4, 4]}, "exclude one another"),
        ({"technique": "clustering", "clusters": 1}, "clusters: must be greater than or equal to 2"),
        ({"technique": "pruning", "final_sparsity": float("nan")}, "must be"),
    ],
)
def test_a_bad_step_is_refused(step, expected):
    assert expected in refused({"steps": [step, {"technique": "post_training"}]})


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([Quantization(), Pruning()], "pruning cannot follow quantization"),
        ([Clustering(), Pruning(), Quantization()], "pruning cannot follow clustering"),
        ([Pruning()], "exactly one step must choose the file's arithmetic"),
        ([Quantization(), PostTraining()], "exactly one step"),
        ([Pruning(), Pruning(), PostTraining()], "2 steps are called pruning"),
        ([Clustering(), PostTraining()], "post_training would break the promise of shared values"),
        ([Quantization(), FineTuning()], "fine_tuning cannot follow quantization"),
        ([PostTraining(), FineTuning()], "adapters, equalization, fine_tuning may stand anywhere before quantized"),
        ([FineTuning()], "exactly one step must choose the file's arithmetic"),
    ],
)
def test_steps_that_cannot_follow_one_another_are_refused(steps, expected):
    assert expected in refused({"steps": [step.model_dump() for step in steps]})


def test_two_steps_of_one_technique_need_names():
    recipe = Recipe(steps=[Pruning(name="first"), Pruning(name="second"), PostTraining()])
    assert [step.name for step in recipe.steps] == ["first", "second", "post_training"]


def test_fine_tuning_may_stand_anywhere_before_quantization_and_several_times():
    steps = [FineTuning(), Pruning(), FineTuning(name="again"), Clustering(), FineTuning(name="last"), Quantization()]
    assert [step.name for step in Recipe(steps=steps).steps][::2] == ["fine_tuning", "again", "last"]


@pytest.mark.parametrize(
    ("distillation", "expected"),
    [
        ({"temperature": 0}, "steps.first.fit.distillation.temperature: must be greater than 0. Received: 0"),
        ({"temperature": {"begin": 8, "end": -1}}, "distillation.temperature.end: must be greater than 0"),
        ({"temperature": {"begin": 8}}, "end: this key is required"),
        ({"weight": 1.5}, "distillation.weight: must be less than or equal to 1. Received: 1.5"),
        ({"gradient_weight": -1}, "distillation.gradient_weight: must be greater than or equal to 0"),
        ({"techer": "a.h5"}, "distillation.techer: unknown key. Did you mean `teacher`?"),
        ({"teacher": [{"modle": "a.h5"}]}, "distillation.teacher.0.modle: unknown key. Did you mean `model`?"),
        ({"teacher": {"model": "a.h5", "weight": 0}}, "distillation.teacher.weight: must be greater than 0"),
        ({"teacher": []}, "distillation.teacher: "),
        ({"features": [{"student": "a", "techer": "b"}]}, "Did you mean `teacher`?"),
        ({"weight": 0}, "a teacher must have something to teach"),
    ],
)
def test_a_distillation_out_of_range_or_misspelt_is_refused(distillation, expected):
    step = {"technique": "fine_tuning", "name": "first", "fit": {"distillation": distillation}}
    assert expected in refused({"steps": [step, {"technique": "post_training"}]})


def test_a_distillation_where_it_cannot_be_is_refused_all_at_once():
    pair = {"student": "a", "teacher": "b"}
    tree = {
        "train": {"distillation": {"temperature": 2}},
        "steps": [
            {"technique": "quantization", "fit": {"distillation": {"gradient_weight": 1, "features": [pair]}}},
        ],
        "conversion": {"faster": True},
    }
    message = refused(tree)
    assert "train.distillation.teacher: the float model is what is trained here" in message
    assert "quantization.fit.distillation.gradient_weight: the rounding" in message
    assert "quantization.fit.distillation.features: conversion.faster" in message


def test_a_recipe_with_a_distillation_is_the_same_when_written_and_read():
    teachers = ["large.h5", {"model": "official.tflite", "preprocessing": "raw", "weight": 2}]
    fit = {"distillation": {"teacher": teachers, "temperature": {"begin": 8, "end": 1}}}
    recipe = load_recipe({"steps": [{"technique": "quantization", "fit": fit}]})
    assert load_recipe(recipe.plain()) == recipe
    assert load_recipe(recipe, ["quantization.fit.distillation.temperature=2"]).steps[0].fit.distillation.weight == 0.9


def test_overrides_reach_steps_by_name_and_sections_and_leave_the_source_alone():
    tree = {"steps": [{"technique": "pruning", "name": "sparse"}, {"technique": "post_training"}]}
    recipe = load_recipe(
        tree, ["sparse.final_sparsity=0.9", "sparse.fit.epochs=7", "sparse.per_layer.fc1=0.3", "data.batch_size=64"]
    )
    step = recipe.steps[0]
    assert (step.final_sparsity, step.fit.epochs, step.per_layer) == (0.9, 7, {"fc1": 0.3})
    assert recipe.data.batch_size == 64
    assert tree == {"steps": [{"technique": "pruning", "name": "sparse"}, {"technique": "post_training"}]}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("pruning", "--set takes"),
        ("cluster.clusters=3", "neither a step of the recipe (post_training) nor a section"),
        ("data.batch_sise=3", "Did you mean `batch_size`?"),
        ("data.batch_size=[", "not valid YAML"),
    ],
)
def test_bad_overrides_are_refused(override, expected):
    assert expected in refused("ptq_int8", [override])


def test_missing_and_broken_files(tmp_path):
    assert "Did you mean ptq_int8?" in refused("ptq_in8")
    (tmp_path / "list.yaml").write_text("- a\n")
    assert "must hold a mapping" in refused(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("steps: [\n")
    assert "not valid YAML" in refused(tmp_path / "broken.yaml")
    (tmp_path / "empty.yaml").write_text("name: empty\n")
    assert "steps: this key is required" in refused(tmp_path / "empty.yaml")


HOLES = [
    {"technique": "pruning", "final_sparsity": {"float": [0.3, 0.9]}},
    {"technique": "pruning", "schedule": {"choice": ["constant", "polynomial"]}},
    {"technique": {"choice": ["pruning", "clustering"]}},
    {"maybe": {"technique": "pruning"}},
]


@pytest.mark.parametrize("step", HOLES)
def test_a_recipe_with_holes_is_sent_to_the_search(step):
    assert "found by tfcompress search" in refused({"steps": [step]})


def test_a_shipped_space_is_sent_to_the_search_unless_a_file_has_its_name(tmp_path, monkeypatch):
    assert "tfcompress search --recipe=bits_and_sparsity" in refused("bits_and_sparsity")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bits_and_sparsity").write_text("steps: [{technique: post_training}]\n")
    assert load_recipe("bits_and_sparsity").steps[0].technique == "post_training"


def test_wrong_values_that_are_no_holes_are_not():
    assert "search" not in refused({"steps": [{"technique": "pruning", "final_sparsity": "high"}]})


def test_python_objects_appear_by_name_in_the_plain_form():
    def ramp(done):
        return 0.5 * done

    recipe = Recipe(steps=[Pruning(schedule=ramp), PostTraining()])
    assert "ramp" in recipe.plain()["steps"][0]["schedule"]


def test_techniques_are_found_in_their_folder():
    graph, shared = {"blocks", "channels", "low_rank", "rewriting"}, {"clustering", "product_quantization"}
    anywhere = {"adapters", "equalization", "fine_tuning"}
    assert {*graph, *shared, *anywhere, "pruning", "quantization", "post_training"} == set(techniques())


def test_recipes_need_no_tensorflow():
    code = (
        "import sys, tfcompress, tfcompress.recipe as r; r.load_recipe('demo');"
        "sys.exit(any(m in sys.modules for m in ('tensorflow', 'tf_keras', 'tensorflow_datasets', 'sklearn')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_a_whole_step_breaks_is_told_at_the_step():
    step = {"technique": "channels", "remove": 0.5, "target": {"macs": 0.5}}
    with pytest.raises(RecipeError, match=r"\bsteps\.channels: remove and target"):
        load_recipe({"name": "two", "steps": [step]})
