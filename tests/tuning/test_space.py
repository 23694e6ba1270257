"""A space is every recipe that its holes can make: nothing twice, nothing that cannot run, nothing forgotten."""

import contextlib
import copy
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tfcompress.recipe import Recipe, load_recipe
from tfcompress.techniques.post_training import PostTraining
from tfcompress.techniques.pruning import Pruning
from tfcompress.tuning.space import draft, load_space, shipped_spaces
from tfcompress.vocabulary.errors import RecipeError

LAYERS = ("conv1", "conv2", "fc")


def layers(step):
    assert step.technique in ("pruning", "clustering", "quantization")
    return LAYERS


def refused(tree, overrides=(), asked=layers):
    with pytest.raises(RecipeError) as caught:
        load_space(tree, overrides, asked).check()
    return str(caught.value)


# Spaces drawn at random ------------------------------------------------------------------------------------------


def leaf(values):
    """A value out of `values`, or a hole over some of them."""
    some = st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True)
    return st.one_of(st.sampled_from(values), some.map(lambda chosen: {"choice": chosen}))


sparsity = st.one_of(
    leaf([0.0, 0.5, 0.9]),
    st.just({"float": [0.2, 0.8], "step": 0.3}),
    st.just({"float": [0.2, 0.8], "step": 0.3, "sampling": "log"}),
)
patience = leaf([2, 3, 4]).map(lambda value: {"patience": value})
fit = st.fixed_dictionaries(
    {"epochs": st.one_of(leaf([1, 2]), st.just({"int": [1, 3]}))},
    optional={
        "early_stopping": st.one_of(
            st.none(), patience, st.tuples(st.none(), patience).map(lambda pair: {"one_of": [*pair]})
        )
    },
)
pruning = st.fixed_dictionaries(
    {"technique": st.just("pruning"), "final_sparsity": sparsity, "fit": fit},
    optional={
        "begin": leaf([0.0, 0.3, 0.6]),
        "end": leaf([0.2, 0.5, 0.8]),
        "per_layer": st.fixed_dictionaries({}, optional={"conv*": leaf([0.1, 0.2]), "fc": leaf([0.3, 0.4])}),
        "depthwise": st.one_of(st.booleans(), st.just({"bool": None})),
    },
)
clustering = st.fixed_dictionaries(
    {"technique": st.just("clustering"), "clusters": leaf([2, 8, 16])}, optional={"per_layer": leaf([3, 4])}
).filter(lambda step: not isinstance(step.get("per_layer"), int))
quantization = st.fixed_dictionaries(
    {"technique": st.just("quantization"), "per_layer": st.just({"choice": [4, 8]})}, optional={"fit": fit}
)
post_training = st.fixed_dictionaries(
    {"technique": st.just("post_training")}, optional={"number_format": leaf(["int8", "int16x8", "float16"])}
)


def perhaps(step):
    there = st.sampled_from([{}, {"default": False}])
    return st.one_of(step, st.builds(lambda inner, default: {"maybe": inner, **default}, step, there))


last = st.one_of(
    quantization, post_training, st.tuples(quantization, post_training).map(lambda two: {"one_of": [*two]})
)
trees = st.builds(
    lambda chosen, end, others: {"steps": [*chosen, end], **others},
    st.tuples(perhaps(pruning), perhaps(clustering)).flatmap(
        lambda both: st.sampled_from([[], [both[0]], [both[1]], [*both]])
    ),
    last,
    st.fixed_dictionaries(
        {},
        optional={
            "data": leaf([16, 32]).map(lambda size: {"batch_size": size}),
            "conversion": st.just({"faster": {"bool": None}}),
        },
    ),
)


def space_of(tree):
    try:
        space = load_space(tree, layers=layers)
    except RecipeError as error:
        assume("no hole" not in str(error))
        raise
    assume(space.size <= 3000)
    return space


def text(tree):
    return json.dumps(tree, sort_keys=True)


def fillings(space):
    """Every combination of every hole's values, by brute force: parents are not looked at."""
    return [
        dict(zip([hole.name for hole in space.holes], values, strict=True))
        for values in itertools.product(*(hole.grid() for hole in space.holes))
    ]


