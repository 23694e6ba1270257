"""Figures as SVG by matplotlib: the same numbers give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

_STYLE = {
    # Ids of elements are hashes, salted at random unless this is set.
    "svg.hashsalt": "tfcompress",
    # Text stays text: it can be searched, and read by a screen reader.
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}


def svg(draw: Callable[[Any], None], width: float, height: float) -> str:
    """The SVG that `draw` makes of an empty `matplotlib.figure.Figure`.

    Args:
        draw: gets the figure.
        width: of the figure, inches.
        height: of the figure, inches.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        content = io.StringIO()
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()
