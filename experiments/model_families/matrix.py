"""The matrix of families and recipes: its cells, their file, and the table that people read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfcompress.atomic import write_atomically
from tfcompress.vocabulary.errors import TfcompressError
from tfcompress.vocabulary.schema import Schema

RECIPES = ("ptq_int8", "qat", "prune_qat")
MOST_MEAN_STEPS = 1.0
"""Largest mean difference from the Keras model, in steps of the artifact's output, that passes."""
LEAST_ARGMAX = 0.98
"""Smallest share of samples of the same class as the Keras model's that passes."""

_HEADER = (
    "family",
    "recipe",
    "loads",
    "full integer",
    "mean steps",
    "same class",
    "accuracy, float",
    "accuracy, artifact",
    "seconds",
    "within the bars",
)


class Cell(Schema):
    """What one recipe made of one family; figures are None where it did not come so far."""

    family: str
    """The network."""
    recipe: str
    """One of `RECIPES`."""
    loaded: bool = False
    """Whether `load_model` took the trained network."""
    full_integer: bool | None = None
    """Whether every operator of the artifact works on integers."""
    mean_steps: float | None = None
    """Mean difference from the recipe's last Keras model, in steps of the artifact's output."""
    argmax: float | None = None
    """Share of test samples of the same class as that Keras model's."""
    float_accuracy: float | None = None
    """Of the float file of the network as it was trained, on the test split."""
    accuracy: float | None = None
    """Of the artifact, on the test split."""
    seconds: float | None = None
    """Of `load_model` and `compress`, on the clock."""
    refusal: str | None = None
    """A `TfcompressError` with its name: the reason why there is no artifact."""
    defect: str | None = None
    """Any other exception, which should have had a name."""

    @property
    def is_finished(self) -> bool:
        """Whether it need not run again: measured, or refused with a reason."""
        return self.defect is None

    @property
    def verdict(self) -> str:
        """`yes`, or what stands against it."""
        if self.refusal or self.defect:
            return f"refused, {self.refusal}" if self.refusal else f"defect, {self.defect}"
        misses = []
        if not self.full_integer:
            misses.append("not full integer")
        if self.mean_steps > MOST_MEAN_STEPS:
            misses.append(f"more than {MOST_MEAN_STEPS:g} step")
        if self.argmax is not None and self.argmax < LEAST_ARGMAX:
            misses.append(f"same class under {LEAST_ARGMAX:.0%}")
        return ", ".join(misses) or "yes"


def attempt(family: str, recipe: str, run: Callable[[dict[str, Any]], None]) -> Cell:
    """The cell that `run` fills, whatever becomes of it: no failure ends the matrix.

    Args:
        family: the network.
        recipe: the recipe.
        run: writes fields of `Cell` into the dict it is given, as it learns them.
    """
    found: dict[str, Any] = {}
    try:
        run(found)
        return Cell(family=family, recipe=recipe, **found)
    except TfcompressError as error:
        failure = {"refusal": f"{type(error).__name__}: {error}"}
    except Exception as error:  # A matrix shows a defect where it is; the other cells have to run.
        failure = {"defect": f"{type(error).__name__}: {error}"}
    return Cell(family=family, recipe=recipe, loaded=found.get("loaded", False), **failure)


def read(path: Path) -> dict[tuple[str, str], Cell]:
    """The cells of a results file by family and recipe; none where there is no file yet."""
    if not path.exists():
        return {}
    cells = (Cell.model_validate(tree) for tree in json.loads(path.read_text(encoding="utf-8")))
    return {(cell.family, cell.recipe): cell for cell in cells}


def write(path: Path, cells: Mapping[tuple[str, str], Cell]) -> None:
    """Write all cells whole or not at all."""
    trees = [cell.model_dump(mode="json") for cell in cells.values()]
    write_atomically(path, (json.dumps(trees, indent=2) + "\n").encode())


def left_to_run(
    cells: Mapping[tuple[str, str], Cell], families: Sequence[str], recipes: Sequence[str], *, again: bool = False
) -> Iterator[tuple[str, str]]:
    """The chosen pairs without a finished cell, family by family; all of them when `again`."""
    for family in families:
        for recipe in recipes:
            cell = cells.get((family, recipe))
            if again or cell is None or not cell.is_finished:
                yield family, recipe


def table(cells: Mapping[tuple[str, str], Cell], families: Sequence[str]) -> str:
    """The markdown table of the cells there are, in the order of `families` and `RECIPES`, and how many pass."""
    order = [cells[family, recipe] for family in families for recipe in RECIPES if (family, recipe) in cells]
    lines = [_line(_HEADER), _line(["---"] * len(_HEADER)), *(_line(_row(cell)) for cell in order)]
    passing = sum(cell.verdict == "yes" for cell in order)
    bars = f"full integer, at most {MOST_MEAN_STEPS:g} step on average, same class of at least {LEAST_ARGMAX:.0%}"
    return "\n".join([*lines, "", f"{passing} of {len(order)} cells are within the bars: {bars}."]) + "\n"


def summary(cells: Mapping[tuple[str, str], Cell], families: Sequence[str]) -> str:
    """The markdown table of one line a family: what each recipe's artifact is like, or why there is none."""
    lines = [_line(("family", "float", *RECIPES)), _line(["---"] * (2 + len(RECIPES)))]
    for family in families:
        own = [cells.get((family, recipe)) for recipe in RECIPES]
        accuracy = next((cell.float_accuracy for cell in own if cell and cell.float_accuracy is not None), None)
        lines.append(_line((family, _figure(accuracy, ".1%"), *map(_short, own))))
    return "\n".join(lines) + "\n"


def _short(cell: Cell | None) -> str:
    if cell is None or cell.mean_steps is None:
        return "" if cell is None else cell.verdict
    return f"{cell.mean_steps:.2f} steps, {_figure(cell.argmax, '.1%')}, {_figure(cell.accuracy, '.1%')}"


def _row(cell: Cell) -> list[str]:
    return [
        cell.family,
        cell.recipe,
        _said(cell.loaded),
        _said(cell.full_integer),
        _figure(cell.mean_steps, ".3f"),
        _figure(cell.argmax, ".2%"),
        _figure(cell.float_accuracy, ".2%"),
        _figure(cell.accuracy, ".2%"),
        _figure(cell.seconds, ".0f"),
        cell.verdict,
    ]


def _said(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _line(values: Sequence[str]) -> str:
    # A message of several lines stays in its cell.
    return "| " + " | ".join(" ".join(value.replace("|", "\\|").split()) for value in values) + " |"