@settings(max_examples=60, deadline=None)
@given(trees)
def test_every_recipe_of_a_checked_space_loads(tree):
    space = space_of(tree)
    try:
        space.check()
    except RecipeError:
        assume(False)
    for values in space.grid():
        load_recipe(space.fill(values))


@settings(max_examples=60, deadline=None)
@given(trees)
def test_the_grid_has_exactly_size_different_recipes_and_misses_none(tree):
    space = space_of(tree)
    grid = [space.fill(values) for values in space.grid()]
    assert len(grid) == len(set(map(text, grid))) == space.size
    combinations = fillings(space)
    assume(len(combinations) <= 3000)
    assert set(map(text, grid)) == {text(space.fill(values)) for values in combinations}


@settings(max_examples=60, deadline=None)
@given(trees, st.randoms(use_true_random=False))
def test_a_recipe_is_made_by_its_active_holes_alone(tree, random):
    space = space_of(tree)
    values = {hole.name: random.choice(hole.grid()) for hole in space.holes}
    active = {hole.name for hole in space.active(values)}
    others = {
        hole.name: values[hole.name] if hole.name in active else random.choice([*hole.grid(), "no value of this hole"])
        for hole in space.holes
    }
    only = {name: values[name] for name in active}
    assert space.fill(values) == space.fill(others) == space.fill(only)
    assert space.canonical(values) == space.canonical(others) == space.canonical(only)
    assert dict(space.canonical(values)) == only


@settings(max_examples=60, deadline=None)
@given(trees, st.randoms(use_true_random=False))
def test_canonical_values_are_equal_if_and_only_if_the_recipes_are(tree, random):
    space = space_of(tree)
    combinations = fillings(space)
    drawn = random.sample(combinations, min(40, len(combinations)))
    by_canonical = {(space.canonical(values), text(space.fill(values))) for values in drawn}
    assert len(by_canonical) == len({key for key, _ in by_canonical}) == len({recipe for _, recipe in by_canonical})


@settings(max_examples=60, deadline=None)
@given(trees, st.integers(0, 2**32))
def test_samples_and_defaults_fill_and_name_active_holes_only(tree, seed):
    space = space_of(tree)
    drawn = space.sample(np.random.default_rng(seed))
    assert drawn == space.sample(np.random.default_rng(seed))
    assert tuple(drawn.items()) == space.canonical(drawn)
    space.fill(space.default())
    assert space.default().keys() == {hole.name for hole in space.holes}
    seen = set()
    for hole in space.holes:
        assert hole.parent is None or hole.parent[0] in seen
        seen.add(hole.name)


# What holes become -----------------------------------------------------------------------------------------------


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


# Refusals --------------------------------------------------------------------------------------------------------


