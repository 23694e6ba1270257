"""What cannot be searched is refused, all at once, with its place."""

import contextlib

import pytest
from fixtures.spaces import layers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tfcompress.tuning.space import load_space
from tfcompress.vocabulary.errors import RecipeError


def refused(tree, overrides=(), asked=layers):
    with pytest.raises(RecipeError) as caught:
        load_space(tree, overrides, asked).check()
    return str(caught.value)


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
        "    per_layer: {conv*: {int: [0, 8]}}\n"
    )
    message = refused(path)
    for expected in (
        "line 6, steps.pruning.final_sparsity: must be less than 1. Received: 1.0 (pruning.final_sparsity=1.0)",
        "line 9, steps.quantization.weight_bits: must be less than or equal to 8. Received: 9 (quantization.weight",
        "line 10, steps.quantization.per_layer.conv*: must be greater than or equal to 1. Received: 0",
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
    without = {"technique": "fine_tuning", "per_layer": {"choice": [4, 8]}}
    assert "per_layer: unknown key" in refused({"steps": [without, {"technique": "post_training"}]})


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
