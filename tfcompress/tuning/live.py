"""A search as it goes on: the table that a person watches, and the time that is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from statistics import fmean

from tfcompress.tuning.holes import Hole, in_yaml
from tfcompress.tuning.measures import Goal
from tfcompress.tuning.trials import Trial

NEWEST = 10
"""Trials that are shown although they are not on the front."""


@dataclass(frozen=True)
class Standing:
    """Where a search stands.

    Args:
        trials: all, by number.
        front: numbers of those that none is better than, in the order of the first objective.
        best: the number of the one to take; None while there is none.
        total: trials that the search will have.
        workers: trials at a time.
        seconds: that each trial took which ended since the search was begun or gone on with.
    """

    trials: Sequence[Trial]
    front: Sequence[int]
    best: int | None
    total: int
    workers: int
    seconds: Sequence[float]

    @property
    def done(self) -> int:
        """How many trials ended."""
        return sum(trial.ended for trial in self.trials)

    @property
    def seconds_left(self) -> float | None:
        """The mean of the trials that ended, times those to come, over the workers; None before the first one.

        What earlier sessions took says nothing of this one, which may have another machine, and other workers.
        """
        left = max(0, self.total - self.done)
        if not self.seconds:
            return None
        # The last ones take their time, however many workers wait beside them.
        return fmean(self.seconds) * max(left / self.workers, min(left, 1))

    def __str__(self) -> str:
        left = self.seconds_left
        parts = [f"{self.done} of {self.total} trials"]
        if left is not None:
            parts.append(f"{timedelta(seconds=round(left))} left")
        return ", ".join(parts)


def planned(max_trials: int, size: int | None, oracle: str) -> int:
    """How many trials a search will have: no recipe is tried twice, but by Hyperband, with other epochs."""
    return max_trials if size is None or oracle == "hyperband" else min(max_trials, size)


def table(standing: Standing, goal: Goal, holes: Sequence[Hole]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The header, and a row for each trial worth watching: the best and the front first, then the newest.

    The holes stand last, for where there is no room for all columns, and of these the ones that do not vary.
    """
    measures = list(dict.fromkeys([*goal.objectives, *goal.bounds]))
    shown = _shown(standing)
    varying = sorted(holes, key=lambda hole: len({in_yaml(t.values.get(hole.name)) for t in standing.trials}) < 2)
    names = dict(zip((hole.name for hole in holes), short_names([hole.name for hole in holes]), strict=True))

    def row(trial: Trial) -> tuple[str, ...]:
        return (
            str(trial.number),
            trial.status,
            "best" if trial.number == standing.best else "yes" if trial.number in standing.front else "",
            *(_figure(trial, measure) for measure in measures),
            "" if trial.seconds is None else f"{trial.seconds:.0f}",
            *(in_yaml(trial.values[hole.name]) if hole.name in trial.values else "" for hole in varying),
        )

    header = ("trial", "status", "front", *measures, "seconds", *(names[hole.name] for hole in varying))
    return header, [row(trial) for trial in shown]


def short_names(names: Sequence[str]) -> list[str]:
    """The fewest last parts of each name that no other one ends with; what only says "per layer" aside.

    Example:
        >>> short_names(["pruning.final_sparsity", "pruning.per_layer.fc1", "quantization.per_layer.fc1"])
        ['final_sparsity', 'pruning.fc1', 'quantization.fc1']
    """
    parts = [[part for part in name.split(".") if part != "per_layer"] for name in names]
    longest = max(map(len, parts), default=0)

    def last(count: int) -> Callable[[list[str]], str]:
        return lambda of_name: ".".join(of_name[-count:])

    short = []
    for name, own in zip(names, parts, strict=True):
        counts = (n for n in range(1, longest + 1) if sum(last(n)(other) == last(n)(own) for other in parts) == 1)
        count = next(counts, None)
        short.append(name if count is None else last(count)(own))
    return short


def _shown(standing: Standing) -> list[Trial]:
    by_number = {trial.number: trial for trial in standing.trials}
    best = [] if standing.best is None else [standing.best]
    ahead = dict.fromkeys([*best, *standing.front])
    newest = [number for number in sorted(by_number, reverse=True) if number not in ahead][:NEWEST]
    return [by_number[number] for number in (*ahead, *newest)]


def _figure(trial: Trial, measure: str) -> str:
    return f"{trial.measured[measure]:,.6g}" if measure in trial.measured else ""
