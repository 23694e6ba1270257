"""Which weights stay, on numbers worked by hand and against definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.schedules import half_cosine
from tfcompress.techniques._masks import (
    best_mask,
    erdos_renyi_kernel,
    expanded,
    group_mask,
    lamp,
    one_threshold,
    pooled,
)


def test_erk_is_by_the_sum_of_dimensions_and_what_would_exceed_1_is_dense():
    # LeNet-300-100 with 10 % kept, 26,620 of 266,200: the last layer, 1,000 weights, stays dense; the other two share
    # 25,620 as 784 + 300 to 300 + 100.
    shapes = [(784, 300), (300, 100), (100, 10)]
    sizes = [235_200, 30_000, 1_000]
    assert erdos_renyi_kernel(shapes, sizes, 26_620, [1, 1, 1]) == [
        round(25_620 * 1084 / 1484),
        round(25_620 * 400 / 1484),
        1_000,
    ]
    # A kernel of a convolution counts with its window: 3 + 3 + 16 + 32 to 1 + 1 + 32 + 64, which share 76.
    assert erdos_renyi_kernel([(3, 3, 16, 32), (1, 1, 32, 64)], [4608, 2048], 76, [1, 1]) == [27, 49]


def test_erk_keeps_what_each_layer_keeps_at_least():
    assert erdos_renyi_kernel([(100, 100), (2, 2)], [10_000, 4], 100, [1, 3]) == [97, 3]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=5), st.data())
def test_counts_add_up_and_stay_within_their_bounds(shapes, data):
    sizes = [a * b for a, b in shapes]
    least = [data.draw(st.integers(1, size)) for size in sizes]
    kept = data.draw(st.integers(sum(least), sum(sizes)))
    scores = [data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n).map(np.float64)) for n in sizes]
    for counts in (erdos_renyi_kernel(shapes, sizes, kept, least), one_threshold(scores, kept, least)):
        assert sum(counts) == kept
        assert all(few <= count <= size for few, count, size in zip(least, counts, sizes, strict=True))


def test_one_threshold_separates_the_kept_from_the_rest():
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=(6, 7)) * scale for scale in (1, 3, 0.01)]
    counts = one_threshold(scores, 40, [1, 1, 5])
    assert counts[2] == 5, "held by its least alone"
    free = np.sort(np.concatenate([own.ravel() for own in scores[:2]]))[::-1]
    assert counts[:2] == [int((own >= free[34]).sum()) for own in scores[:2]]


def test_lamp_is_the_square_over_the_squares_that_are_not_smaller():
    # 1, 4, 9, 16 over 30, 29, 25, 16.
    np.testing.assert_allclose(lamp(np.array([[2.0, 4.0], [1.0, 3.0]])), [[4 / 29, 1], [1 / 30, 9 / 25]])
    np.testing.assert_array_equal(lamp(np.zeros(3)), np.zeros(3))
    weights = np.abs(np.random.default_rng(0).normal(size=50))
    expected = [w**2 / sum(v**2 for v in weights if v >= w) for w in weights]
    np.testing.assert_allclose(lamp(weights), expected)


def test_regrown_weights_take_the_places_of_the_lowest():
    scores, growth = np.array([[0.9, 0.5, 0.4], [0.3, 0, 0]]), np.array([[9, 8, 1], [7, 5, 2.0]])
    np.testing.assert_array_equal(best_mask(scores, 3), [[1, 1, 1], [0, 0, 0]])
    # Two go, those that just went may come back: 0.5 does, and what had no weight but the next highest growth.
    np.testing.assert_array_equal(best_mask(scores, 3, growth, 2), [[1, 1, 0], [1, 0, 0]])


def test_groups_and_blocks():
    scores = np.random.default_rng(0).normal(size=(3, 8, 5))
    mask = group_mask(scores, 2, 4)
    assert mask.shape == scores.shape
    rows, kept = (np.moveaxis(a, 1, -1).reshape(-1, 4) for a in (scores, mask))
    assert (kept.sum(1) == 2).all()
    assert all(row[keep].min() > row[~keep].max() for row, keep in zip(rows, kept, strict=True))
    np.testing.assert_array_equal(pooled(np.arange(8.0).reshape(2, 4), (2, 2)), [[2.5, 4.5]])
    np.testing.assert_array_equal(expanded(np.array([[True, False]]), (2, 2)), [[1, 1, 0, 0], [1, 1, 0, 0]])
    assert pooled(scores, (1, 1)) is scores


@pytest.mark.parametrize(
    ("step", "share"), [(0, 0.4), (10, 0.4), (20, 0.2), (15, 0.2 * (1 + 0.5**0.5)), (30, 0), (99, 0)]
)
def test_the_share_that_makes_way_falls_along_half_a_cosine(step, share):
    assert half_cosine(0.4, 10, 30)(step) == pytest.approx(share)
    assert half_cosine(0.4, 10, 10)(step) == 0
