"""Channels that stand or fall together: which places of which weights go when one of them is cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tfcompress.vocabulary.errors import ModelError

Role = Literal["makes", "carries", "takes"]
Place = tuple[str, str, int]
"""A layer, one of its weights, and an axis of it."""


@dataclass(frozen=True, eq=False)
class Member:
    """One axis of one weight that numbers channels of a group.

    Args:
        layer: the layer's name.
        weight: the attribute that holds the weight; `target_shape` of a Reshape, which is none.
        axis: of the weight, from 0.
        role: whether the layer ``makes`` the channels (a convolution its filters), ``carries`` them, each on its own
            (a BatchNormalization, a depthwise kernel), or ``takes`` them (the next convolution).
        channels: int `[size of axis]`, the channel of the group at each place; -1 where another group's stands.
    """

    layer: str
    weight: str
    axis: int
    role: Role
    channels: np.ndarray

    @property
    def place(self) -> Place:
        """Which axis it is."""
        return self.layer, self.weight, self.axis

    def total(self, scores: np.ndarray, size: int) -> np.ndarray:
        """The sum of `scores` by channel of the group.

        Args:
            scores: `[size of axis]`, a number for each place.
            size: the channels of the group.
        """
        mine = self.channels >= 0
        return np.bincount(self.channels[mine], np.asarray(scores, np.float64)[mine], minlength=size)

    def present(self, size: int) -> np.ndarray:
        """Which channels of the group stand on this axis, bool `[size]`."""
        return np.bincount(self.channels[self.channels >= 0], minlength=size) > 0


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels of layers that can only be cut from all of them at once.

    Args:
        name: that of the first layer that makes them.
        size: how many there are.
        members: every weight's axis that they stand on.
        frozen: why none of them can be cut; empty where they can be.

    Example:
        >>> print(group)  # doctest: +SKIP
        stem: 16 channels, made by stem, block_conv2; carried by stem_bn; taken by block_conv1
    """

    name: str
    size: int
    members: tuple[Member, ...]
    frozen: tuple[str, ...] = ()

    def layers(self, role: Role) -> tuple[str, ...]:
        """The layers that play `role` in the group, in the model's order."""
        return tuple(dict.fromkeys(member.layer for member in self.members if member.role == role))

    def __str__(self) -> str:
        """The group in a line for a person."""
        verbs = {"makes": "made by", "carries": "carried by", "takes": "taken by"}
        parts = [f"{verb} {', '.join(self.layers(role))}" for role, verb in verbs.items() if self.layers(role)]
        line = f"{self.name}: {self.size} channels, {'; '.join(parts)}"
        return f"{line}. Never cut: {'; '.join(self.frozen)}" if self.frozen else line


def rows(groups: Iterable[ChannelGroup]) -> tuple[tuple[str, ...], ...]:
    """The groups as a table: name, channels, the layers that make, carry and take them, and why they are never cut."""
    return tuple(
        (
            group.name,
            str(group.size),
            *(", ".join(group.layers(role)) for role in ("makes", "carries", "takes")),
            "; ".join(group.frozen),
        )
        for group in groups
    )


def remaining(groups: Sequence[ChannelGroup], kept: Mapping[str, np.ndarray]) -> dict[Place, np.ndarray]:
    """Which places of each axis stay when only the channels `kept` of some groups do.

    Args:
        groups: of a model.
        kept: by the name of a group, the indices of its channels that stay; groups not listed stay whole.

    Returns:
        bool `[size of axis]` for every axis that channels of the listed groups stand on.

    Raises:
        ModelError: a name is no group, a group is frozen, or a layer would be left without a channel.
    """
    by_name = {group.name: group for group in groups}
    problems = [f"{name} is no group" for name in kept if name not in by_name]
    masks: dict[Place, np.ndarray] = {}
    for name in kept.keys() & by_name.keys():
        group = by_name[name]
        stays = np.zeros(group.size, bool)
        stays[np.asarray(kept[name], int)] = True
        if group.frozen and not stays.all():
            problems.append(f"{name} is never cut: {'; '.join(group.frozen)}")
        for member in group.members:
            mask = masks.setdefault(member.place, np.ones(len(member.channels), bool))
            mine = member.channels >= 0
            mask[mine] &= stays[member.channels[mine]]
    problems += [f"{layer} would be left without a channel" for (layer, _, _), mask in masks.items() if not mask.any()]
    if problems:
        raise ModelError(
            "Channels can be cut from groups that are not frozen, and one must stay in every layer: "
            f"{'; '.join(dict.fromkeys(problems))}. Groups: {', '.join(by_name) or 'none'}."
        )
    return masks
