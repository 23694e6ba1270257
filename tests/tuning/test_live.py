"""What a person sees of a search while it runs."""

import dataclasses

import pytest

from tfcompress.tuning.holes import Hole
from tfcompress.tuning.live import NEWEST, Standing, planned, short_names, table
from tfcompress.tuning.measures import Goal
from tfcompress.tuning.trials import Trial

GOAL = Goal(("bytes", "accuracy"), {"drop_points": 1.0})
HOLES = (
    Hole("pruning.fit.epochs", "choice", (1, 2), default=1),
    Hole("quantization.per_layer.fc1", "choice", (3, 8), default=8),
)


def trial(number, **change):
    values = {"pruning.fit.epochs": 1, "quantization.per_layer.fc1": 3 if number % 2 else 8}
    measured = {"bytes": 1000.0 + number, "accuracy": 0.5, "drop_points": 0.25}
    done = {"status": "completed", "values": values, "measured": measured, "ended_as": number, "seconds": 10.0}
    return Trial(number=number, asked_after=0, **(done | change))


def standing(count, total=20, **change):
    trials = [trial(number) for number in range(count)]
    trials.append(trial(count, status="running", measured={}, ended_as=None, seconds=None))
    return dataclasses.replace(Standing(trials, [2, 1], 1, total, 2, [10.0] * 3), **change)


def test_the_best_the_front_and_the_newest_are_shown_in_this_order():
    header, rows = table(standing(15), GOAL, HOLES)
    assert header == ("trial", "status", "front", "bytes", "accuracy", "drop_points", "seconds", "fc1", "epochs")
    assert rows[0] == ("1", "completed", "best", "1,001", "0.5", "0.25", "10", "3", "1")
    assert rows[1][:3] == ("2", "completed", "yes")
    assert rows[2] == ("15", "running", "", "", "", "", "", "3", "1")
    assert [int(row[0]) for row in rows[2:]] == list(range(15, 15 - NEWEST, -1))


def test_a_hole_that_a_trial_does_not_have_stays_empty():
    (row,) = table(Standing([trial(0, values={})], [], None, 1, 1, []), GOAL, HOLES)[1]
    assert row[-2:] == ("", "")


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["pruning.final_sparsity", "quantization.weight_bits"], ["final_sparsity", "weight_bits"]),
        (["a.fit.epochs", "b.fit.epochs", "c.epochs"], ["a.fit.epochs", "b.fit.epochs", "c.epochs"]),
        (["a.per_layer.fc", "b.per_layer.fc", "a.per_layer.out"], ["a.fc", "b.fc", "out"]),
        (["a.per_layer.x", "a.x"], ["a.per_layer.x", "a.x"]),
        ([], []),
    ],
)
def test_names_are_as_short_as_they_can_be_told_apart(names, short):
    assert short_names(names) == short


def test_the_time_left_is_what_this_session_needs_for_the_rest():
    # 20 trials less 15 that ended, 10 s each, two at a time.
    assert standing(15).seconds_left == pytest.approx(25)
    assert str(standing(15)) == "15 of 20 trials, 0:00:25 left"
    # Those of another session ended too, and took what they took.
    assert standing(15, seconds=[2.0]).seconds_left == pytest.approx(5)
    assert standing(15, seconds=[]).seconds_left is None
    assert str(standing(15, seconds=[])) == "15 of 20 trials"
    # One trial takes its time, however many could run.
    assert standing(15, total=16, workers=8).seconds_left == pytest.approx(10)
    assert standing(15, total=15).seconds_left == 0


def test_a_finite_space_ends_before_max_trials():
    assert planned(30, 3, "pareto") == 3
    assert planned(30, None, "pareto") == 30
    assert planned(30, 3, "hyperband") == 30
