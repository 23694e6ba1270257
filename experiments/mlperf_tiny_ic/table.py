"""What is measured of the files of this experiment: runs, their file, and the table that people read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from tfcompress.atomic import write_atomically
from tfcompress.vocabulary.schema import Schema

GOALS = {
    "fast": {"accuracy": 0.878, "bytes": 83_000, "latency_ratio": 0.40},
    "small": {"accuracy": 0.870, "bytes": 60_000, "latency_ratio": 1.0},
    "smallest": {"accuracy": 0.850, "bytes": 45_000, "latency_ratio": 1.0},
}
"""By recipe: the least accuracy, the most bytes, and the most time, of the official int8 file's."""

_INTERVAL = 1.96
"""Standard errors on both sides that hold 95 % of a normal distribution."""


class Run(Schema):
    """One recipe with one seed, beside the official int8 file."""

    recipe: str
    """Name of the file here."""
    seed: int
    """Of the run."""
    accuracy: float
    """Share of the test images that the artifact gets right."""
    standard_error: float
    """Of that share."""
    official_accuracy: float
    """The official int8 file's share, of the same images."""
    difference_points: float
    """Percentage points by which the artifact is better, image by image."""
    interval_points: float
    """Half the width of the 95 % interval of that difference."""
    images: int
    """Of the test split."""
    bytes: int
    """Of the artifact."""
    deflated_bytes: int
    """Of the artifact, deflated."""
    latency_ratio: float
    """Time of an invoke over the official file's, both timed in turn in one process, one thread."""
    kept: bool
    """Whether every promise was found in the file."""


def paired(right: np.ndarray, official: np.ndarray) -> tuple[float, float]:
    """By how many points one file is better than another on the same images, and half its 95 % interval.

    Args:
        right: bool `[images]`, which ones the file gets right.
        official: bool `[images]`, which ones the other does.

    Example:
        >>> paired(np.array([True, True, False, True]), np.array([True, False, False, True]))[0]
        25.0
    """
    apart = 100 * (right.astype(float) - official.astype(float))
    return float(apart.mean()), float(_INTERVAL * apart.std(ddof=1) / np.sqrt(len(apart)))


def read(path: Path) -> dict[tuple[str, int], Run]:
    """The runs of a results file by recipe and seed; none where there is no file yet."""
    if not path.exists():
        return {}
    runs = (Run.model_validate(tree) for tree in json.loads(path.read_text(encoding="utf-8")))
    return {(run.recipe, run.seed): run for run in runs}


def write(path: Path, runs: Mapping[tuple[str, int], Run]) -> None:
    """Write all runs whole or not at all."""
    trees = [run.model_dump(mode="json") for _, run in sorted(runs.items())]
    write_atomically(path, (json.dumps(trees, indent=2) + "\n").encode())


def text(runs: Sequence[Run]) -> str:
    """The markdown table: a line a run, and of each recipe with several seeds the median."""
    header = ("recipe", "seed", "accuracy", "to the official file, points", "bytes", "deflated", "latency", "goal")
    lines = [_line(header), _line(["---"] * len(header))]
    for recipe in GOALS:
        own = sorted((run for run in runs if run.recipe == recipe), key=lambda run: run.seed)
        lines += [_line(_row(run)) for run in own]
        if len(own) > 1:
            lines.append(_line(_median(recipe, own)))
    return "\n".join(lines) + "\n"


def _row(run: Run) -> list[str]:
    return [
        run.recipe,
        str(run.seed),
        f"{run.accuracy:.1%} ± {100 * run.standard_error:.1f}",
        f"{run.difference_points:+.1f} ± {run.interval_points:.1f}",
        f"{run.bytes:,}",
        f"{run.deflated_bytes:,}",
        f"{run.latency_ratio:.2f}x",
        _verdict(run.recipe, run.accuracy, run.bytes, run.latency_ratio),
    ]


def _median(recipe: str, runs: Sequence[Run]) -> list[str]:
    accuracy, size, deflated, ratio = (
        median(getattr(run, name) for run in runs) for name in ("accuracy", "bytes", "deflated_bytes", "latency_ratio")
    )
    difference = median(run.difference_points for run in runs)
    verdict = _verdict(recipe, accuracy, size, ratio)
    figures = (f"{accuracy:.1%}", f"{difference:+.1f}", f"{size:,.0f}", f"{deflated:,.0f}", f"{ratio:.2f}x", verdict)
    return [recipe, f"median of {len(runs)}", *figures]


def _verdict(recipe: str, accuracy: float, size: float, ratio: float) -> str:
    goal = GOALS[recipe]
    misses = [
        *([f"accuracy under {goal['accuracy']:.1%}"] if accuracy < goal["accuracy"] else []),
        *([f"more than {goal['bytes']:,} bytes"] if size > goal["bytes"] else []),
        *([f"more than {goal['latency_ratio']:.2f}x"] if ratio > goal["latency_ratio"] else []),
    ]
    return ", ".join(misses) or "met"


def _line(values: Sequence[str]) -> str:
    return "| " + " | ".join(values) + " |"
