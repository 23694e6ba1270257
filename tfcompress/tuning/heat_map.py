"""The picture of a sensitivity analysis: a heat map of layers and values."""

from __future__ import annotations

from typing import Any

from tfcompress.tuning.cells import AXES, Cell, Table
from tfcompress.tuning.figures import svg

_TITLES = {"bits": "weight bits", "sparsity": "share of zeros"}
_FAILED = "#cccccc"


def heat_map(table: Table) -> str:
    """The SVG of `table`: a row a layer, a column a value, coloured by how much more the metric drops.

    In each cell stand the drop, points more than the reference's, and the change of the deflated bytes, percent.
    Without labels it is coloured by the output error, percent. The marks have the ids `cell-<axis>-<layer>-<value>`.
    """
    axes = [axis for axis in AXES if table.along(axis)]
    rows = max((len(table.along(axis)) for axis in axes), default=1)
    columns = [len({cell.value for cell in table.cells if cell.axis == axis}) for axis in axes]
    labels = max((len(cell.layer) for cell in table.cells), default=0)
    width = 2.0 + sum(0.75 * count + 0.08 * labels for count in columns)

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, max(len(axes), 1), squeeze=False, width_ratios=columns or None)[0]
        scale = _scale(table)
        for axis, panel in zip(axes, panels, strict=False):
            _panel(panel, table, axis, scale)
        if axes:
            figure.colorbar(scale, ax=list(panels), label=_shade_label(table), pad=0.02, aspect=30)
        figure.suptitle(_title(table), x=0.01, ha="left")

    return svg(draw, max(width, 5.0), 1.6 + 0.38 * rows)


def _panel(panel: Any, table: Table, axis: str, scale: Any) -> None:
    from matplotlib.patches import Rectangle

    along = table.along(axis)
    values = sorted({value for cells in along.values() for value in cells})
    for row, (layer, cells) in enumerate(along.items()):
        for value, cell in cells.items():
            shade = _shade(table, cell)
            colour = _FAILED if shade is None else scale.to_rgba(shade)
            place = (values.index(value), row)
            mark = Rectangle(place, 1, 1, facecolor=colour, edgecolor="white", gid=f"cell-{axis}-{layer}-{value:g}")
            panel.add_patch(mark)
            middle = (place[0] + 0.5, row + 0.5)
            dark = shade is not None and scale.norm(shade) > 0.55
            panel.text(*middle, _words(table, cell), ha="center", va="center", fontsize=7, color="w" if dark else "k")
    panel.set(xlim=(0, len(values)), ylim=(len(along), 0), xlabel=_TITLES.get(axis, axis))
    panel.set_xticks([place + 0.5 for place in range(len(values))], [f"{value:g}" for value in values])
    panel.set_yticks([place + 0.5 for place in range(len(along))], list(along))
    panel.tick_params(length=0)
    for side in panel.spines.values():
        side.set_visible(False)


def _shade(table: Table, cell: Cell) -> float | None:
    """The number that colours a cell; None for one that failed."""
    if cell.status == "failed":
        return None
    drop = table.added_drop(cell)
    return 100 * (cell.output_error or 0.0) if drop is None else drop


def _shade_label(table: Table) -> str:
    return "output error, %" if table.metric is None else "added drop, points"


def _scale(table: Table) -> Any:
    """Colours from no damage to the greatest; what is better than the reference is as pale as what is equal."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    shades = [shade for cell in table.cells if (shade := _shade(table, cell)) is not None]
    return ScalarMappable(Normalize(0, max([*shades, 1e-9]), clip=True), "Reds")


def _words(table: Table, cell: Cell) -> str:
    if cell.status == "failed":
        return "failed"
    before = table.reference.measured["deflated_bytes"]
    size = f"{100 * (cell.measured['deflated_bytes'] / before - 1):+.1f} %"
    return f"{_shade(table, cell):.1f}\n{size}"


def _title(table: Table) -> str:
    damage = f"drop of {table.metric}, points" if table.metric else "output error, %"
    reference = f"{table.reference.measured['deflated_bytes']:,.0f} deflated bytes"
    if table.metric:
        reference = f"{table.reference.measured['accuracy']:.4f}, {reference}"
    return (
        f"One layer alone, without training, {table.samples} validation samples\n"
        f"In each cell: {damage}; change of deflated bytes\n"
        f"Against all layers at 8 bits: {reference}"
    )
