"""Tables of measured recipes, made of finished searches; the format stands at the head of `compare.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tfcompress.tuning.space import Space
from tfcompress.vocabulary.errors import SearchError

MEASURES = {"deflated_bytes": 0, "bytes": 0, "bit_operations": 0, "accuracy": 6, "drop_points": 4}
"""What is kept of an artifact, and with how many decimals. Latency is left out: it is another machine's elsewhere."""


def rows_of(trials: Sequence[Any], space: Space, epochs: str | None = None) -> list[dict[str, Any]]:
    """The rows of a table, one for each recipe of `space`, in the order of its grid.

    Args:
        trials: those of a search through all of the space: each with `values`, by hole, and `measured`, by measure.
        space: of the table.
        epochs: the name of a hole of the search that is none of `space`: the epochs of the last step that trains. The
            most of them are the recipe's, and `by_epoch` has all. Defaults to none.

    Raises:
        SearchError: a recipe has no measured trial, or not one for each number of epochs.
    """
    found: dict[tuple, dict[int, dict[str, float]]] = {}
    for trial in trials:
        values = dict(trial.values)
        count = values.pop(epochs) if epochs else 0
        if trial.measured:
            found.setdefault(space.canonical(values), {})[count] = _rounded(trial.measured)
    counts = {count for by_epoch in found.values() for count in by_epoch}
    recipes = [space.canonical(values) for values in space.grid()]
    if missing := [recipe for recipe in recipes if recipe not in found or found[recipe].keys() != counts]:
        raise SearchError(
            f"A table needs a measured artifact of each of the {len(recipes)} recipes. Not all is there of "
            f"{len(missing)}, the first being {dict(missing[0])}. Remedy: the search goes on when it is called again; "
            "why a trial failed stands in its trial.json."
        )
    rows = []
    for recipe in recipes:
        by_epoch = {str(count): found[recipe][count] for count in sorted(counts)}
        measured = found[recipe][max(counts)]
        rows.append({"values": dict(recipe), "measured": measured} | ({"by_epoch": by_epoch} if epochs else {}))
    return rows


def table_text(
    recipe: Mapping[str, Any],
    objectives: Sequence[str],
    bounds: Mapping[str, float],
    rows: Sequence[Mapping[str, Any]],
) -> str:
    """The contents of a table's file, a row a line.

    The reference point is, in every objective, its bound; where it has none, the worst of the table.
    """
    worst = {name: max(row["measured"][name] for row in rows) for name in objectives}
    head = {
        "recipe": recipe,
        "objectives": list(objectives),
        "bounds": dict(bounds),
        "reference": {**worst, **{name: bounds[name] for name in objectives if name in bounds}},
    }
    lines = [f'"{key}": {_compact(value)},' for key, value in head.items()]
    return "\n".join(["{", *lines, '"rows": [', ",\n".join(map(_compact, rows)), "]", "}", ""])


def _rounded(measured: Mapping[str, float]) -> dict[str, float]:
    return {
        name: round(measured[name], decimals) if decimals else int(measured[name])
        for name, decimals in MEASURES.items()
    }


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
