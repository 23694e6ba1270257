"""What is left of a model's figures with fewer channels: counted, or measured on int8 files of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.settings import ConversionSettings
from tfcompress.evaluate import measure_latency
from tfcompress.models.channels import ChannelGroup, macs, narrowed, parameters, remaining
from tfcompress.techniques._selection import Kept
from tfcompress.techniques.base import StepPlan
from tfcompress.vocabulary.errors import RecipeError

FigureName = Literal["macs", "parameters", "latency"]
Figure = Callable[[Kept], float]
"""Takes what stays of each group, gives the share of the figure that is left."""
_CALIBRATING = 2
"""Samples that the ranges of the files are taken from: their kernels take as long for any."""
_TIMED_SECONDS = 1.0


def figure(
    name: FigureName, model: Any, groups: Sequence[ChannelGroup], plan: StepPlan | None, *, where: str
) -> Figure | None:
    """The share of a figure of `model` that is left when some of its channels stay.

    Args:
        name: `macs` (multiply-accumulates of convolutions and Dense layers) and `parameters` are counted; `latency`
            is the median over neighbouring invokes of the int8 files of the smaller and the whole model, one thread,
            XNNPACK, and is measured once for every combination of numbers of channels.
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
    try:
        whole = count(model, {})
    except ValueError as error:
        raise RecipeError(f"{where}: target.{name}: {error}. Remedy: another target.") from error
    return lambda kept: count(model, remaining(groups, kept)) / whole


def _latency(model: Any, groups: Sequence[ChannelGroup], plan: StepPlan) -> Figure:
    def file(model: Any) -> bytes:
        samples = plan.calibration[:_CALIBRATING]
        return quantized_tflite(model, "int8", ConversionSettings(allow_float=True), samples)

    # Nothing cut is nothing gained, and need not be measured.
    known = {tuple(group.size for group in groups): 1.0}
    files: dict[str, bytes] = {}

    def left(kept: Kept) -> float:
        sizes = tuple(len(kept[group.name]) for group in groups)
        if sizes not in known:
            files.setdefault("whole", file(model))
            both = {"whole": files["whole"], "cut": file(narrowed(model, groups, kept))}
            known[sizes] = measure_latency(both, budget_s=_TIMED_SECONDS, seed=plan.seed).ratio_to("whole")["cut"]
        return known[sizes]

    return left
