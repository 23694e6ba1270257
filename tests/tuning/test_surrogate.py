"""The Gaussian process against its textbook formulas, and what it is meant to know beforehand."""

from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import check_grad
from scipy.stats import multivariate_normal

from tfcompress.tuning import surrogate as of
from tfcompress.tuning.surrogate import Points, Surrogate


def points(count, holes=3, seed=0, foreseen=None):
    random = np.random.default_rng(seed)
    rank = random.integers(0, 4, (count, holes)) / 3
    active = random.random((count, holes)) > 0.2
    value = np.where(active, 2 * rank - 1, 0.0)
    categorical = np.array([False] * (holes - 1) + [True])
    return Points(rank, value, active, categorical, np.zeros(count) if foreseen is None else foreseen)


def slow_kernel(theta, left, right):
    """The formula at the head of the module, pair by pair."""
    holes = left.rank.shape[1]
    linear, additive, joint, _ = np.exp(theta[:4])
    scales, lengths = np.exp(theta[4 : 4 + holes]), np.exp(theta[4 + holes :])
    result = np.zeros((len(left), len(right)))
    for i in range(len(left)):
        for j in range(len(right)):
            total, alone = 4.0 + 0.5 * left.foreseen[i] * right.foreseen[j], []
            for h in range(holes):
                gap = abs(left.rank[i, h] - right.rank[j, h])
                gap = float(gap > 0) if left.categorical[h] else gap
                s = np.sqrt(5) * gap / lengths[h]
                smooth = (1 + s + s**2 / 3) * np.exp(-s)
                both = left.active[i, h] and right.active[j, h]
                alone.append(smooth)
                total += scales[h] ** 2 * (
                    linear**2 * left.value[i, h] * right.value[j, h] + both * additive**2 * smooth
                )
            result[i, j] = total + joint**2 * np.mean([a * b for a, b in combinations(alone, 2)] or 0.0)
    return result


@pytest.fixture
def theta():
    return np.random.default_rng(1).normal(-0.5, 0.5, 4 + 2 * 3)


def test_the_kernel_is_its_formula(theta):
    left, right = points(5, foreseen=np.arange(5.0)), points(4, seed=1, foreseen=np.arange(4.0))
    expected = slow_kernel(theta, left, right)
    assert of._kernel(theta, of._Pairs.between(left, right)) == pytest.approx(expected)
    assert of._diagonal(theta, left) == pytest.approx(np.diag(slow_kernel(theta, left, left)))


def test_the_energy_is_the_posterior_density_and_its_gradient(theta):
    some = points(9)
    targets = np.random.default_rng(2).normal(size=9)
    center, widths = np.zeros_like(theta), np.full_like(theta, 2.0)
    pairs = of._Pairs.between(some, some)

    def energy(at):
        return of._energy(at, pairs, targets, center, widths)[0]

    def log_density(at):
        kernel = slow_kernel(at, some, some) + of._noise(at) * np.eye(9)
        return multivariate_normal(np.zeros(9), kernel).logpdf(targets) - 0.5 * np.sum((at / 2.0) ** 2)

    other = theta + 0.3
    assert energy(other) - energy(theta) == pytest.approx(log_density(theta) - log_density(other))
    assert check_grad(energy, lambda at: of._energy(at, pairs, targets, center, widths)[1], theta) < 1e-4


def test_predictions_are_the_conditional_distribution():
    foreseen = np.random.default_rng(5).normal(size=12)
    known, new = points(12, foreseen=foreseen), points(6, seed=3, foreseen=foreseen[:6])
    targets = 50 + 7 * np.random.default_rng(4).normal(size=12)
    model = Surrogate(known, targets)
    theta, scale = model._theta, np.std(targets)
    inverse = np.linalg.inv(slow_kernel(theta, known, known) + of._noise(theta) * np.eye(12))
    across = slow_kernel(theta, new, known)
    residuals = (targets - targets.mean()) / scale - known.foreseen
    mean, deviation = model.predict(new)
    assert mean == pytest.approx(targets.mean() + scale * (across @ inverse @ residuals + new.foreseen))
    variance = np.diag(slow_kernel(theta, new, new) - across @ inverse @ across.T) + of._noise(theta)
    assert deviation == pytest.approx(scale * np.sqrt(variance))


def test_believing_keeps_the_means_and_is_surer():
    known, new = points(12), points(6, seed=3)
    model = Surrogate(known, np.random.default_rng(4).normal(size=12))
    believer = model.believing(new[:2])
    assert believer.predict(new)[0] == pytest.approx(model.predict(new)[0])
    assert np.all(believer.predict(new)[1] <= model.predict(new)[1] + 1e-9)
    assert np.all(believer.predict(new[:2])[1] < model.predict(new[:2])[1])


def test_a_sum_of_values_is_known_after_few_points():
    def size(some):
        return 1000 + some.value @ np.array([500.0, 50.0, 200.0, 20.0])

    known, new = points(9, holes=5), points(100, holes=5, seed=9)
    known, new = (
        Points(p.rank[:, :4], p.value[:, :4], p.active[:, :4], p.categorical[:4], p.foreseen) for p in (known, new)
    )
    mean, _ = Surrogate(known, size(known)).predict(new)
    assert np.abs(mean - size(new)).max() < 0.05 * np.ptp(size(new))


def test_what_is_foreseen_is_followed_where_it_proved_right():
    foreseen = np.random.default_rng(0).normal(size=40)
    some = points(40, holes=2, foreseen=foreseen)
    mean, _ = Surrogate(some[:8], 10 + 3 * foreseen[:8]).predict(some[8:])
    assert np.abs(mean - (10 + 3 * foreseen[8:])).max() < 1.0


def test_equal_targets_are_no_trouble():
    mean, deviation = Surrogate(points(4), np.full(4, 7.0)).predict(points(3, seed=1))
    assert mean == pytest.approx(np.full(3, 7.0), abs=0.2)
    assert np.isfinite(deviation).all()
