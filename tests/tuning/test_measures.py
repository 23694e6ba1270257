"""A goal says of every trial how good it is, and by how much it misses what was asked."""

import math
import pickle

import pytest

from tfcompress.tuning.measures import MEASURES, Goal
from tfcompress.vocabulary.errors import SearchError

SMALL = {"accuracy": 0.90, "deflated_bytes": 8000, "drop_points": 3.0}
GOOD = {"accuracy": 0.95, "deflated_bytes": 12000, "drop_points": 0.5}
LARGE = {"accuracy": 0.95, "deflated_bytes": 30000, "drop_points": 0.4}


def test_vectors_are_all_to_be_minimised():
    assert Goal(("accuracy", "deflated_bytes")).vector(SMALL) == (-0.90, 8000)


def test_excesses_are_in_the_measures_unit_and_the_violation_is_relative():
    goal = Goal(("deflated_bytes",), {"drop_points": 1.0, "accuracy": 0.92, "deflated_bytes": 9000})
    assert goal.excesses(SMALL) == pytest.approx({"drop_points": 2.0, "accuracy": 0.02})
    assert goal.violation(SMALL) == pytest.approx(2.0 / 1.0 + 0.02 / 0.92)
    assert goal.excesses(GOOD) == {"deflated_bytes": 3000}
    assert goal.violation(GOOD) == pytest.approx(3000 / 9000)


def test_a_bound_is_met_when_it_is_reached_exactly_and_one_of_zero_counts_in_units():
    goal = Goal(("bytes",), {"drop_points": 0.0})
    assert goal.violation({"bytes": 1, "drop_points": 0.0}) == 0.0
    assert goal.violation({"bytes": 1, "drop_points": -0.3}) == 0.0
    assert goal.violation({"bytes": 1, "drop_points": 0.25}) == 0.25


def test_needed_are_objectives_and_bounds():
    assert Goal(("bytes", "accuracy"), {"drop_points": 1}).needed == {"bytes", "accuracy", "drop_points"}


def test_the_best_is_within_the_bounds_and_first_in_the_first_objective():
    goal = Goal(("deflated_bytes", "accuracy"), {"drop_points": 1.0})
    assert goal.best([SMALL, None, LARGE, GOOD]) == 3
    assert goal.best([LARGE, GOOD, {**GOOD, "accuracy": 0.96}]) == 2


def test_when_none_is_within_the_bounds_the_nearest_is_best():
    goal = Goal(("deflated_bytes",), {"drop_points": 0.1})
    assert goal.best([SMALL, GOOD, LARGE]) == 2
    assert goal.best([None, None]) is None
    assert goal.best([]) is None


def test_goals_are_values():
    goal = Goal(["bytes"], {"drop_points": 1})
    assert pickle.loads(pickle.dumps(goal)) == goal == Goal(("bytes",), {"drop_points": 1.0})
    assert hash(goal) == hash(Goal(("bytes",), {"drop_points": 1.0}))
    with pytest.raises(TypeError):
        goal.bounds["bytes"] = 3


def test_everything_wrong_is_told_at_once():
    with pytest.raises(SearchError) as caught:
        Goal(("deflatd_bytes", "bytes", "bytes"), {"drop": 1.0, "macs": math.nan, "accuracy": "0.9", "bytes": -1})
    told = str(caught.value)
    for part in (
        "Received: deflatd_bytes. Did you mean deflated_bytes?",
        "bytes 2 times",
        "a bound must be one of",
        "the bound of macs must be a finite number. Received: nan",
        "the bound of accuracy must be a finite number. Received: '0.9'",
        "the bound of bytes must not be negative: no file could meet it. Received: -1",
    ):
        assert part in told


@pytest.mark.parametrize(("objectives", "told"), [((), "at least one objective"), ("bytes", "a sequence of names")])
def test_objectives_must_be_named(objectives, told):
    with pytest.raises(SearchError, match=told):
        Goal(objectives)


def test_a_file_may_have_to_be_better_than_the_float_one():
    assert Goal(("bytes",), {"drop_points": -0.5}).excesses({"bytes": 1, "drop_points": 0.0}) == {"drop_points": 0.5}


def test_every_measure_says_what_it_is():
    assert [name for name, measure in MEASURES.items() if measure.direction == "max"] == ["accuracy"]
    assert all(measure.name == name and measure.description for name, measure in MEASURES.items())
