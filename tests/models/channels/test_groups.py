import numpy as np
import pytest

from tfcompress.models.channels.groups import ChannelGroup, Member, remaining, rows
from tfcompress.models.channels.tracking import Tracker
from tfcompress.vocabulary.errors import ModelError

BOTH = Member("mix", "kernel", 2, "takes", np.array([0, 1, 2, -1, -1]))
GROUP = ChannelGroup(
    "stem",
    3,
    (Member("stem", "kernel", 3, "makes", np.arange(3)), Member("bn", "gamma", 0, "carries", np.arange(3)), BOTH),
)
OTHER = ChannelGroup(
    "side",
    2,
    (
        Member("side", "kernel", 1, "makes", np.arange(2)),
        Member("mix", "kernel", 2, "takes", np.array([-1, -1, -1, 0, 1])),
    ),
)
LAST = ChannelGroup("out", 4, (Member("out", "kernel", 1, "makes", np.arange(4)),), ("they are the model's output",))
ALL = (GROUP, OTHER, LAST)


def test_a_group_is_a_line_for_a_person():
    assert str(GROUP) == "stem: 3 channels, made by stem; carried by bn; taken by mix"
    assert str(LAST) == "out: 4 channels, made by out. Never cut: they are the model's output"


def test_groups_are_a_table():
    assert rows(ALL) == (
        ("stem", "3", "stem", "bn", "mix", ""),
        ("side", "2", "side", "", "mix", ""),
        ("out", "4", "out", "", "", "they are the model's output"),
    )


def test_places_of_other_groups_stay():
    masks = remaining(ALL, {"stem": [0, 2]})
    assert masks["mix", "kernel", 2].tolist() == [True, False, True, True, True]
    assert masks["stem", "kernel", 3].tolist() == [True, False, True]
    assert ("side", "kernel", 1) not in masks
    both = remaining(ALL, {"stem": [1], "side": [1], "out": range(4)})
    assert both["mix", "kernel", 2].tolist() == [False, True, False, False, True]
    assert remaining(ALL, {}) == {}


def test_everything_that_cannot_be_cut_is_named_at_once():
    with pytest.raises(ModelError) as failure:
        remaining(ALL, {"ghost": [0], "out": [0], "side": []})
    text = str(failure.value)
    assert "ghost is no group" in text
    assert "out is never cut: they are the model's output" in text
    assert "side would be left without a channel" in text
    assert "Groups: stem, side, out." in text


def test_scores_of_places_are_summed_by_channel():
    flat = Member("fc", "kernel", 0, "takes", np.array([0, 1, -1, 0, 1, -1]))
    assert flat.total(np.array([1, 2, 4, 8, 16, 32]), 3).tolist() == [9, 18, 0]
    assert flat.present(3).tolist() == [True, True, False]


def test_what_becomes_one_channel_by_detours_is_one():
    tracker = Tracker()
    a, b, c = (tracker.made(name, 2) for name in "abc")
    for name, channels in zip("abc", (a, b, c), strict=True):
        tracker.attach(name, "kernel", 1, channels, "makes")
    whole = tracker.made("d", 4)
    tracker.attach("d", "kernel", 1, whole, "makes")
    tracker.unite(np.concatenate([b, c]), whole)
    first, second = tracker.groups()
    assert (first.name, first.size) == ("a", 2)
    # Side by side: what b makes and what c makes are different channels of one group, and d makes them all.
    assert (second.name, second.size, second.layers("makes")) == ("b", 4, ("b", "c", "d"))
    members = {member.layer: member.channels.tolist() for member in second.members}
    assert members == {"b": [0, 1], "c": [2, 3], "d": [0, 1, 2, 3]}
    tracker.unite(b, c)
    (united,) = tracker.groups()[1:]
    assert united.size == 2
    assert {member.layer: member.channels.tolist() for member in united.members}["d"] == [0, 1, 0, 1]


def test_one_frozen_channel_freezes_its_group():
    tracker = Tracker()
    made = tracker.made("a", 3)
    tracker.attach("a", "kernel", 1, made, "makes")
    tracker.freeze(made[1:2], "looked at")
    tracker.freeze(made, "looked at")
    (group,) = tracker.groups()
    assert group.frozen == ("looked at",)
