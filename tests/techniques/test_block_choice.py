"""The order in which blocks go, in numbers."""

import itertools

import pytest

from tfcompress.techniques._block_choice import cheapest, cheapest_within

NAMES = "abcd"
COST = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 4.0}
SIZE = {"a": 0.4, "b": 0.05, "c": 0.2, "d": 0.3}


def left(removed):
    return [name for name in NAMES if name not in removed]


def score(removed):
    """The first two together cost much more than each alone."""
    return sum(COST[name] for name in removed) + 10 * ({"b", "c"} <= set(removed))


def size(removed):
    return 1 - sum(SIZE[name] for name in removed)


def test_the_next_cheapest_is_told_without_those_before_it():
    assert cheapest(1, left, score) == ("b",)
    assert cheapest(3, left, score) == ("b", "a", "d")
    assert cheapest(9, left, score) == ("b", "a", "d", "c")
    assert cheapest(0, left, score) == ()


def test_cost_counts_by_what_is_gained():
    assert cheapest_within(0.65, left, score, size, SIZE) == ("a",)
    assert cheapest_within(1.0, left, score, size, SIZE) == ()
    assert cheapest_within(0.04, left, score, size, SIZE) is None


def test_what_turns_out_not_to_be_needed_stays():
    gains = {**SIZE, "b": 0.5}  # Taken first for more than it brings.
    assert cheapest_within(0.4, left, score, size, gains) == ("a", "d")


def test_blocks_without_which_it_is_better_go_first_and_those_without_gain_never():
    def better(removed):
        return sum({"a": 1.0, "b": -1.0, "c": 0.0, "d": 0.0}[name] for name in removed)

    assert cheapest_within(0.96, left, better, size, SIZE) == ("b",)
    assert cheapest_within(0.7, left, better, size, SIZE) == ("d",)
    assert cheapest_within(0.9, left, better, size, {**SIZE, "b": 0.0, "c": -0.1, "d": 0.0}) == ("a",)


@pytest.mark.parametrize("bound", [0.9, 0.7, 0.5, 0.3, 0.1])
def test_no_block_of_a_choice_can_be_put_back(bound):
    for order in itertools.permutations([1.0, 2.0, 3.0, 4.0]):
        costs = dict(zip(NAMES, order, strict=True))
        chosen = cheapest_within(bound, left, lambda removed, c=costs: sum(c[n] for n in removed), size, SIZE)
        assert size(chosen) <= bound
        assert all(size([other for other in chosen if other != name]) > bound for name in chosen)
