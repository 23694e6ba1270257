"""What the holes of a recipe become: the space of a search."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from fixtures.spaces import LAYERS, layers

from tfcompress.recipe import Recipe, load_recipe
from tfcompress.techniques.post_training import PostTraining
from tfcompress.techniques.pruning import Pruning
from tfcompress.tuning.space import draft, load_space, shipped_spaces
from tfcompress.vocabulary.errors import RecipeError


def test_one_hole_for_each_layer_and_one_for_a_group():
    asked = []

    def ask(step):
        asked.append(step)
        return ["conv1", "odd[0]"]

    tree = {
        "steps": [
            {"technique": "pruning", "layers": ["conv*"], "per_layer": {"stage1_*": {"choice": [0.5, 0.9]}}},
            {
                "technique": "quantization",
                "weight_bits": {"choice": [4, 8]},
                "per_layer": {"choice": [2, 4, 8], "default": 8},
                "low_bit_storage": "size",
            },
        ]
    }
    space = load_space(tree, layers=ask)
    assert [hole.name for hole in space.holes] == [
        "pruning.per_layer.stage1_*",
        "quantization.weight_bits",
        "quantization.per_layer.conv1",
        "quantization.per_layer.odd[0]",
    ]
    steps = space.fill({**space.default(), "quantization.per_layer.conv1": 2})["steps"]
    assert steps[0]["per_layer"] == {"stage1_*": 0.9}
    assert steps[1]["per_layer"] == {"conv1": 2, "odd[[]0]": 8}
    assert list(steps[1]) == ["technique", "weight_bits", "per_layer", "low_bit_storage"]
    ((step,), storage) = asked, asked[0].low_bit_storage
    assert (step.weight_bits, storage, step.per_layer) == (8, "size", {})


def test_a_step_that_may_be_absent_and_its_holes_under_it():
    tree = {
        "steps": [
            {"maybe": {"technique": "pruning", "final_sparsity": {"choice": [0.5, 0.9]}}},
            {"technique": "post_training"},
        ]
    }
    space = load_space(tree)
    there, sparsity = space.holes
    assert (there.name, there.kind, there.default) == ("pruning?", "bool", True)
    assert (sparsity.name, sparsity.parent) == ("pruning.final_sparsity", ("pruning?", True))
    assert space.fill({"pruning?": False}) == {"steps": [{"technique": "post_training"}]}
    assert [hole.name for hole in space.active({"pruning?": False, "pruning.final_sparsity": 0.5})] == ["pruning?"]
    assert space.active({}) == (there,)
    assert list(space.grid()) == [
        {"pruning?": False},
        {"pruning?": True, "pruning.final_sparsity": 0.5},
        {"pruning?": True, "pruning.final_sparsity": 0.9},
    ]


def test_alternatives_of_steps_go_by_name_and_those_of_values_by_number():
    tree = {
        "steps": [
            {
                "maybe": {
                    "one_of": [
                        {"technique": "pruning", "fit": {"early_stopping": {"one_of": [None, {"patience": 3}]}}},
                        {"technique": "pruning", "name": "two_of_four", "n_of_m": [2, 4]},
                    ],
                    "default": "two_of_four",
                },
                "default": False,
            },
            {"technique": "post_training"},
        ]
    }
    space = load_space(tree)
    assert [(hole.name, hole.values, hole.default, hole.parent) for hole in space.holes] == [
        ("pruning|two_of_four?", (False, True), False, None),
        ("pruning|two_of_four", ("pruning", "two_of_four"), "two_of_four", ("pruning|two_of_four?", True)),
        ("pruning.fit.early_stopping", (0, 1), 0, ("pruning|two_of_four", "pruning")),
    ]
    space.check()
    assert space.size == 4
    values = {"pruning|two_of_four?": True, "pruning|two_of_four": "pruning", "pruning.fit.early_stopping": 1}
    assert space.fill(values)["steps"][0] == {"technique": "pruning", "fit": {"early_stopping": {"patience": 3}}}


def test_holes_stand_in_the_data_and_the_conversion_where_those_may_vary():
    space = load_space(
        {
            "data": {"batch_size": {"choice": [32, 64]}, "augment": {"one_of": [{}, {"crop": {"int": [1, 3]}}]}},
            "conversion": {"faster": {"bool": None}},
            "steps": [{"technique": "post_training"}],
        }
    )
    space.check()
    assert [hole.name for hole in space.holes] == [
        "data.batch_size",
        "data.augment",
        "data.augment.1.crop",
        "conversion.faster",
    ]
    assert space.size == 2 * (1 + 3) * 2


def test_overrides_fill_holes_and_make_them():
    space = load_space(
        "prune_qat", ["pruning.final_sparsity={float: [0.3, 0.9]}", "quantization.per_layer={choice: [4, 8]}"], layers
    )
    assert [hole.name for hole in space.holes] == [
        "pruning.final_sparsity",
        *(f"quantization.per_layer.{layer}" for layer in LAYERS),
    ]
    assert space.size is None
    with pytest.raises(RecipeError, match=r"ranges without a step in pruning\.final_sparsity"):
        space.grid()
    fixed = load_space("bits_and_sparsity", ["pruning.final_sparsity=0.8"], layers)
    assert "pruning.final_sparsity" not in [hole.name for hole in fixed.holes]
    assert fixed.fill(fixed.default())["steps"][0]["final_sparsity"] == 0.8


def test_typed_steps_and_recipes_may_get_holes():
    steps = [Pruning(final_sparsity=0.8), PostTraining()]
    opened = ["pruning.final_sparsity={choice: [0.5, 0.6]}"]
    assert load_space(Recipe(steps=steps), opened).size == 2
    space = load_space({"steps": [*steps], "data": {"batch_size": {"choice": [8, 16]}}})
    assert load_recipe(space.fill(space.default())) == Recipe(steps=steps, data={"batch_size": 16})
    maybe = {"steps": [{"maybe": steps[0]}, steps[1]]}
    assert load_space(maybe).fill({"pruning?": False})["steps"][0]["technique"] == "post_training"
    assert load_space(maybe).identity() == load_space(maybe).identity()


def test_the_source_is_left_alone_and_filled_trees_are_new():
    tree = {
        "steps": [
            {"technique": "pruning", "layers": ["fc"], "end": {"choice": [0.5, 0.6]}},
            {"technique": "post_training"},
        ]
    }
    before = copy.deepcopy(tree)
    space = load_space(tree)
    space.fill(space.default())["steps"][0]["layers"].append("conv")
    assert space.fill(space.default())["steps"][0]["layers"] == ["fc"]
    assert tree == before


def test_a_filled_recipe_written_to_a_file_runs_alone(tmp_path):
    space = load_space("bits_and_sparsity", layers=layers)
    path = tmp_path / "trial.yaml"
    for seed in range(20):
        tree = space.fill(space.sample(np.random.default_rng(seed)))
        path.write_text(yaml.safe_dump(tree))
        assert load_recipe(path) == load_recipe(tree)


def test_identity_is_plain_and_tells_spaces_apart_but_not_by_what_they_are_called():
    tree = {
        "name": "a",
        "steps": [{"technique": "pruning", "end": {"choice": [0.5, 0.6]}}, {"technique": "post_training"}],
    }
    identity = load_space(tree).identity()
    assert json.loads(json.dumps(identity)) == identity
    assert load_space({**tree, "name": "b", "description": "else"}).identity() == identity
    for change in ("pruning.end={choice: [0.5, 0.7]}", "pruning.power=2", "pruning.end={float: [0.5, 0.6]}"):
        assert load_space(tree, [change]).identity() != identity
    per_layer = ["quantization.per_layer={choice: [4, 8]}"]
    one, other = (load_space("int8_qat", per_layer, lambda _, names=names: names) for names in (["a"], ["a", "b"]))
    assert one.identity() != other.identity()


@pytest.mark.parametrize("name", shipped_spaces())
def test_every_shipped_space_is_sound_and_describes_itself(name):
    space = load_space(name, layers=layers)
    space.check()
    assert space.template["name"] == name
    assert space.template["description"]
    load_recipe(space.fill(space.default()))


def test_bits_and_sparsity_varies_each_layers_bits_and_the_schedule():
    space = load_space("bits_and_sparsity", layers=layers)
    bits = {hole.name: hole.values for hole in space.holes if hole.name.startswith("quantization")}
    assert bits == {f"quantization.per_layer.{layer}": (2, 3, 4, 8) for layer in LAYERS}
    varied = {hole.name.partition(".")[2] for hole in space.holes if hole.name.startswith("pruning")}
    assert varied == {"final_sparsity", "schedule", "begin", "end", "frequency"}


def test_spaces_need_no_tensorflow_and_no_tuner():
    code = (
        "import sys, tfcompress.tuning.space as s;"
        "s.load_space('bits_and_sparsity', layers=lambda step: ['a']).check();"
        "sys.exit(any(m in sys.modules for m in ('tensorflow', 'tf_keras', 'keras', 'keras_tuner', 'sklearn')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_draft_has_the_defaults_and_leaves_out_what_only_the_model_knows():
    drafted = draft("bits_and_sparsity", ["pruning.final_sparsity={float: [0.2, 0.8]}"])
    pruning, quantization = drafted["steps"]
    assert pruning["final_sparsity"] == 0.5
    assert quantization["per_layer"] == {}
    load_recipe(drafted)


def test_a_distillation_may_have_holes_like_any_other_value():
    distillation = {
        "teacher": {"choice": ["float", "large.h5"]},
        "temperature": {"one_of": [4, {"begin": 8, "end": {"choice": [1, 2]}}]},
        "weight": {"float": [0.1, 0.9]},
    }
    tree = {"steps": [{"technique": "quantization", "fit": {"distillation": distillation}}]}
    space = load_space(tree)
    named = {hole.name.rpartition("distillation.")[2] for hole in space.holes}
    assert {"teacher", "temperature", "weight"} <= named
    assert len(named) == 4
    for seed in range(5):
        recipe = load_recipe(space.fill(space.sample(np.random.default_rng(seed))))
        assert 0.1 <= recipe.steps[0].fit.distillation.weight <= 0.9
