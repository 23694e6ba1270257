"""Pictures of a search, from its `search.json`: the front, the holes of every trial, the importance of each hole."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.atomic import write_atomically
from tfcompress.tuning.figures import svg
from tfcompress.tuning.holes import Hole, in_yaml
from tfcompress.tuning.importance import importance
from tfcompress.tuning.measures import MEASURES, to_minimise

FRONT_FILE, PARALLEL_FILE, IMPORTANCE_FILE = "front.svg", "parallel.svg", "importance.svg"

_ON_FRONT, _OTHER, _BEYOND = "#d62728", "#1f77b4", "#9a9a9a"
_COLOURS = "viridis"
_NEAR = 1 / 3
"""Where the front takes up less of the picture than this, it is shown nearer too."""


@dataclass(frozen=True)
class Summary:
    """What `search.json` says, finished or not.

    Args:
        objectives: names of measures, the first one first.
        bounds: by measure.
        holes: of the space.
        front: numbers of the trials on it.
        trials: the records of all.
    """

    objectives: tuple[str, ...]
    bounds: Mapping[str, float]
    holes: tuple[Hole, ...]
    front: frozenset[int]
    trials: tuple[Mapping[str, Any], ...]

    @cached_property
    def measured(self) -> list[Mapping[str, Any]]:
        """The trials that have a file."""
        return [trial for trial in self.trials if trial["status"] in ("completed", "infeasible")]

    @property
    def failed(self) -> int:
        """How many have none and never will."""
        return sum(trial["status"] == "failed" for trial in self.trials)

    def of(self, measure: str) -> np.ndarray:
        """A measure of the trials that have a file."""
        return np.array([trial["measured"][measure] for trial in self.measured])


def read_summary(path: Path) -> Summary:
    """The summary in the file `path`."""
    tree = json.loads(path.read_bytes())
    return Summary(
        tuple(tree["objectives"]),
        tree["bounds"],
        tuple(_hole(raw) for raw in tree["space"]),
        frozenset(tree["front"]),
        tuple(tree["trials"]),
    )


def draw_pictures(path: Path) -> list[Path]:
    """Draw the search whose summary is the file `path`, beside it.

    Returns:
        What was written: `front.svg`, `parallel.svg`, and from ten trials on `importance.svg`. Nothing while no trial
        has a file.

    Example:
        >>> draw_pictures(Path("tflite_models/mine-search/search.json"))  # doctest: +SKIP
    """
    summary = read_summary(path)
    if not summary.measured:
        return []
    drawn = {
        FRONT_FILE: front(summary),
        PARALLEL_FILE: parallel(summary),
        IMPORTANCE_FILE: importances(summary),
    }
    written = {path.with_name(name): text for name, text in drawn.items() if text}
    for place, text in written.items():
        write_atomically(place, text.encode())
    return list(written)


def front(summary: Summary) -> str:
    """The SVG of every trial by its objectives; a mark has the id `trial-<number>`.

    One objective is drawn over the number of the trial, several as the first against each of the others. Where the
    front is small among all trials, it stands once more beside them, nearer.
    """
    first, *others = summary.objectives
    pairs: list[tuple[str | None, str]] = [(first, other) for other in others] or [(None, first)]
    near = [bool(others) and _is_small(summary, x, y) for x, y in pairs]
    columns = 2 if any(near) else 1

    def draw(figure: Any) -> None:
        panels = figure.subplots(len(pairs), columns, squeeze=False)
        for row, (pair, small) in enumerate(zip(pairs, near, strict=True)):
            _front_panel(panels[row][0], summary, *pair, ids=True)
            if small:
                _front_panel(panels[row][1], summary, *pair, ids=False)
                _zoom(panels[row][1], summary, *pair)
            elif columns == 2:
                panels[row][1].set_visible(False)
        handles, labels = panels[0][0].get_legend_handles_labels()
        failed = f", {summary.failed} failed" if summary.failed else ""
        bounds = "; bounds: " + ", ".join(_bound(*entry) for entry in summary.bounds.items()) if summary.bounds else ""
        ended = len(summary.measured) + summary.failed
        figure.suptitle(f"{ended} trials{failed}{bounds}", x=0.01, ha="left", fontsize=9)
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)

    return svg(draw, 1.0 + 5.2 * columns, 1.0 + 3.8 * len(pairs))


def parallel(summary: Summary) -> str:
    """The SVG of parallel coordinates: a line a trial through the values of its holes, coloured by the first objective.

    Lines with the id `line-<number>`; those of the front are thick, those beyond the bounds dashed. Lines of equal
    values lie beside one another.
    """
    first = summary.objectives[0]
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    values = summary.of(first)
    scale = ScalarMappable(Normalize(values.min(), max(values.max(), np.nextafter(values.min(), np.inf))), _COLOURS)

    def draw(figure: Any) -> None:
        panel = figure.subplots()
        for place, trial in enumerate(summary.measured):
            aside = 0.03 * (place / max(len(summary.measured) - 1, 1) - 0.5)
            heights = [_height(hole, trial["values"], aside) for hole in summary.holes]
            on_front = trial["number"] in summary.front
            panel.plot(
                range(len(heights)),
                heights,
                color=scale.to_rgba(trial["measured"][first]),
                linewidth=2.2 if on_front else 0.9,
                alpha=1.0 if on_front else 0.6,
                linestyle="--" if trial["status"] == "infeasible" else "-",
                marker="o",
                markersize=3,
                zorder=3 if on_front else 2,
                gid=f"line-{trial['number']}",
            )
        _coordinate_axes(panel, summary.holes)
        figure.colorbar(scale, ax=panel, label=_label(first), pad=0.02)
        figure.suptitle(
            "Values of the holes of every trial; thick: on the front, dashed: beyond a bound", x=0.01, ha="left"
        )

    return svg(draw, 2.5 + 1.15 * max(len(summary.holes), 2), 5.2)


def importances(summary: Summary) -> str | None:
    """The SVG of each hole's importance for every objective; None where there are too few trials to say.

    Bars have the ids `importance-<objective>-<hole>`.
    """
    recipes = [trial["values"] for trial in summary.measured]
    found = {name: importance(summary.holes, recipes, summary.of(name)) for name in summary.objectives}
    known = {name: one for name, one in found.items() if one is not None}
    if not known:
        return None
    names = [hole.name for hole in summary.holes]

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, len(known), squeeze=False, sharey=True)[0]
        for panel, (objective, one) in zip(panels, known.items(), strict=True):
            for row, name in enumerate(names):
                panel.barh(row, one.by_hole[name], color=_OTHER, gid=f"importance-{objective}-{name}")
            panel.axvline(0, color="k", linewidth=0.6)
            panel.set_title(f"{_words(objective)}; R² on unseen trials {one.explained:.2f}", fontsize=9, loc="left")
            panel.set_xlabel("growth of the squared error, share of the variance")
        panels[0].set_yticks(range(len(names)), names)
        panels[0].invert_yaxis()
        figure.suptitle(
            f"Importance of each hole: permutation importance of a random forest, 5-fold, {len(recipes)} trials",
            x=0.01,
            ha="left",
        )

    return svg(draw, 2.8 + 3.6 * len(known), 1.4 + 0.28 * len(names))


def _front_panel(panel: Any, summary: Summary, x: str | None, y: str, *, ids: bool) -> None:
    kinds: list[tuple[str, Callable[[Mapping[str, Any]], bool], str, str]] = [
        ("beyond a bound", lambda trial: trial["status"] == "infeasible", _BEYOND, "x"),
        ("within the bounds", lambda trial: trial["number"] not in summary.front, _OTHER, "o"),
        ("front", lambda _: True, _ON_FRONT, "o"),
    ]
    named = set()
    for trial in summary.measured:
        kind, _, colour, marker = next(entry for entry in kinds if entry[1](trial))
        panel.plot(
            [trial["number"] if x is None else trial["measured"][x]],
            [trial["measured"][y]],
            linestyle="",
            color=colour,
            marker=marker,
            markersize=5,
            label="_" if kind in named else kind,
            gid=f"trial-{trial['number']}" if ids else None,
        )
        named.add(kind)
    _line_of_front(panel, summary, x, y)
    for measure, line in ((x, panel.axvline), (y, panel.axhline)):
        for of, bound in summary.bounds.items() if measure else ():
            place = _place_of_bound(summary, of, bound, measure)
            if place is not None:
                line(place, color="k", linestyle=":", linewidth=1, label=_bound(of, bound), gid=f"bound-{of}")
    panel.set(xlabel="trial" if x is None else _label(x), ylabel=_label(y))
    panel.grid(alpha=0.3)


def _place_of_bound(summary: Summary, of: str, bound: float, axis: str) -> float | None:
    """Where the bound of one measure lies on the axis of another: the same, or a line's (accuracy and its drop)."""
    if of == axis:
        return bound
    bounded, drawn = summary.of(of), summary.of(axis)
    if len(bounded) < 3 or not np.ptp(bounded) or not np.ptp(drawn):
        return None
    slope, origin = np.polyfit(bounded, drawn, 1)
    on_line = np.allclose(origin + slope * bounded, drawn, rtol=0, atol=1e-6 * np.ptp(drawn))
    return float(origin + slope * bound) if on_line else None


