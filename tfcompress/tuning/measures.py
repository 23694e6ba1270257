"""What an objective or a bound of a search may name, and what a person asked for in these words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import Literal

from tfcompress.vocabulary.errors import SearchError


@dataclass(frozen=True)
class Measure:
    """A number that is measured of every trial's artifact."""

    name: str
    """As objectives, bounds and tables call it."""
    unit: str
    """Of its numbers; empty for a bare ratio or count."""
    direction: Literal["min", "max"]
    """Whether less or more of it is better."""
    description: str
    """One sentence for `--help` and tables."""


LATENCY = "latency_ratio"
"""The measure that is taken by running an artifact on this machine."""

MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        measure.name: measure
        for measure in (
            Measure("accuracy", "", "max", "the task's metric on the validation split, where more of it is better"),
            Measure("drop_points", "points", "min", "how much worse the metric is than the float file's"),
            Measure("bytes", "bytes", "min", "size on disk"),
            Measure("deflated_bytes", "bytes", "min", "size after DEFLATE (zlib, level 9)"),
            Measure(LATENCY, "", "min", "time of one inference over the float file's, one thread"),
            Measure("arena_bytes", "bytes", "min", "working memory for the activations"),
            Measure("macs", "", "min", "multiplications of one inference"),
            Measure("bit_operations", "", "min", "multiplications times the bits of both factors"),
        )
    }
)
"""Every measure, by name. All of the metric are of the validation split: the test split decides nothing."""
_OF_EITHER_SIGN = frozenset({"accuracy", "drop_points"})


@dataclass(frozen=True)
class Goal:
    """What a search is for: measures to improve, within bounds on measures.

    Args:
        objectives: names of `MEASURES`, each improved in its own direction; the first one decides which trial is best.
        bounds: by name of a measure, the most it may be where less is better, the least where more is.

    Raises:
        SearchError: a name that is no measure, an objective named twice, none at all, or a bound that is no number.

    Example:
        >>> goal = Goal(("deflated_bytes", "drop_points"), {"drop_points": 1.0})
        >>> goal.violation({"deflated_bytes": 9000, "drop_points": 1.5})
        0.5
    """

    objectives: tuple[str, ...]
    bounds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = list(_problems(self.objectives, self.bounds))
        if problems:
            raise SearchError("The goal cannot be searched for:\n  " + "\n  ".join(problems))
        object.__setattr__(self, "objectives", tuple(self.objectives))
        object.__setattr__(self, "bounds", MappingProxyType({k: float(v) for k, v in self.bounds.items()}))

    def __hash__(self) -> int:
        return hash((self.objectives, tuple(sorted(self.bounds.items()))))

    def __reduce__(self) -> tuple:
        return Goal, (self.objectives, dict(self.bounds))

    @property
    def needed(self) -> frozenset[str]:
        """The measures that must be taken of every trial."""
        return frozenset(self.objectives) | frozenset(self.bounds)

    def vector(self, measured: Mapping[str, float]) -> tuple[float, ...]:
        """The objectives of one trial, all to be minimised: those of which more is better with their sign changed."""
        return tuple(to_minimise(name, measured[name]) for name in self.objectives)

    def excesses(self, measured: Mapping[str, float]) -> dict[str, float]:
        """By how much each violated bound is missed, in its measure's unit; empty when all are met."""
        missed = {
            name: to_minimise(name, measured[name]) - to_minimise(name, bound) for name, bound in self.bounds.items()
        }
        return {name: excess for name, excess in missed.items() if excess > 0}

    def violation(self, measured: Mapping[str, float]) -> float:
        """0 when all bounds are met, else the sum of their excesses, each over its bound (over 1 for a bound of 0)."""
        return sum(excess / (abs(self.bounds[name]) or 1.0) for name, excess in self.excesses(measured).items())

    def best(self, trials: Sequence[Mapping[str, float] | None]) -> int | None:
        """The index of the trial to take: within the bounds the best in the first objective, then in the next ones.

        When none is within the bounds, the one that misses them least. None when every trial is None, failed.
        """
        ordered = [
            (self.violation(measured), self.vector(measured), index)
            for index, measured in enumerate(trials)
            if measured is not None
        ]
        return min(ordered)[-1] if ordered else None


def to_minimise(name: str, value: float) -> float:
    """`value` of the measure `name`, with its sign changed where more of it is better."""
    return float(value) if MEASURES[name].direction == "min" else -float(value)


def _problems(objectives: Sequence[str], bounds: Mapping[str, float]) -> Iterable[str]:
    if isinstance(objectives, str):
        yield f"objectives must be a sequence of names. Received: the text {objectives!r}"
        return
    if not objectives:
        yield f"at least one objective must be named, of {', '.join(MEASURES)}"
    for name in dict.fromkeys(objectives):
        if objectives.count(name) > 1:
            yield f"an objective may be named once. Received: {name} {objectives.count(name)} times"
    for role, names in (("an objective", dict.fromkeys(objectives)), ("a bound", bounds)):
        for name in names:
            if name not in MEASURES:
                near = get_close_matches(str(name), MEASURES, n=1)
                hint = f" Did you mean {near[0]}?" if near else ""
                yield f"{role} must be one of {', '.join(MEASURES)}. Received: {name}.{hint}"
    for name, bound in bounds.items():
        if isinstance(bound, bool) or not isinstance(bound, (int, float)) or not math.isfinite(bound):
            yield f"the bound of {name} must be a finite number. Received: {bound!r}"
        elif bound < 0 and name not in _OF_EITHER_SIGN:
            yield f"the bound of {name} must not be negative: no file could meet it. Received: {bound!r}"