def test_everything_wrong_with_the_holes_is_said_at_once_with_its_line(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(
        "task: {loss: {choice: [a, b]}}\n"
        "steps:\n"
        "  - maybe:\n"
        "      technique: pruning\n"
        "      final_sparsity: {chioce: [0.3, 0.9]}\n"
        "      end: {float: [0.9, 0.3]}\n"
        "      frequency: {int: [1, 10], defualt: 2}\n"
        "  - technique: quantization\n"
        "    weight_bits: {choice: []}\n"
        "    low_bit_storage: {maybe: size}\n"
    )
    message = refused(path)
    assert "bad.yaml has holes that cannot be searched:" in message
    for expected in (
        "line 1, task.loss: a hole cannot stand here: trials that serve different tasks cannot be compared",
        "line 5, steps.pruning.final_sparsity: `chioce` is no kind of hole. Did you mean `choice`?",
        "line 6, steps.pruning.end: low must lie below high. Received: [0.9, 0.3]",
        "line 7, steps.pruning.frequency: unknown key `defualt` of a hole of kind int. Did you mean `default`?",
        "line 9, steps.quantization.weight_bits: choice must be a list of at least one value. Received: []",
        "line 10, steps.quantization.low_bit_storage: maybe stands in place of a step",
    ):
        assert expected in message


def test_everything_that_cannot_run_is_said_at_once_with_its_line_and_values(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(
        "steps:\n"
        "  - maybe:\n"
        "      technique: pruning\n"
        "      begin: {choice: [0.0, 0.1, 0.5]}\n"
        "      end: {choice: [0.3, 0.8, 0.9]}\n"
        "      final_sparsity: {float: [0.5, 1.0]}\n"
        "    default: false\n"
        "  - technique: quantization\n"
        "    weight_bits: {choice: [4, 9], default: 4}\n"
        "    per_layer: {conv*: {int: [1, 8]}}\n"
    )
    message = refused(path)
    for expected in (
        "line 6, steps.pruning.final_sparsity: must be less than 1. Received: 1.0 (pruning.final_sparsity=1.0)",
        "line 9, steps.quantization.weight_bits: must be less than or equal to 8. Received: 9 (quantization.weight",
        "line 10, steps.quantization.per_layer.conv*: must be greater than or equal to 2. Received: 1",
        "end must lie behind begin. Received: begin=0.5, end=0.3 (pruning.begin=0.5, pruning.end=0.3)",
    ):
        assert expected in message
    assert len(message.splitlines()) == 5


def test_lines_are_those_of_the_text_behind_absent_steps(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(
        "steps:\n"
        "  - {maybe: {technique: pruning}, default: false}\n"
        "  - one_of:\n"
        "    - technique: post_training\n"
        "    - technique: quantization\n"
        "      weight_bits: 9\n"
    )
    assert "line 6, steps.quantization.weight_bits: must be less than or equal to 8" in refused(path)


def test_a_mistake_beside_the_holes_is_said_once_and_without_values():
    tree = {
        "steps": [{"technique": "pruning", "ends": 1, "end": {"choice": [0.5, 0.6]}}, {"technique": "post_training"}]
    }
    assert refused(tree).splitlines()[1:] == ["  steps.pruning.ends: unknown key. Did you mean `end`?"]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ({"name": {"choice": ["a", "b"]}}, "name: a hole cannot stand here: it says which recipe this is"),
        ({"task": {"one_of": [{}, {"metric": "mse"}]}}, "task: a hole cannot stand here"),
        ({"data": {"calibration_samples": {"int": [100, 200]}}}, "of data, batch_size and augment may vary"),
        ({"data": {"one_of": [{}, {"batch_size": 3}]}}, "of data, batch_size and augment may vary"),
        ({"train": {"epochs": {"int": [1, 9]}}}, "all trials share one float network"),
        ({"evaluation": {"threads": {"int": [1, 2]}}}, "measured in different ways cannot be compared"),
        ({"conversion": {"input_type": {"choice": ["int8", "float32"]}}}, "for the application to say"),
        ({"steps": {"one_of": [[], []]}}, "stand in place of a single step"),
        ({"steps": [{"choice": [{"technique": "pruning"}]}]}, "in place of a step stand {maybe"),
        (
            {"steps": [{"technique": {"choice": ["pruning", "clustering"]}}]},
            "steps.0.technique: a hole cannot stand here",
        ),
        ({"steps": [{"technique": "pruning", "name": {"choice": ["a", "b"]}}]}, "step's holes are called by"),
        ({"steps": [{"maybe": {"maybe": {"technique": "pruning"}}}]}, "maybe takes one step, or one_of several"),
        ({"steps": [{"maybe": "pruning"}]}, "maybe takes one step, or one_of several. Received: pruning"),
        ({"steps": [{"mabye": {"technique": "pruning"}}]}, "`mabye` is no kind of hole. Did you mean `maybe`?"),
        ({"steps": [{"maybe": {"technique": "pruning"}, "defalt": 1}]}, "Did you mean `default`?"),
        ({"steps": [{"maybe": {"technique": "pruning"}, "default": 3}]}, "must be one of false, true. Received: 3"),
        ({"steps": [{"one_of": [{"technique": "pruning"}]}]}, "must be a list of at least two steps"),
        ({"steps": [{"one_of": [{"technique": "pruning"}, {"maybe": {}}]}]}, "must be a list of at least two steps"),
        ({"steps": [{"one_of": [{"technique": "pruning"}] * 2}]}, "needs a name of its own, alternatives included"),
        ({"data": {"augment": {"one_of": [{}]}}}, "must be a list of at least two alternatives"),
    ],
)
def test_a_hole_in_the_wrong_place_or_form_is_refused(place, expected):
    assert expected in refused({"steps": [{"technique": "post_training"}], **place})


@pytest.mark.parametrize(
    "alternatives",
    [
        [{"patience": 3}, {"patience": 3}],
        [{"patience": {"choice": [2, 3]}}, {"patience": 3}],
        [{"patience": {"choice": [2, 3]}}, {"patience": {"int": [3, 4]}}],
        [{"patience": {"float": [2, 3]}}, {"patience": {"float": [3, 4]}}],
        [{"one_of": [None, {"patience": 2}]}, None],
    ],
)
def test_alternatives_that_may_become_the_same_are_refused(alternatives):
    tree = {"steps": [{"technique": "quantization", "fit": {"early_stopping": {"one_of": alternatives}}}]}
    assert "Received: 0 and 1, which may become the same" in refused(tree)


@pytest.mark.parametrize("kind", ["uniform", "values"])
def test_a_mapping_that_was_meant_as_a_hole_is_told_what_holes_are(kind):
    tree = {"steps": [{"technique": "quantization", "weight_bits": {kind: [2, 8]}, "fit": {"epochs": {"int": [1, 2]}}}]}
    assert "holes are {choice: [2, 4, 8]}, {int: [low, high]}" in refused(tree)


def test_a_recipe_without_a_hole_is_sent_to_compress():
    message = refused("prune_qat")
    assert "prune_qat has no hole: there is nothing to search. Remedy: use tfcompress compress" in message


def test_a_hole_for_each_layer_needs_layers():
    holes = {"steps": [{"technique": "quantization", "per_layer": {"choice": [4, 8]}}]}
    assert "needs a model that says which layers there are" in refused(holes, asked=None)
    assert "quantization can work on none of this model" in refused(holes, asked=lambda step: [])
    wrong = {"steps": [{"technique": "quantization", "weight_bits": 9, "per_layer": {"choice": [4, 8]}}]}
    assert "must be right before its layers are known: weight_bits: must be less than" in refused(wrong)
    assert "per_layer: unknown key" in refused(
        {"steps": [{"technique": "post_training", "per_layer": {"choice": [4, 8]}}]}
    )


def test_values_that_are_missing_foreign_or_of_no_hole_are_refused_at_once():
    space = load_space("bits_and_sparsity", layers=layers)
    values = space.default() | {"pruning.end": 0.5, "pruning.bgin": 0.1}
    del values["pruning.schedule"]
    with pytest.raises(RecipeError) as caught:
        space.fill(values)
    for expected in (
        "pruning.schedule: a value is missing. It must be one of polynomial, constant",
        "pruning.end: must be one of 0.4, 0.6, 0.8. Received: 0.5",
        "pruning.bgin: there is no such hole. Did you mean pruning.begin?",
    ):
        assert expected in str(caught.value)


words = st.sampled_from(
    [
        "choice",
        "int",
        "float",
        "bool",
        "maybe",
        "one_of",
        "default",
        "step",
        "technique",
        "name",
        "fit",
        "epochs",
        "per_layer",
        "final_sparsity",
        "pruning",
        "quantization",
        "steps",
        "data",
        "augment",
        "chioce",
    ]
)
scalars = st.one_of(words, st.none(), st.booleans(), st.integers(-3, 9), st.floats())
anything = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3))
)
anywhere = st.fixed_dictionaries(
    {"technique": st.sampled_from(["pruning", "quantization"])},
    optional={"per_layer": anything, "fit": anything, "final_sparsity": anything, "weight_bits": anything},
)


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(
        st.dictionaries(words, anything),
        st.fixed_dictionaries({"steps": anything}),
        st.fixed_dictionaries({"steps": st.lists(st.one_of(anywhere, anything), max_size=3)}),
    )
)
def test_whatever_is_written_is_a_space_or_refused_with_words(tree):
    # Any other exception fails the test.
    with contextlib.suppress(RecipeError):
        space = load_space(tree, layers=layers)
        assume(len(space.holes) < 20)
        space.check()


def test_names_of_files_and_texts_that_cannot_be_read():
    assert "Did you mean bits_and_sparsity?" in refused("bits_and_sparsty")


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