def _bound(measure: str, bound: float) -> str:
    return f"{_words(measure)} {'≤' if MEASURES[measure].direction == 'min' else '≥'} {bound:g}"


def _line_of_front(panel: Any, summary: Summary, x: str | None, y: str) -> None:
    """Through the front by steps, where two objectives are all there is; its trials bear their numbers."""
    ahead = [trial for trial in summary.measured if trial["number"] in summary.front]
    if x is not None and len(summary.objectives) == 2:
        ahead.sort(key=lambda trial: to_minimise(x, trial["measured"][x]))
        points = [(trial["measured"][x], trial["measured"][y]) for trial in ahead]
        panel.plot(*zip(*points, strict=True), color=_ON_FRONT, linewidth=1, drawstyle="steps-post", label="_")
    for trial in ahead:
        place = (trial["number"] if x is None else trial["measured"][x], trial["measured"][y])
        panel.annotate(str(trial["number"]), place, xytext=(3, 3), textcoords="offset points", fontsize=7, clip_on=True)


def _extent(summary: Summary, measure: str, numbers: frozenset[int] | None = None) -> tuple[float, float]:
    found = [t["measured"][measure] for t in summary.measured if numbers is None or t["number"] in numbers]
    return min(found), max(found)


def _is_small(summary: Summary, x: str, y: str) -> bool:
    def share(measure: str) -> float:
        (low, high), (least, most) = _extent(summary, measure, summary.front), _extent(summary, measure)
        return (high - low) / (most - least) if most > least else 1.0

    return len(summary.front) > 1 and min(share(x), share(y)) < _NEAR


