"""What holds of every space, of spaces drawn at random."""

import itertools
import json

import numpy as np
from fixtures.spaces import layers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tfcompress.recipe import load_recipe
from tfcompress.tuning.space import load_space
from tfcompress.vocabulary.errors import RecipeError


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
