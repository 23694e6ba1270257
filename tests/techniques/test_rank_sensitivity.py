"""Ranks by sensitivity: a worked example, errors measured again on the factored model, and the target met."""

import numpy as np
import pytest
from fixtures import models
from pydantic import ValidationError

from tfcompress import keras_door as kd
from tfcompress.models.channels import macs
from tfcompress.techniques._factorable import Choice, factorables
from tfcompress.techniques._factored_layers import factored
from tfcompress.techniques._rank_sensitivity import greedy, measured_steps
from tfcompress.techniques.low_rank import LowRank
from tfcompress.vocabulary.state import State


def choice(rank):
    return Choice("svd", (rank,))


def test_the_least_error_for_the_gain_comes_first():
    """Of a 0.1 / 50, then 0.3 / 40 = 0.0075; of b 0.2 / 20 = 0.01, and at once to its second 0.4 / 80 = 0.005."""
    steps = {
        "a": [(0.1, 50, choice(8)), (0.4, 10, choice(4))],
        "b": [(0.2, 80, choice(8)), (0.4, 20, choice(4))],
    }
    whole = {"a": 100, "b": 100}
    costs = {("a", 8): 50, ("a", 4): 10, ("b", 8): 80, ("b", 4): 20}

    def within(bound):
        def met(chosen):
            saved = sum(whole[name] - costs[name, own.ranks[0]] for name, own in chosen.items())
            return 200 - saved <= bound

        return met

    assert greedy(whole, steps, within(200)) == {}
    assert greedy(whole, steps, within(150)) == {"a": choice(8)}
    assert greedy(whole, steps, within(149)) == {"a": choice(8), "b": choice(4)}
    assert greedy(whole, steps, within(30)) == {"a": choice(4), "b": choice(4)}
    # All that there is, where even that is not enough.
    assert greedy(whole, steps, within(0)) == {"a": choice(4), "b": choice(4)}


@pytest.fixture(scope="module")
def model():
    """The first kernel has four directions, and can be factored for nothing."""
    layers = kd.keras.layers
    inputs = layers.Input((6, 6, 8))
    x = layers.Conv2D(12, 3, activation="relu", name="easy")(inputs)
    x = layers.Conv2D(12, 3, activation="relu", name="hard")(x)
    model = models._model(inputs, layers.Dense(3, name="out")(layers.Flatten()(x)), 0)
    rng = np.random.default_rng(1)
    model.get_layer("easy").kernel.assign((rng.normal(size=(72, 4)) @ rng.normal(size=(4, 12))).reshape(3, 3, 8, 12))
    return model


def test_errors_are_those_of_the_model_with_one_layer_factored(model):
    samples = models.inputs_for(model, 80)
    before = model.get_weights()
    layers = factorables(model, ["easy", "hard"], "svd")
    steps = measured_steps(model, layers, 2, "macs", samples)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert max(error for error, _, own in steps["easy"] if own.ranks[0] >= 4) < 1e-9
    error, cost, own = steps["hard"][-1]
    (hard,) = (layer for layer in layers if layer.name == "hard")
    assert own == hard.at_energy(0.0, 2, "macs")
    assert cost == hard.cost("macs", *own)
    smaller = factored(State(model), {"hard": hard.ways["svd"].factors(*own.ranks)}, made_by="low_rank").model
    few = samples[:64]
    assert error == pytest.approx(np.square(smaller(few) - model(few)).mean(), rel=1e-4)


def test_the_step_takes_what_costs_nothing_first(model):
    values = {"method": "svd", "multiple_of": 2, "layers": ["easy", "hard"], "allocation": "sensitivity"}
    step = LowRank(target={"macs": 0.8}, **values)
    step.check(State(model))
    prepared = step.prepare(State(model), models.plan_for(models.inputs_for(model)))
    assert [p.weight for p in prepared.promises] == ["easy_rank/kernel"]
    assert prepared.promises[0].bound == 4
    assert macs(prepared.model, {}) <= 0.8 * macs(model, {})
    own = LowRank(target={"macs": 0.6}, per_layer={"hard": 3}, **values)
    promises = own.prepare(State(model), models.plan_for(models.inputs_for(model))).promises
    assert {p.weight: p.bound for p in promises} == {"easy_rank/kernel": 4, "hard_rank/kernel": 3}


@pytest.mark.parametrize("values", [{"energy": 0.5}, {"target": {"macs": 0.5}, "data_aware": True}])
def test_it_needs_a_target_and_plain_kernels(values):
    with pytest.raises(ValidationError, match="sensitivity meets a target"):
        LowRank(allocation="sensitivity", **values)
