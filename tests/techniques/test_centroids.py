import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.techniques._centroids import initial_centroids, initial_nonzero_centroids

METHODS = ("linear", "random", "density_based", "kmeans_plus_plus")
VALUES = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("method", METHODS)
def test_centroids_are_ascending_and_inside_the_range(method):
    centroids = initial_centroids(VALUES, 16, method, rng())
    assert centroids.shape == (16,)
    assert centroids.dtype == np.float32
    assert (np.diff(centroids) > 0).all()
    assert VALUES.min() <= centroids[0] <= centroids[-1] <= VALUES.max()


def test_linear_is_evenly_spaced():
    assert initial_centroids(VALUES, 5, "linear", rng()) == pytest.approx(
        np.linspace(VALUES.min(), VALUES.max(), 5), rel=1e-6
    )


def test_density_gives_every_centroid_equally_many_values():
    values = np.exp(VALUES)
    centroids = initial_centroids(values, 8, "density_based", rng())
    assert [(values <= c).mean() for c in centroids] == pytest.approx((np.arange(8) + 0.5) / 8, abs=1e-3)


def test_kmeans_plus_plus_draws_values_and_reaches_distant_groups():
    groups = np.concatenate([m + 0.01 * VALUES[:4].ravel() for m in (-50, 0, 50)]).astype(np.float32)
    centroids = initial_centroids(groups, 3, "kmeans_plus_plus", rng())
    assert set(centroids) <= set(groups)
    assert centroids == pytest.approx([-50, 0, 50], abs=0.1)


@pytest.mark.parametrize("method", ["random", "kmeans_plus_plus"])
def test_the_seed_decides(method):
    first, again, other = (initial_centroids(VALUES, 6, method, rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [[], [0.0], [1, 1, 1], [3, -2, 3, 0.5]])
def test_few_values_are_their_own_centroids(method, values):
    centroids = initial_centroids(np.float32(values), 6, method, rng())
    assert centroids.shape == (6,)
    assert set(values or [0.0]) == set(centroids.tolist())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=60), st.integers(2, 20), st.sampled_from(METHODS[:3]))
def test_both_signs_get_a_share_and_zero_none(values, clusters, method):
    values = np.float32(values)
    centroids = initial_nonzero_centroids(values, clusters, method, rng())
    assert centroids.shape == (clusters,)
    if values.any():
        assert (centroids != 0).all()
        assert (centroids < 0).any() == (values < 0).any()
        assert (centroids > 0).any() == (values > 0).any()
    else:
        assert not centroids.any()
