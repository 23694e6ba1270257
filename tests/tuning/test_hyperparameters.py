"""Holes are KerasTuner's hyperparameters under the same conditions, and nothing is lost on the way there and back."""

import numpy as np
import pytest
from fixtures.spaces import nested_space, optional_space, range_space, steps_space

from tfcompress.tuning._hyperparameters import from_values, to_hyperparameters, to_values
from tfcompress.tuning.space import load_space


@pytest.mark.parametrize("make", [steps_space, optional_space, nested_space, range_space])
def test_values_come_back_as_they_went(make):
    space, random = make(), np.random.default_rng(0)
    for _ in range(50):
        values = dict(space.canonical(space.sample(random)))
        there = to_values(space, values)
        assert all(type(value) in (int, float, bool, str) for value in there.values())
        assert from_values(space, there) == values


@pytest.mark.parametrize("make", [steps_space, optional_space, nested_space, range_space])
def test_whatever_keras_tuner_draws_fills_a_recipe(make):
    space = make()
    parameters = to_hyperparameters(space)
    for seed in range(100):
        for parameter in parameters.space:
            if parameters.is_active(parameter):
                parameters.values[parameter.name] = parameter.random_sample(seed)
                seed += 1000
            else:
                parameters.values.pop(parameter.name, None)
        values = from_values(space, parameters.values)
        assert set(values) == {hole.name for hole in space.active(values)}
        space.fill(values)


def test_every_value_of_a_range_with_a_step_can_be_drawn():
    space = load_space("prune_qat", ["pruning.final_sparsity={float: [0.3, 0.9], step: 0.1}"])
    (parameter,) = to_hyperparameters(space).space
    drawn = {from_values(space, {parameter.name: parameter.random_sample(seed)})[parameter.name] for seed in range(200)}
    assert drawn == {0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9}


def test_types_that_keras_tuner_cannot_mix_stay_apart():
    space = load_space("prune_qat", ["pruning.final_sparsity={choice: [0, 0.5, null, high]}"])
    (parameter,) = to_hyperparameters(space).space
    drawn = [from_values(space, {parameter.name: parameter.random_sample(seed)})[parameter.name] for seed in range(30)]
    assert set(drawn) == {0, 0.5, None, "high"}


def test_defaults_are_the_spaces():
    for make in (steps_space, optional_space, nested_space, range_space):
        space = make()
        parameters = to_hyperparameters(space)
        assert from_values(space, parameters.values) == dict(space.canonical(space.default()))


def test_names_that_are_no_holes_are_left_out():
    space = steps_space()
    there = to_values(space, space.default()) | {"tuner/epochs": 3}
    assert from_values(space, there) == space.default()
