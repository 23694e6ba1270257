"""Fronts and hypervolumes against counting them out."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.tuning import pareto

# Few levels, so that ties and duplicates come often.
LEVELS = st.integers(0, 4).map(float)


@st.composite
def trials(draw):
    count, width = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    vectors = [[draw(LEVELS) for _ in range(width)] for _ in range(count)]
    return np.array(vectors), np.array([draw(st.sampled_from([0.0, 0.0, 0.5, 2.0])) for _ in range(count)])


def dominates(left, right):
    """By the words of the definition."""
    (a, missed_a), (b, missed_b) = left, right
    if missed_a != missed_b:
        return missed_a < missed_b
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def counted_front(pairs, indices):
    return [j for j in indices if not any(dominates(pairs[i], pairs[j]) for i in indices)]


@given(trials())
def test_the_front_is_what_none_dominates(drawn):
    pairs = list(zip(*drawn, strict=True))
    assert pareto.front(*drawn) == counted_front(pairs, range(len(pairs)))


def test_any_feasible_trial_is_ahead_of_every_infeasible_one():
    assert pareto.front([[9, 9], [1, 1], [8, 9]], [0.0, 0.1, 0.0]) == [2]


def test_when_none_is_feasible_the_nearest_are_the_front():
    assert pareto.front([[1, 1], [5, 6], [6, 5], [7, 7]], [0.3, 0.2, 0.2, 0.2]) == [1, 2]


@given(trials())
@settings(max_examples=60)
def test_the_hypervolume_is_the_number_of_cells_that_are_dominated(drawn):
    vectors, _ = drawn
    reference = [4.0, 5.0, 3.0, 4.0][: vectors.shape[1]]
    cells = itertools.product(*(range(int(limit)) for limit in reference))
    expected = sum(any(all(v <= c for v, c in zip(vector, cell, strict=True)) for vector in vectors) for cell in cells)
    assert pareto.hypervolume(vectors, reference) == expected


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=1, max_size=5))
@settings(max_examples=40)
def test_the_hypervolume_is_what_inclusion_and_exclusion_give(points):
    reference = np.array([0.9, 1.0, 0.8])
    expected = 0.0
    for count in range(1, len(points) + 1):
        for subset in itertools.combinations(points, count):
            expected -= (-1) ** count * np.prod(np.maximum(reference - np.max(subset, axis=0), 0))
    assert pareto.hypervolume(points, reference) == pytest.approx(expected, abs=1e-12)


def test_what_is_no_better_than_the_reference_counts_nothing():
    assert pareto.hypervolume([[3, 0], [0, 3], [5, 5]], (3, 3)) == 0.0
    assert pareto.hypervolume([], (3, 3)) == 0.0


def test_what_is_no_number_or_of_another_length_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        pareto.front([[1.0, np.nan]], [0.0])
    with pytest.raises(ValueError, match="same length"):
        pareto.hypervolume([[1, 2, 3]], (4, 4))
