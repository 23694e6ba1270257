import pytest
from pydantic import ValidationError

from tfcompress.techniques._sixteen_bits import LossBound, fewest_within
from tfcompress.techniques.post_training import PostTraining
from tfcompress.vocabulary.errors import RecipeError

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
    with pytest.raises(RecipeError, match=r"here\.loss_increase .* Received: 0\.04; the nearest .* is 0\.05"):
        fewest_within(LossBound(loss_increase=0.04), list(COSTS), rise, "here")
    assert len(rise.asked) == 2


def test_a_bound_is_above_zero_and_for_litert_alone():
    with pytest.raises(ValidationError, match="greater than 0"):
        PostTraining(backend="litert", sixteen_bit_layers={"loss_increase": 0})
    with pytest.raises(ValidationError, match="sixteen_bit_layers: for backend: litert alone"):
        PostTraining(sixteen_bit_layers={"loss_increase": 0.1})
