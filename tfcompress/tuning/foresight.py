"""What a sensitivity analysis foresees of recipes: the sum of what each hole's value does alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

from tfcompress.tuning.candidates import is_ordered
from tfcompress.tuning.holes import Hole
from tfcompress.tuning.measures import MEASURES, to_minimise
from tfcompress.vocabulary.errors import SearchError

Sensitivity = Mapping[str, Mapping[Any, Mapping[str, float]]]
"""By hole, value and measure: by how much the measure changes when only this hole has this value.

Against whatever all entries of a hole are compared with; a hole or measure that has no entry is not foreseen.
"""


def check_sensitivity(sensitivity: Sensitivity, holes: Sequence[Hole]) -> None:
    """Refuse names that are no holes or measures, and values that a hole cannot have.

    Raises:
        SearchError: with all of them.
    """
    by_name = {hole.name: hole for hole in holes}
    problems = []
    for name, effects in sensitivity.items():
        if name not in by_name:
            near = get_close_matches(str(name), by_name, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"The holes are {', '.join(by_name)}"
            problems.append(f"{name}: there is no such hole. {hint}")
            continue
        problems += [
            f"{name}: a value must be {by_name[name].allowed}. Received: {value!r}"
            for value in effects
            if not by_name[name].admits(value)
        ]
        strangers = {measure for effect in effects.values() for measure in effect if measure not in MEASURES}
        problems += [f"{name}: there is no measure {measure}" for measure in sorted(strangers)]
    if problems:
        raise SearchError("The sensitivity analysis does not fit the space:\n  " + "\n  ".join(problems))


def foreseen(
    sensitivity: Sensitivity, holes: Sequence[Hole], recipes: Sequence[Mapping[str, Any]], measure: str
) -> np.ndarray:
    """The sum of the effects on `measure`, to be minimised, `[recipes]`; zeros where nothing is known of it.

    Between two values of a range that were analysed, the effect is taken from the line through both.
    """
    total = np.zeros(len(recipes))
    for hole in holes:
        effects = {
            value: to_minimise(measure, effect[measure])
            for value, effect in sensitivity.get(hole.name, {}).items()
            if measure in effect
        }
        if effects:
            total += [_effect(hole, effects, recipe[hole.name]) if hole.name in recipe else 0.0 for recipe in recipes]
    return total


def _effect(hole: Hole, effects: Mapping[Any, float], value: Any) -> float:
    if value in effects:
        return effects[value]
    if not is_ordered(hole):
        return 0.0
    known = sorted(effects)
    return float(np.interp(value, known, [effects[v] for v in known]))
