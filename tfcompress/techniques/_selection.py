"""How many channels of each group stay, and which: plain numbers, without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfcompress.models.channels.groups import ChannelGroup

Kept = dict[str, np.ndarray]
"""By the name of a group, the sorted indices of its channels that stay."""


@dataclass(frozen=True)
class Rounding:
    """Which numbers of channels are allowed.

    Args:
        multiple_of: numbers that the kernels like; a group may also stay whole.
        at_least: channels that every layer keeps, where it has so many.
    """

    multiple_of: int = 1
    at_least: int = 1

    def of(self, size: int, wanted: float) -> int:
        """The allowed number nearest to `wanted`, of two the larger, for a group of `size` channels.

        Example:
            >>> Rounding(8).of(32, 21.0), Rounding(8).of(32, 20.0), Rounding(8).of(6, 3.0)
            (24, 24, 6)
        """
        smaller = (n for n in range(self.multiple_of, size, self.multiple_of) if n >= self.at_least)
        return min((size, *smaller), key=lambda n: (abs(n - wanted), -n))


def uniform_counts(groups: Sequence[ChannelGroup], shares: Mapping[str, float], rounding: Rounding) -> dict[str, int]:
    """How many channels each group keeps when it loses its share, by name."""
    return {group.name: rounding.of(group.size, group.size * (1 - shares[group.name])) for group in groups}


def global_counts(
    groups: Sequence[ChannelGroup], scores: Mapping[str, np.ndarray], share: float, rounding: Rounding
) -> dict[str, int]:
    """How many channels each group keeps when the least important `share` of all of them together goes.

    Args:
        groups: that compete.
        scores: by name, importances `[size]` that can be compared between groups.
        share: of all their channels, 0 to 1.
        rounding: applied to what is left of each group.
    """
    if not groups:
        return {}
    owner = np.repeat(np.arange(len(groups)), [group.size for group in groups])
    ranked = np.argsort(np.concatenate([scores[group.name] for group in groups]), kind="stable")
    lost = np.bincount(owner[ranked[: round(share * len(ranked))]], minlength=len(groups))
    return {group.name: rounding.of(group.size, group.size - int(n)) for group, n in zip(groups, lost, strict=True)}


def most_important(group: ChannelGroup, scores: np.ndarray, count: int, at_least: int) -> np.ndarray:
    """The indices of the `count` channels of highest score, sorted; of equal ones the first.

    Layers that make different channels of one group (what a Concatenate joins and an Add ties together) each keep
    `at_least` of theirs, or all they have; more than `count` may stay then.
    """
    order = np.argsort(-scores, kind="stable")
    needed: dict[int, None] = {}
    for member in group.members:
        if member.role == "makes":
            own = member.present(group.size)
            needed.update(dict.fromkeys(index for index in order[own[order]][:at_least]))
    ranked = [*needed, *(index for index in order if index not in needed)]
    return np.sort(np.array(ranked[: max(count, len(needed))], int))


def smallest_share(cost: Callable[[float], float], bound: float, finest: float = 1 / 1024) -> float | None:
    """The smallest share to cut whose cost is within `bound`, found by bisection.

    Args:
        cost: of a share in 0...1; falls, in steps, as the share grows.
        bound: not to be exceeded.
        finest: how near to the smallest the share is to be. Defaults to a thousandth.

    Returns:
        A share whose cost was found to be within `bound`; None where even that of 1 is not.

    Example:
        >>> round(smallest_share(lambda share: (1 - share) ** 2, 0.25), 2)
        0.5
    """
    if cost(0.0) <= bound:
        return 0.0
    if cost(1.0) > bound:
        return None
    low, high = 0.0, 1.0
    while high - low > finest:
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle) <= bound else (middle, high)
    return high
