"""Following channels through a graph: every channel that a layer makes has a number, and numbers can become one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tfcompress.models.channels.groups import ChannelGroup, Member, Place, Role

Channels = np.ndarray
"""int64 `[size of a tensor's last axis]`: the number of the channel at each place."""


class _Union:
    """Disjoint sets of the numbers 0, 1, ... that only grow together."""

    def __init__(self) -> None:
        self._parents: list[int] = []

    def add(self, count: int) -> np.ndarray:
        first = len(self._parents)
        self._parents += range(first, first + count)
        return np.arange(first, first + count)

    def root(self, one: int) -> int:
        while self._parents[one] != one:
            self._parents[one] = self._parents[self._parents[one]]
            one = self._parents[one]
        return one

    def unite(self, one: int, other: int) -> None:
        # The smaller number stays, so that a set goes by what was made first.
        small, large = sorted((self.root(one), self.root(other)))
        self._parents[large] = small

    def roots(self) -> np.ndarray:
        return np.array([self.root(one) for one in range(len(self._parents))], int)


@dataclass
class Tracker:
    """Notes what becomes of channels, call by call of a graph, and tells the groups at the end."""

    _atoms: _Union = field(default_factory=_Union)
    _sources: _Union = field(default_factory=_Union)
    _source_of_atom: list[int] = field(default_factory=list)
    _made: dict[str, Channels] = field(default_factory=dict)
    _attached: dict[Place, tuple[Role, Channels]] = field(default_factory=dict)
    _frozen: list[tuple[Channels, str]] = field(default_factory=list)

    def made(self, name: str, count: int) -> Channels:
        """The channels that the layer `name` makes: new ones at its first call, the same at every other."""
        if name not in self._made:
            source = int(self._sources.add(1)[0])
            self._source_of_atom += [source] * count
            self._made[name] = self._atoms.add(count)
        return self._made[name]

    def unite(self, one: Channels, other: Channels) -> None:
        """Have the channels at each place of `one` and `other` stand or fall together."""
        for a, b in np.unique(np.stack([one, other]), axis=1).T:
            self._atoms.unite(int(a), int(b))
            self._sources.unite(self._source_of_atom[a], self._source_of_atom[b])

    def attach(self, layer: str, weight: str, axis: int, channels: Channels, role: Role) -> None:
        """Say that an axis of a weight numbers `channels`; those of all calls of its layer are one."""
        _, known = self._attached.setdefault((layer, weight, axis), (role, channels))
        if known is not channels:
            self.unite(known, channels)

    def freeze(self, channels: Channels, reason: str) -> None:
        """Forbid to cut any of `channels`."""
        self._frozen.append((channels, reason))

    def groups(self) -> tuple[ChannelGroup, ...]:
        """The groups of all channels that weights make, in the order in which they were first made."""
        channel_of, group_of = self._atoms.roots(), self._sources.roots()[self._source_of_atom].astype(int)
        members: dict[int, list[Member]] = {int(group): [] for group in dict.fromkeys(group_of)}
        units = {group: np.unique(channel_of[group_of == group]) for group in members}
        for (layer, weight, axis), (role, atoms) in self._attached.items():
            for group in np.unique(group_of[atoms]):
                mine = group_of[atoms] == group
                channels = np.where(mine, np.searchsorted(units[group], channel_of[atoms]), -1)
                members[group].append(Member(layer, weight, axis, role, channels))
        reasons: dict[int, dict[str, None]] = {group: {} for group in members}
        for atoms, reason in self._frozen:
            for group in np.unique(group_of[atoms]):
                reasons[group][reason] = None
        return tuple(
            # Its first maker names it: what comes in from outside, and makes nothing, is no layer to speak of.
            ChannelGroup(makers[0], len(units[group]), tuple(mine), tuple(reasons[group]))
            for group, mine in members.items()
            if (makers := [member.layer for member in mine if member.role == "makes"])
        )
