"""The importance of holes where it is known what decides."""

import numpy as np
import pytest
from fixtures.spaces import optional_space, range_space

from tfcompress.tuning.importance import importance


def drawn(space, count=40):
    random = np.random.default_rng(0)
    return [space.sample(random) for _ in range(count)]


def test_the_hole_that_decides_has_all_the_importance():
    space = range_space()
    recipes = drawn(space)
    found = importance(space.holes, recipes, [2.0 * values["quantization.weight_bits"] for values in recipes])
    others = [share for name, share in found.by_hole.items() if name != "quantization.weight_bits"]
    # Two independent draws of a value differ in square by twice its variance.
    assert found.by_hole["quantization.weight_bits"] == pytest.approx(2, abs=0.7)
    assert max(map(abs, others)) < 0.15
    assert found.explained > 0.8


def test_holes_that_a_trial_does_not_have_are_no_obstacle():
    space = optional_space()
    recipes = drawn(space)
    found = importance(space.holes, recipes, [float("pruning.schedule" in values) for values in recipes])
    assert found.explained > 0.9
    assert set(found.by_hole) == {hole.name for hole in space.holes}


def test_noise_is_not_explained():
    space = range_space()
    recipes = drawn(space)
    found = importance(space.holes, recipes, np.random.default_rng(1).normal(size=len(recipes)))
    assert found.explained < 0.3


def test_too_few_trials_and_equal_ones_say_nothing():
    space = range_space()
    recipes = drawn(space, 12)
    assert importance(space.holes, recipes[:9], range(9)) is None
    assert importance(space.holes, recipes, [1.0] * 12) is None
    assert importance(space.holes, recipes, range(12)) == importance(space.holes, recipes, range(12))
