from dataclasses import replace

import numpy as np
import pytest
from fixtures.models import conv_bn, inputs_for, plan_for
from pydantic import ValidationError

from tfcompress.convert import litert
from tfcompress.techniques import post_training
from tfcompress.techniques._sixteen_bits import LossBound, fewest_within
from tfcompress.techniques.post_training import PostTraining
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.state import State

COSTS = {"a": 0.1, "b": 0.4, "c": 0.2, "d": 0.3}
"""What the loss rises by for each layer of 8 bits, beside 0.05 that 16 bits do not help."""


@pytest.fixture
def rise():
    """What the loss rises by, and a list of what was measured."""
    asked = []

    def measured(wide):
        asked.append(wide)
        return 0.05 + sum(cost for layer, cost in COSTS.items() if layer not in wide)

    measured.asked = asked
    return measured


@pytest.mark.parametrize(
    ("bound", "wide"),
    [(1.1, ""), (0.7, "b"), (0.4, "bd"), (0.16, "bcd"), (0.05, "abcd")],
)
def test_the_most_sensitive_layers_are_taken_until_the_bound_is_met(rise, bound, wide):
    found = fewest_within(LossBound(loss_increase=bound), list(COSTS), rise, "here")
    assert found == list(wide)
    assert rise(tuple(found)) <= bound
    assert len(rise.asked) <= 2 * len(COSTS) + 2


def test_nothing_is_measured_twice(rise):
    fewest_within(LossBound(loss_increase=0.16), list(COSTS), rise, "here")
    assert len(set(rise.asked)) == len(rise.asked)


def test_a_bound_out_of_reach_is_refused_before_layers_are_measured_alone(rise):
    with pytest.raises(RecipeError, match=r"here\.loss_increase .* 0\.04; with 16 bits in a, b, c, d .* by 0\.05,"):
        fewest_within(LossBound(loss_increase=0.04), list(COSTS), rise, "here")
    assert len(rise.asked) == 2


def test_a_bound_is_above_zero_and_for_litert_alone():
    with pytest.raises(ValidationError, match="greater than 0"):
        PostTraining(backend="litert", sixteen_bit_layers={"loss_increase": 0})
    with pytest.raises(ValidationError, match="sixteen_bit_layers: for backend: litert alone"):
        PostTraining(sixteen_bit_layers={"loss_increase": 0.1})


@pytest.fixture
def in_files(monkeypatch):
    """Gives a function that lets files be told by the layers of 16 bits, each other layer with an error of its own."""

    def set_up(model, errors):
        def predicted(file, samples):
            outputs = model.predict(samples, verbose=0)
            wide = errors if isinstance(file, bytes) else {place.partition("/")[0] for place in file}
            return outputs + np.float32(sum(error for layer, error in errors.items() if layer not in wide) ** 0.5)

        monkeypatch.setattr(post_training, "predict", predicted)
        monkeypatch.setattr(litert, "is_installed", lambda: True)
        monkeypatch.setattr(litert, "litert_of_float", lambda content, how, *rest: how.sixteen_bit)

    return set_up


def test_a_step_measures_its_files_by_the_loss_of_the_task_and_once(in_files):
    model, kept = conv_bn(), []
    inputs = inputs_for(model, 16)
    in_files(model, {"c1": 0.3, "c1_1": 0.2, "out": 0.1})

    def once(measure):
        if not kept:
            kept.append(measure())
        return kept[0]

    # With the model's own outputs as targets, the loss of a file is the sum of the errors left in it.
    plan = replace(
        plan_for(inputs),
        targets=model.predict(inputs, verbose=0),
        loss=lambda targets, outputs: np.mean(np.square(targets - outputs), axis=-1),
        once=once,
    )
    step = PostTraining(backend="litert", sixteen_bit_layers={"loss_increase": 0.35})
    step.check(State(model))
    assert step.prepare(State(model), plan).litert.sixteen_bit == ("c1/kernel",)
    in_files(model, {"c1": 0.0, "c1_1": 0.9, "out": 0.0})
    assert step.prepare(State(model), plan).litert.sixteen_bit == ("c1/kernel",), "what was measured once stays"
    assert kept == [["c1"]]
    in_files(model, {"c1": 0.3, "c1_1": 0.2, "out": 0.1})
    tight = PostTraining(backend="litert", sixteen_bit_layers={"loss_increase": 0.05})
    anew = replace(plan, once=lambda measure: measure())
    # The Dense gives the output, which stays of 8 bits.
    with pytest.raises(RecipeError, match=r"with 16 bits in c1, c1_1 the loss rises by 0\.1, with 8 .* by 0\.6"):
        tight.prepare(State(model), anew)