def _zoom(panel: Any, summary: Summary, x: str, y: str) -> None:
    for measure, limit in ((x, panel.set_xlim), (y, panel.set_ylim)):
        low, high = _extent(summary, measure, summary.front)
        margin = 0.15 * (high - low) or 0.5
        limit(low - margin, high + margin)
    panel.set_title("the front, nearer", fontsize=9, loc="left")


def _coordinate_axes(panel: Any, holes: Sequence[Hole]) -> None:
    """A vertical line for each hole, with its values or its ends beside it."""
    for place, hole in enumerate(holes):
        panel.axvline(place, color="k", linewidth=0.6)
        for value in hole.values or (hole.low, hole.high):
            panel.annotate(
                in_yaml(value),
                (place, _height(hole, {hole.name: value}, 0.0)),
                xytext=(4, 5),
                textcoords="offset points",
                fontsize=7,
                zorder=4,
            )
    panel.set_xticks(range(len(holes)), [hole.name for hole in holes], rotation=30, ha="right", fontsize=8)
    panel.set(yticks=[], ylim=(-0.06, 1.1), xlim=(-0.2, len(holes) - 0.4))
    for side in panel.spines.values():
        side.set_visible(False)


def _height(hole: Hole, values: Mapping[str, Any], aside: float) -> float:
    """Where a value stands on its hole's line, 0 to 1; not a number for a hole that the trial does not have."""
    if hole.name not in values:
        return float("nan")
    value = values[hole.name]
    if hole.values:
        share = hole.values.index(value) / max(len(hole.values) - 1, 1)
    elif hole.sampling == "log":
        share = float(np.log(value / hole.low) / np.log(hole.high / hole.low))
    else:
        share = (value - hole.low) / (hole.high - hole.low)
    return share + aside


def _words(measure: str) -> str:
    return measure.replace("_", " ")


def _label(measure: str) -> str:
    unit = MEASURES[measure].unit
    parts = [_words(measure), *([unit] if unit and unit not in _words(measure) else [])]
    return ", ".join(parts) + (" (more is better)" if MEASURES[measure].direction == "max" else "")


def _hole(raw: Mapping[str, Any]) -> Hole:
    parent = raw["parent"]
    return Hole(**{**raw, "values": tuple(raw["values"]), "parent": None if parent is None else tuple(parent)})
