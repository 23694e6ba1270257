"""Choosing layers for a step whose values may not suit each layer of a kind it can work on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfcompress.models.graph import has_kernel
from tfcompress.techniques.base import (
    IN_NESTED_MODEL,
    NO,
    NOTHING,
    YES,
    Technique,
    Verdict,
    refuse_nested,
    select_layers,
)
from tfcompress.vocabulary.errors import RecipeError

Misfit = Callable[[Any], tuple[str, str] | None]
"""Why a layer does not suit a step's values, and what would change that; None when it does."""


def fitting_verdict(layer: Any, *, of_kind: bool, kinds: tuple[str, str], misfit: Misfit) -> Verdict:
    """What a step can do with `layer`.

    Args:
        layer: of a model.
        of_kind: whether it is of a kind that the step works on.
        kinds: what to say, and what remedy, where it is not.
        misfit: asked where it is.
    """
    if hasattr(layer, "layers"):
        return Verdict(layer.name, NO, *IN_NESTED_MODEL)
    if not has_kernel(layer):
        return Verdict(layer.name, NOTHING)
    reasons = misfit(layer) if of_kind else kinds
    return Verdict(layer.name, NO, *reasons) if reasons else Verdict(layer.name, YES)


def fitting_layers(step: Technique, model: Any, of_kind: Callable[[Any], bool], misfit: Misfit) -> list[str]:
    """The layers that `step` is to work on, in the model's order: those it names, or by default all that suit it.

    Args:
        step: a technique with `layers`, `exclude` and `per_layer`.
        model: the model.
        of_kind: whether a layer is of a kind that the step works on.
        misfit: asked of those.

    Raises:
        ModelError: the model holds other models, whose layers cannot be reached.
        RecipeError: a pattern matches no layer, or none is left.
    """
    refuse_nested(model, step.name)
    able = [layer for layer in model.layers if of_kind(layer) and not (step.layers is None and misfit(layer))]
    names = select_layers([layer.name for layer in able], step.layers, step.exclude, where=step.name)
    for pattern in step.per_layer:
        select_layers(names, [pattern], where=f"{step.name}.per_layer")
    if not names:
        reasons = [f"\n  {v.layer}: {v.reason}" for v in step.verdicts(model) if v.outcome == NO]
        raise RecipeError(f"{step.name}: no layer of this model is left to work on." + "".join(reasons))
    return names


def misfits(names: list[str], model: Any, misfit: Misfit) -> list[str]:
    """Of every layer of `names` that does not suit the step after all, why, and the remedy."""
    found = {name: misfit(model.get_layer(name)) for name in names}
    return [f"{name}: {why[0]}. Remedy: {why[1]}" for name, why in found.items() if why]
