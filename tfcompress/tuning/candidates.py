"""The recipes that an oracle chooses among: all of them where they can be counted, else samples and variations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfcompress.tuning.holes import Hole
from tfcompress.tuning.space import Space

_ENUMERATED = 4096
"""The largest space of which every recipe is considered each time."""
_SAMPLED = 768
"""Recipes drawn from a larger one, and as many again are variations of good ones."""
_STEP = 0.15
"""Standard deviation of a small change, as a share of a hole's range."""

Recipe = dict[str, Any]
"""The values of the active holes, by name."""


def enumerable(space: Space) -> bool:
    """Whether every recipe of `space` can be considered."""
    return space.size is not None and space.size <= _ENUMERATED


def sampled(space: Space, good: Sequence[Recipe], random: np.random.Generator) -> Iterator[Recipe]:
    """Recipes of a space that is too large to be enumerated: its corners, some at random, some near the good ones."""
    for share in (0.0, 1.0):
        yield {hole.name: hole.at(share) for hole in space.holes}
    for _ in range(_SAMPLED):
        yield space.sample(random)
    for index in range(_SAMPLED if good else 0):
        yield varied(space, good[index % len(good)], random)


def distinct(space: Space, recipes: Iterable[Mapping[str, Any]], but: Iterable[tuple] = ()) -> Iterator[Recipe]:
    """Of each recipe the active holes' values, the first time it comes, unless its canonical form is in `but`."""
    seen = set(but)
    for values in recipes:
        identity = space.canonical(values)
        if identity not in seen:
            seen.add(identity)
            yield dict(identity)


def varied(space: Space, values: Mapping[str, Any], random: np.random.Generator) -> Recipe:
    """A recipe in which one or two of the holes of `values` may have another value: a near one, or any."""
    changed = {**space.sample(random), **values}
    active = space.active(values)
    for index in random.choice(len(active), size=min(len(active), random.integers(1, 3)), replace=False):
        hole = active[index]
        near = np.clip(share_of(hole, values[hole.name]) + random.normal(0, _STEP), 0, 1 - 1e-12)
        changed[hole.name] = hole.at(random.random() if random.random() < 0.5 else float(near))
    # A hole that the change brings into being was not drawn above, but any value will do.
    return dict(space.canonical({hole.name: hole.at(random.random()) for hole in space.holes} | changed))


def is_ordered(hole: Hole) -> bool:
    """Whether a hole's values are numbers, of which one lies between two others."""
    return hole.kind != "choice" or all(
        isinstance(value, (int, float)) and not isinstance(value, bool) for value in hole.values
    )


def share_of(hole: Hole, value: Any) -> float:
    """Where `value` stands in its hole, 0 to 1, so that `Hole.at` gives it back."""
    if hole.values:
        return (hole.values.index(value) + 0.5) / len(hole.values)
    if hole.sampling == "log":
        return math.log(value / hole.low) / math.log(hole.high / hole.low)
    share = (value - hole.low) / (hole.high - hole.low)
    return share if hole.count is None else (round(share * (hole.count - 1)) + 0.5) / hole.count
