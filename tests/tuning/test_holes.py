"""Holes hold exactly the values that were written, and refuse all that is wrong at once."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress.tuning.holes import Hole, in_yaml, kind_of, misspelt_kind, read_hole


@pytest.mark.parametrize(
    ("raw", "grid", "default"),
    [
        ({"choice": [2, 3, 4, 8]}, (2, 3, 4, 8), 4),
        ({"choice": ["a", "b", "c"]}, ("a", "b", "c"), "a"),
        ({"choice": [5, None]}, (5, None), 5),
        ({"choice": [5, None], "default": None}, (5, None), None),
        ({"choice": ["1e-4", 0.001]}, (0.0001, 0.001), 0.001),
        ({"bool": None}, (False, True), False),
        ({"bool": True, "default": True}, (False, True), True),
        ({"int": [2, 5]}, (2, 3, 4, 5), 4),
        ({"int": [10, 30, 10]}, (10, 20, 30), 20),
        ({"float": [0.3, 0.6], "step": 0.1}, (0.3, 0.4, 0.5, 0.6), 0.5),
        ({"float": [0, 1], "step": 0.5, "default": 1}, (0.0, 0.5, 1.0), 1.0),
    ],
)
def test_a_countable_hole_has_exactly_its_values(raw, grid, default):
    hole = read_hole(raw, "x")
    assert hole.grid() == grid
    assert list(map(type, hole.grid())) == list(map(type, grid))
    assert hole.count == len(grid)
    assert (hole.default, type(hole.default)) == (default, type(default))
    assert set(hole.ends()) <= set(grid)


@pytest.mark.parametrize(
    ("raw", "ends", "default"),
    [
        ({"float": [0.3, 0.9]}, (0.3, 0.9), 0.6),
        ({"float": ["1e-5", "1e-1"], "sampling": "log"}, (1e-5, 1e-1), 0.001),
        ({"float": [0, 1], "default": 0.25}, (0.0, 1.0), 0.25),
    ],
)
def test_a_continuous_hole_has_ends_and_no_grid(raw, ends, default):
    hole = read_hole(raw, "x")
    assert (hole.ends(), hole.count, hole.default) == (ends, None, default)
    with pytest.raises(ValueError, match="Remedy: give it a step"):
        hole.grid()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"choice": []}, "at least one value. Received: []"),
        ({"choice": 4}, "must be a list of at least one value. Received: 4"),
        ({"choice": [2, 4, 2]}, "Received twice: 2"),
        ({"choice": [1, True]}, "Received twice: true"),
        ({"choice": [{"a": 1}]}, "Received: {a: 1}. Remedy: one_of"),
        ({"choice": [[1, 4], [1, 1]]}, "Remedy: one_of"),
        ({"choice": [math.nan]}, "finite numbers"),
        ({"choice": [2, 4], "default": 3}, "default must be one of 2, 4. Received: 3"),
        ({"choice": [2], "defualt": 3}, "unknown key `defualt` of a hole of kind choice. Did you mean `default`?"),
        ({"choice": [2], "conv1": 3}, "unknown key `conv1` of a hole of kind choice. Keys beside it: default"),
        ({"choice": [2], "int": [1, 2]}, "a hole is of one kind. Received: choice and int"),
        ({"int": [3, 3]}, "low must lie below high. Received: [3, 3]"),
        ({"int": [1]}, "[low, high] or [low, high, step]"),
        ({"int": [1, 2.5]}, "whole numbers"),
        ({"int": [False, True]}, "whole numbers"),
        ({"int": [1, 8, 3]}, "in steps of 3. Remedy: end at 7 or 10"),
        ({"int": [1, 8, 0]}, "step must lie above 0"),
        ({"int": [0, 8], "sampling": "log"}, "sampling log needs low above 0"),
        ({"float": [0.9, 0.3]}, "low must lie below high. Received: [0.9, 0.3]"),
        ({"float": [0.1, 0.9, 0.1]}, "Remedy: a third number goes into `step:`"),
        ({"float": ["a", 1]}, "finite numbers. Received: [a, 1]"),
        ({"float": [0, math.inf]}, "finite numbers"),
        ({"float": [0, 1], "step": 0.3}, "Remedy: end at 0.9 or 1.2"),
        ({"float": [0, 1], "step": "fine"}, "step must be a finite number. Received: fine"),
        ({"float": [0, 1], "sampling": "logarithmic"}, "linear or log. Received: logarithmic"),
        ({"float": [0.1, 1], "default": 2}, "default must be a number from 0.1 to 1. Received: 2"),
        ({"bool": [True, False]}, "write {bool}. Received: [true, false]"),
    ],
)
def test_a_wrong_hole_is_refused(raw, expected):
    (problem,) = read_hole(raw, "x")
    assert expected in problem


def test_everything_wrong_is_said_at_once():
    problems = "\n".join(read_hole({"float": [1, -1], "sampling": "lin", "stp": 1}, "x"))
    for expected in ("`stp`", "linear or log", "low must lie below high"):
        assert expected in problems


def test_kinds_are_told_from_values_and_misspelt_ones_are_recognised():
    assert kind_of({"one_of": []}) == "one_of"
    assert kind_of({"epochs": 3}) is None
    assert misspelt_kind({"chioce": [1]}) == ("chioce", "choice")
    assert misspelt_kind({"mabye": {"technique": "pruning"}}) == ("mabye", "maybe")
    assert misspelt_kind({"boolean": None}) == ("boolean", "bool")
    # A layer may be called like a kind.
    assert misspelt_kind({"flat": 4}) is None


ranges = st.builds(
    lambda low, count, step: (low, count, step),
    st.integers(-500, 500),
    st.integers(1, 60),
    st.integers(1, 40),
)


@given(ranges)
def test_a_range_with_steps_is_exact_in_decimals(drawn):
    low, count, step = drawn
    hundredth = Fraction(1, 100)
    raw = {"float": [low / 100, (low + count * step) / 100], "step": step / 100}
    expected = [float((low + index * step) * hundredth) for index in range(count + 1)]
    assert list(read_hole(raw, "x").grid()) == expected


@given(ranges, st.floats(0, 1), st.sampled_from(["linear", "log"]))
def test_every_draw_is_admitted_and_stays_as_it_is(drawn, share, sampling):
    low, count, step = drawn
    low = abs(low) + 1
    for raw in (
        {"int": [low, low + count * step, step], "sampling": sampling},
        {"float": [low / 10, (low + count * step) / 10], "step": step / 10, "sampling": sampling},
        {"float": [low / 10, (low + count * step) / 10], "sampling": sampling},
    ):
        hole = read_hole(raw, "x")
        value = hole.at(share)
        assert hole.admit(value) == value
        assert hole.low <= value <= hole.high
        assert json.loads(json.dumps(value)) == value


@pytest.mark.parametrize("raw", [{"choice": [1, 2, 3]}, {"int": [5, 7]}, {"float": [0.0, 0.2], "step": 0.1}])
def test_uniform_shares_draw_every_value_equally_often(raw):
    hole = read_hole(raw, "x")
    drawn = [hole.at(share) for share in np.linspace(0, 1, 3000, endpoint=False)]
    assert [drawn.count(value) for value in hole.grid()] == [1000, 1000, 1000]


def test_a_draw_stays_in_its_range_where_floats_round():
    # 0.3 * (0.7 / 0.3) is 0.7000000000000001.
    assert Hole("x", "float", low=0.3, high=0.7, sampling="log").at(1.0) == 0.7


def test_log_sampling_draws_every_decade_equally_often():
    hole = Hole("x", "float", low=1e-4, high=1.0, sampling="log")
    drawn = np.array([hole.at(share) for share in np.linspace(0, 1, 4001)])
    assert np.histogram(drawn, [1e-4, 1e-3, 1e-2, 1e-1, 1.1])[0] == pytest.approx([1000] * 4, abs=2)


def test_values_come_back_as_the_hole_writes_them():
    assert Hole("x", "float", low=0.3, high=0.9, step=0.1).admit(0.1 + 0.2) == 0.3
    for hole, value in ((Hole("x", "int", low=1, high=9), np.int64(4)), (Hole("x", "choice", (2, 4)), 4.0)):
        assert type(hole.admit(value)) is int


@pytest.mark.parametrize(
    ("hole", "value"),
    [
        (Hole("x", "int", low=1, high=9), 4.5),
        (Hole("x", "int", low=1, high=9), 10),
        (Hole("x", "int", low=1, high=9), True),
        (Hole("x", "int", low=1, high=9), "4"),
        (Hole("x", "int", low=1, high=9), None),
        (Hole("x", "float", low=0.0, high=1.0, step=0.5), 0.4),
        (Hole("x", "float", low=0.0, high=1.0), math.nan),
        (Hole("x", "float", low=0.0, high=1.0), -0.001),
        (Hole("x", "choice", ("a", "b")), "c"),
        (Hole("x", "bool"), "yes"),
    ],
)
def test_foreign_values_are_refused_with_what_is_allowed(hole, value):
    assert not hole.admits(value)
    with pytest.raises(ValueError, match=r"must be (one of|a number|a whole number from)") as caught:
        hole.admit(value)
    assert f"Received: {in_yaml(value)}" in str(caught.value)
