import numpy as np
import pytest

from tfcompress.models.channels.groups import ChannelGroup, Member
from tfcompress.techniques._selection import (
    Rounding,
    global_counts,
    most_important,
    smallest_share,
    uniform_counts,
)


def group(name, size, *makers):
    """A group whose `makers` make the given channels of it each; one makes all where none is given."""
    makers = makers or (range(size),)
    members = [Member(f"{name}{i}", "kernel", 1, "makes", np.array(own)) for i, own in enumerate(makers)]
    return ChannelGroup(name, size, tuple(members))


@pytest.mark.parametrize(
    ("size", "wanted", "multiple", "least", "number"),
    [
        (32, 24.0, 8, 1, 24),
        (32, 28.0, 8, 1, 32),
        (32, 27.9, 8, 1, 24),
        (32, 0.0, 8, 1, 8),
        (32, 0.0, 8, 9, 16),
        (20, 19.0, 8, 1, 20),
        (6, 3.0, 8, 1, 6),
        (6, 3.0, 1, 1, 3),
        (6, 0.0, 1, 4, 4),
        (6, 0.0, 1, 9, 6),
    ],
)
def test_numbers_are_rounded_to_what_is_allowed(size, wanted, multiple, least, number):
    assert Rounding(multiple, least).of(size, wanted) == number


def test_each_group_loses_its_share():
    groups = (group("a", 10), group("b", 20))
    assert uniform_counts(groups, {"a": 0.5, "b": 0.25}, Rounding()) == {"a": 5, "b": 15}


def test_the_least_important_of_all_go():
    groups = (group("a", 4), group("b", 4))
    scores = {"a": np.array([1.0, 9, 9, 9]), "b": np.array([2.0, 3, 4, 9])}
    assert global_counts(groups, scores, 0.5, Rounding()) == {"a": 3, "b": 1}
    assert global_counts(groups, scores, 0.5, Rounding(at_least=2)) == {"a": 3, "b": 2}
    assert global_counts(groups, scores, 0.5, Rounding(2)) == {"a": 4, "b": 2}
    assert global_counts((), {}, 0.5, Rounding()) == {}


def test_the_most_important_stay_in_order_and_the_first_of_equals():
    assert most_important(group("a", 5), np.array([1.0, 5, 3, 5, 0]), 3, 1).tolist() == [1, 2, 3]
    assert most_important(group("a", 4), np.zeros(4), 2, 1).tolist() == [0, 1]


def test_every_layer_keeps_its_own_when_a_group_has_several_side_by_side():
    side = group("a", 6, [0, 1, 2], [3, 4, 5])
    scores = np.array([9.0, 8, 7, 1, 3, 2])
    assert most_important(side, scores, 3, 1).tolist() == [0, 1, 4]
    assert most_important(side, scores, 3, 2).tolist() == [0, 1, 4, 5]
    assert most_important(side, scores, 3, 5).tolist() == [*range(6)]


def test_bisection_finds_the_smallest_share():
    asked = []

    def cost(share):
        asked.append(share)
        return 1 - np.floor(share * 16) / 16

    found = smallest_share(cost, 0.7)
    assert cost(found) <= 0.7
    assert found == pytest.approx(5 / 16, abs=2e-3)
    assert len(asked) < 20
    assert smallest_share(cost, 1.0) == 0.0
    assert smallest_share(lambda share: 1 - share / 2, 0.4) is None
