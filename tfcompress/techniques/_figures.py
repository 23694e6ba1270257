"""What is left of a model's figures with fewer channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from tfcompress.models.channels import ChannelGroup, macs, narrowed, parameters, remaining
from tfcompress.techniques._selection import Kept
from tfcompress.techniques._target import counted
from tfcompress.techniques._timed import Timed
from tfcompress.techniques.base import StepPlan

FigureName = Literal["macs", "parameters", "latency"]
Figure = Callable[[Kept], float]
"""Takes what stays of each group, gives the share of the figure that is left."""


def figure(
    name: FigureName, model: Any, groups: Sequence[ChannelGroup], plan: StepPlan | None, *, where: str
) -> Figure | None:
    """The share of a figure of `model` that is left when some of its channels stay.

    Args:
        name: `macs` (multiply-accumulates of convolutions and Dense layers) and `parameters` are counted; `latency`
            is measured (`Timed`), once for every combination of numbers of channels.
        model: the model, whole.
        groups: those of its groups that channels are cut from.
        plan: of the step; None before there is one.
        where: the step's name, for messages.

    Returns:
        The figure; None for `latency` without a plan, when nothing is to be measured yet.

    Raises:
        RecipeError: multiply-accumulates cannot be counted.
    """
    if name == "latency":
        return None if plan is None else _latency(model, groups, plan)
    count = {"macs": macs, "parameters": parameters}[name]
    whole = counted(lambda: count(model, {}), name, where)
    return lambda kept: count(model, remaining(groups, kept)) / whole


def _latency(model: Any, groups: Sequence[ChannelGroup], plan: StepPlan) -> Figure:
    # Nothing cut is nothing gained, and need not be measured.
    timed = Timed(model, plan, {tuple(group.size for group in groups): 1.0})
    return lambda kept: timed(tuple(len(kept[group.name]) for group in groups), lambda: narrowed(model, groups, kept))
