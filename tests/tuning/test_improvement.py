"""Expected gains against hypervolumes counted exactly, and the scales they stand on."""

import numpy as np
import pytest

from tfcompress.tuning.improvement import Limits, expected_gain
from tfcompress.tuning.pareto import hypervolume
from tfcompress.tuning.scalarization import chebyshev, directions, normal_draws, reach
from tfcompress.tuning.warp import Warp

FREE = np.array([np.inf, np.inf])


def random_front(objectives, seed, count=6):
    points = np.abs(np.random.default_rng(seed).normal(size=(count, objectives)))
    return 0.9 - 0.8 * points / np.linalg.norm(points, axis=1, keepdims=True)


@pytest.mark.parametrize(("objectives", "tolerance"), [(1, 1e-9), (2, 0.02), (3, 0.1)])
def test_the_mean_reach_is_proportional_to_the_hypervolume(objectives, tolerance):
    along = directions(objectives)
    volumes, means = [], []
    for seed in range(20):
        points = random_front(objectives, seed)
        volumes.append(hypervolume(points, np.ones(objectives)))
        means.append(reach(points, np.ones(objectives), along).max(axis=0).mean())
    ratio = np.divide(means, volumes)
    assert np.ptp(ratio) < 2 * tolerance * ratio.mean()


def test_gains_rank_recipes_by_the_hypervolume_they_add():
    seen = random_front(2, 0)
    new = np.random.default_rng(1).uniform(0, 1, (40, 2))
    limits = Limits(2, FREE, np.ones(2))
    gains = expected_gain(seen, len(seen), new[:, None], limits)
    before = hypervolume(seen, np.ones(2))
    exact = np.array([hypervolume([*seen, point], np.ones(2)) - before for point in new])
    assert np.corrcoef(gains, exact)[0, 1] > 0.995
    assert np.all((gains > 1e-9) == (exact > 1e-9)) or np.abs(gains[(gains > 1e-9) != (exact > 1e-9)]).max() < 1e-3


def test_draws_beyond_a_bound_gain_nothing():
    limits = Limits(1, np.array([np.inf, 1.0]), np.array([10.0, 1.0]))
    seen = np.array([[9.0, 0.5]])
    draws = np.array([[[1.0, 2.0], [1.0, 3.0]], [[8.0, 0.5], [8.0, 0.9]], [[7.0, 0.5], [7.0, 2.0]]])
    assert expected_gain(seen, 1, draws, limits).tolist() == pytest.approx([0.0, 1.0, 1.0])


def test_while_nothing_is_within_the_bounds_less_violation_is_gain():
    limits = Limits(1, np.array([np.inf, 2.0]), np.array([10.0, 2.0]))
    seen = np.array([[9.0, 6.0], [1.0, 5.0]])
    draws = np.array([[[1.0, 7.0]], [[99.0, 3.0]], [[99.0, 1.0]]])
    assert expected_gain(seen, 2, draws, limits).tolist() == pytest.approx([0.0, 1.0, 1.5])


def test_what_is_believed_of_running_trials_is_no_gain_again():
    limits = Limits(2, FREE, np.ones(2))
    seen = np.array([[0.5, 0.5], [0.2, 0.7]])
    draws = np.array([[[0.2, 0.7]], [[0.7, 0.2]]])
    gains = expected_gain(seen, 1, draws, limits)
    assert gains[0] == 0.0
    assert gains[1] > 0.0


def test_draws_are_even():
    draws = normal_draws(64, 3)
    assert np.abs(draws.mean(axis=0)).max() < 0.05
    assert draws.std(axis=0) == pytest.approx(np.ones(3), abs=0.06)
    assert np.array_equal(draws, normal_draws(64, 3))


def test_the_warp_is_linear_before_the_knee_and_can_be_undone():
    values = np.array([1.0, 2.0, 3.0, 4.0, 50.0, 80.0])
    warp = Warp.around(values, knee=3.5)
    there = warp.forward(values)
    assert there[:3].tolist() == [1.0, 2.0, 3.0]
    assert np.all(np.diff(there) > 0)
    assert there[-1] < 15
    assert warp.back(there) == pytest.approx(values)
    slope = (warp.forward(np.array([3.5 + 1e-6])) - 3.5) / 1e-6
    assert slope == pytest.approx(1.0, abs=1e-3)


def test_the_warps_knee_is_the_median_when_all_lie_behind_and_equal_values_are_no_trouble():
    assert Warp.around(np.array([5.0, 6.0, 9.0]), knee=1.0).knee == 6.0
    assert Warp.around(np.array([5.0, 5.0]), knee=1.0).forward(np.array([5.0])) == pytest.approx([5.0])


def test_chebyshev_scores_are_knowles_equation_and_bounds_come_first():
    vectors = np.array([[0.0, 10.0], [4.0, 0.0], [2.0, 4.0]])
    weights = np.array([0.25, 0.75])
    scaled = np.array([[0.0, 0.75], [0.25, 0.0], [0.125, 0.3]])
    expected = scaled.max(axis=1) + 0.05 * scaled.sum(axis=1)
    assert chebyshev(vectors, np.zeros(3), weights) == pytest.approx(expected)
    assert np.argmax(chebyshev(vectors, np.array([0.0, 0.01, 0.0]), weights)) == 1
