"""Chosen ranges, against computations on the raw values that know nothing of histograms."""

import numpy as np
import pytest

from tfcompress.techniques._ranges import BINS, Extremes, Histogram, RangeChoice, by_entropy, off_the_halves
from tfcompress.techniques._weight_ranges import clipped_by_squared_error

RNG = np.random.default_rng(0)
BATCHES = {
    "relu": [np.maximum(RNG.standard_t(3, 4000), 0).astype(np.float32) for _ in range(5)],
    "both sides": [(RNG.normal(0.5, 1, 4000) * RNG.lognormal(0, 0.8, 4000)).astype(np.float32) for _ in range(5)],
    "negative": [-np.square(RNG.normal(size=4000)).astype(np.float32) for _ in range(5)],
}


def chosen(method, batches, **values):
    extremes = Extremes()
    for batch in batches:
        extremes.observe(batch)
    choice, histogram = RangeChoice(method, **values), None
    if choice.needs_histogram:
        histogram = Histogram(extremes.low, extremes.high)
        for batch in batches:
            histogram.observe(batch)
    return choice.of(extremes, histogram)


@pytest.fixture(params=BATCHES)
def batches(request):
    return BATCHES[request.param]


def test_min_max_holds_every_value_and_zero(batches):
    values = np.concatenate(batches)
    assert chosen("min_max", batches) == (min(values.min(), 0), max(values.max(), 0))


def test_the_moving_average_is_that_of_the_extremes_of_batches(batches):
    low, high = min(batches[0].min(), 0), max(batches[0].max(), 0)
    for batch in batches[1:]:
        low, high = 0.9 * low + 0.1 * min(batch.min(), 0), 0.9 * high + 0.1 * max(batch.max(), 0)
    assert chosen("moving_average", batches) == pytest.approx((low, high), rel=1e-5)


@pytest.mark.parametrize("percentile", [99.9, 98.0, 100.0])
def test_percentiles_are_those_of_the_sorted_values(batches, percentile):
    values = np.sort(np.concatenate(batches))
    beyond = round((100 - percentile) / 100 * len(values))
    bin_width = float(max(values[-1], 0) - min(values[0], 0)) / BINS
    expected = min(values[beyond], 0), max(values[-1 - beyond], 0)
    assert chosen("percentile", batches, percentile=percentile) == pytest.approx(expected, abs=1.01 * bin_width)


def squared_error(values, low, high):
    """Every value by the nearest of 256 levels, 0 among them."""
    step = (high - low) / 255
    levels = step * (np.arange(256) + np.round(low / step))
    nearest = np.clip(np.searchsorted((levels[1:] + levels[:-1]) / 2, values), 0, 255)
    return np.mean((values - levels[nearest]) ** 2)


def test_no_range_of_a_grid_has_less_squared_error(batches):
    values = np.concatenate(batches).astype(np.float64)
    low, high = min(values.min(), 0), max(values.max(), 0)
    shares = np.linspace(0.05, 1, 20)
    pairs = {(float(a), float(b)) for a in shares * low for b in shares * high}
    best = min(squared_error(values, *pair) for pair in pairs)
    found = squared_error(values, *chosen("mse", batches))
    assert found <= 1.01 * best
    assert found < squared_error(values, low, high)


def divergence(values, low, high, edges):
    """KL of the values, clipped, from their 256 levels spread over the bins that have any; bin after bin."""
    counts = np.histogram(values, edges)[0].astype(float)
    centers = (edges[1:] + edges[:-1]) / 2
    inside = [i for i, center in enumerate(centers) if low <= center <= high]
    p = {i: counts[i] for i in inside}
    p[inside[0]] += sum(counts[: inside[0]])
    p[inside[-1]] += sum(counts[inside[-1] + 1 :])
    members = {}
    for i in inside:
        members.setdefault(round(centers[i] / ((high - low) / 255)), []).append(i)
    q = {}
    for bins in members.values():
        filled = [i for i in bins if counts[i]]
        for i in bins:
            q[i] = sum(counts[j] for j in bins) / len(filled) if counts[i] else float(p[i] > 0)
    p_total, q_total = sum(p.values()), sum(q.values())
    return sum(n / p_total * np.log(n / p_total / (q[i] / q_total)) for i, n in p.items() if n)


def test_no_range_of_a_grid_has_less_divergence(batches):
    values = np.concatenate(batches).astype(np.float64)
    values = values[values != 0]
    low, high = min(values.min(), 0), max(values.max(), 0)
    edges = np.linspace(low, high, 2049)
    bounds = [(max(low, -t), min(high, t)) for t in np.linspace(0.1, 1, 40) * max(-low, high)]
    best = min(divergence(values, *b, edges) for b in bounds if b[1] - b[0] >= (high - low) / 8)
    found = chosen("entropy", batches)
    assert divergence(values, *found, edges) <= 1.02 * best
    assert found[1] - found[0] < 0.9 * (high - low)


def test_values_that_every_level_holds_lose_nothing_by_entropy():
    histogram = Histogram(0, 1)
    histogram.observe(np.array([0, 0.5, 1.0]))
    assert by_entropy(histogram) == (0, 1)


@pytest.mark.parametrize("method", ["min_max", "percentile", "moving_average", "mse", "entropy"])
def test_a_range_holds_zero_and_has_a_width(method, batches):
    low, high = chosen(method, batches)
    assert low <= 0 <= high
    assert low < high


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("channel_axes", [0, 1, 2])
def test_no_range_of_a_weight_has_less_squared_error(bits, channel_axes):
    weight = RNG.standard_t(4, (3, 3, 4, 5)).astype(np.float32)
    weight[..., 0, 0] = 0
    clipped = clipped_by_squared_error(weight, bits, channel_axes)
    channels = int(np.prod(weight.shape[4 - channel_axes :]))
    for values, ranged in zip(weight.reshape(-1, channels).T, clipped.reshape(-1, channels).T, strict=True):
        largest, limit = np.abs(values).max(), np.abs(ranged).max()
        np.testing.assert_array_equal(ranged, np.clip(values, -limit, limit))
        if largest:
            best = min(weight_error(values, share * largest, bits) for share in np.linspace(0.05, 1, 96))
            assert weight_error(values, limit, bits) <= 1.001 * best


def weight_error(values, limit, bits):
    levels = limit * np.arange(1 - 2 ** (bits - 1), 2 ** (bits - 1)) / (2 ** (bits - 1) - 1)
    return np.square(values[:, None] - levels).min(1).sum()


@pytest.mark.parametrize("values", [np.arange(256.0), np.arange(256) / 255, np.linspace(-1, 1, 1001)])
def test_a_range_whose_values_lie_elsewhere_than_between_its_steps_stays(values):
    ends = float(values.min()), float(values.max())
    assert off_the_halves(values, *ends) == ends


def test_a_range_whose_values_lie_between_its_steps_becomes_a_hair_wider():
    values = (np.arange(256) - 127.5) / 127.5
    low, high = off_the_halves(values, -1.0, 1.0)
    places = values / ((high - low) / 255)
    assert np.abs(places - np.floor(places) - 0.5).min() > 1e-4
    assert np.abs(places - values / (2 / 255)).max() < 0.5
