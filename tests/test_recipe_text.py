"""A recipe's text is read with its lines, and overridden wherever a step stands, without touching the source."""

import copy

import pytest

from tfcompress.recipe_text import overridden, parse_yaml, place, read_tree, shipped_texts
from tfcompress.vocabulary.errors import RecipeError

NESTED = {
    "steps": [
        {"maybe": {"technique": "pruning", "fit": {"epochs": 2}}},
        {"one_of": [{"technique": "quantization"}, {"technique": "post_training", "name": "plain"}]},
    ]
}


def test_overrides_reach_steps_inside_holes_and_leave_the_source_alone():
    before = copy.deepcopy(NESTED)
    changed = overridden(NESTED, ["pruning.fit.epochs=5", "plain.number_format=float16", "data.batch_size=8"], ["data"])
    assert changed["steps"][0]["maybe"]["fit"]["epochs"] == 5
    assert changed["steps"][1]["one_of"][1]["number_format"] == "float16"
    assert changed["steps"][1]["one_of"][0] == {"technique": "quantization"}
    assert changed["data"] == {"batch_size": 8}
    assert before == NESTED


def test_an_override_may_be_a_hole():
    changed = overridden(NESTED, ["pruning.final_sparsity={float: [0.3, 0.9]}", "pruning.depthwise={bool}"], [])
    step = changed["steps"][0]["maybe"]
    assert step["final_sparsity"] == {"float": [0.3, 0.9]}
    assert step["depthwise"] == {"bool": None}


def test_an_override_of_what_is_not_there_lists_the_steps_inside_holes():
    with pytest.raises(RecipeError, match=r"neither a step of the recipe \(pruning, quantization, plain\)"):
        overridden(NESTED, ["clustering.clusters=3"], ["data"])


def test_an_override_inside_a_plain_value_is_refused():
    with pytest.raises(RecipeError, match="technique holds the value 'pruning', which has no keys"):
        overridden(NESTED, ["pruning.technique.x=3"], [])


def test_lines_are_those_of_keys_and_items():
    _, lines = parse_yaml("here", "steps:\n  - technique: pruning\n    end: 1\n")
    assert lines == {("steps",): 1, ("steps", 0): 2, ("steps", 0, "technique"): 2, ("steps", 0, "end"): 3}
    assert place(lines, ("steps", 0, "fit", "epochs"), "steps.pruning.fit.epochs") == "line 2, steps.pruning.fit.epochs"
    assert place({}, ("steps",), "steps") == "steps"


def test_a_tree_has_no_lines_and_is_copied():
    origin, tree, lines = read_tree(NESTED, {})
    assert (origin, tree, lines) == ("the recipe", NESTED, {})
    assert tree is not NESTED


def test_a_file_is_named_after_itself(tmp_path):
    (tmp_path / "mine.yaml").write_text("steps: []\n")
    assert read_tree(tmp_path / "mine.yaml", {})[1]["name"] == "mine"
    assert read_tree("mine", {"mine": tmp_path / "mine.yaml"})[0] == "mine"


def test_recipes_and_spaces_do_not_share_names():
    assert not shipped_texts("recipes").keys() & shipped_texts("spaces").keys()
