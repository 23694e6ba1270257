"""The cells of a sensitivity analysis: one layer alone at one value, and what became of the file."""

from __future__ import annotations

import glob
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field

from tfcompress.techniques.base import Technique, value_for
from tfcompress.vocabulary.errors import SearchError
from tfcompress.vocabulary.schema import Schema
from tfcompress.vocabulary.training import Fit

Level = int | float


@dataclass(frozen=True)
class Axis:
    """A value that every layer has of its own, and that is analysed layer by layer.

    Args:
        technique: whose value it is.
        neutral: that of the layers that are left alone.
        levels: tried where nobody asks for others.
        allowed: the rule for levels, in words.
        admits: whether a level keeps it.
        of: the value that a step gives to a layer.
        alone: what of a step changes, so that it gives a layer a level and the others the neutral one.
    """

    technique: str
    neutral: Level
    levels: tuple[Level, ...]
    allowed: str
    admits: Callable[[Level], bool]
    of: Callable[[Any, str], Level]
    alone: Callable[[str, Level], dict[str, Any]]


def _sparsity_of(step: Any, layer: str) -> float:
    if step.n_of_m is not None:
        return step.n_of_m[0] / step.n_of_m[1]
    return value_for(layer, step.final_sparsity, step.per_layer)


AXES: Mapping[str, Axis] = MappingProxyType(
    {
        "bits": Axis(
            technique="quantization",
            neutral=8,
            levels=(2, 3, 4, 6, 8),
            allowed="whole numbers from 2 to 8",
            admits=lambda level: level == int(level) and 2 <= level <= 8,
            of=lambda step, layer: value_for(layer, step.weight_bits, step.per_layer),
            alone=lambda layer, level: {
                "weight_bits": 8,
                "per_layer": {glob.escape(layer): int(level)},
                "budget": None,
            },
        ),
        "sparsity": Axis(
            technique="pruning",
            neutral=0.0,
            levels=(0.5, 0.7, 0.9),
            allowed="numbers above 0 and below 1",
            admits=lambda level: 0 < level < 1,
            of=_sparsity_of,
            alone=lambda layer, level: {
                "final_sparsity": level,
                "per_layer": {},
                "layers": [glob.escape(layer)],
                "exclude": [],
                "schedule": "constant",
                "n_of_m": None,
                "importance": "magnitude",
                "distribution": "uniform",
                "regrow": "none",
            },
        ),
    }
)
"""Everything that is analysed, by name."""


def alone(axis: str, step: Technique, layer: str, level: Level) -> Technique:
    """`step` without training, which gives `layer` a level of `axis` and leaves the others alone."""
    return step.model_copy(update={**AXES[axis].alone(layer, level), "fit": Fit(epochs=0)})


def checked_levels(levels: Mapping[str, Sequence[Level]]) -> dict[str, tuple[Level, ...]]:
    """`levels` by axis, each once and in order.

    Raises:
        SearchError: with all that no layer can have.
    """
    problems = []
    for axis, wanted in levels.items():
        wrong = [level for level in wanted if not math.isfinite(level) or not AXES[axis].admits(level)]
        if wrong:
            problems.append(f"{axis} must be {AXES[axis].allowed}. Received: {', '.join(f'{x:g}' for x in wrong)}")
    if problems:
        raise SearchError("The analysis cannot be made:\n  " + "\n  ".join(problems))
    return {axis: tuple(sorted(set(wanted))) for axis, wanted in levels.items()}


class Cell(Schema):
    """One layer alone at one value, the others neutral, and what was measured of the file."""

    axis: str
    """Of `AXES`; empty for the reference, in which every layer is neutral."""
    layer: str
    """The layer; empty for the reference."""
    value: int | float
    """Of the layer: bits, or the share of zeros. 0 for the reference."""
    status: Literal["completed", "failed"] = "completed"
    """Failed without a file."""
    reason: str = ""
    """Why it failed."""
    measured: dict[str, float] = Field(default={})
    """By measure, the metric on some samples of the validation split."""
    output_error: float | None = None
    """Root mean square of the outputs' difference from the float file's, over the root mean square of those."""
    sha256: str = ""
    """Of the file."""
    seconds: float = 0.0
    """It took."""


class Table(Schema):
    """A sensitivity analysis: the file `sensitivity.json`."""

    metric: str | None
    """Name of the metric; None where the data has no labels."""
    samples: int
    """Of the validation split that the metric and the output error are of."""
    standard_error: float | None
    """Of the reference's metric, in its unit."""
    reference: Cell
    """Every layer neutral: 8 bits and no zeros made."""
    cells: tuple[Cell, ...]
    """By axis, in the model's order of layers, by value."""

    def added_drop(self, cell: Cell) -> float | None:
        """By how much more the metric drops than the reference's, points; None where it is not known."""
        return self.change(cell, "drop_points")

    def change(self, cell: Cell, measure: str) -> float | None:
        """The cell's measure less the reference's; None where either is not known."""
        if measure not in cell.measured or measure not in self.reference.measured:
            return None
        return cell.measured[measure] - self.reference.measured[measure]

    def by_damage(self) -> list[Cell]:
        """The cells, the greatest drop of the metric first, of equal ones that whose outputs are farthest off.

        Failed ones stand last.
        """

        def order(cell: Cell) -> tuple[bool, float, float]:
            return cell.status == "failed", -(self.added_drop(cell) or 0.0), -(cell.output_error or 0.0)

        return sorted(self.cells, key=order)

    def along(self, axis: str) -> dict[str, dict[Level, Cell]]:
        """The cells of an axis, by layer and value."""
        found: dict[str, dict[Level, Cell]] = {}
        for cell in self.cells:
            if cell.axis == axis:
                found.setdefault(cell.layer, {})[cell.value] = cell
        return found
