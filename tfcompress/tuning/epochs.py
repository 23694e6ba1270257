"""Epochs as what a search spends: of the last step that trains, more for the trials that do well with few."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfcompress.recipe import Recipe
from tfcompress.tuning.space import Space
from tfcompress.vocabulary.errors import SearchError


def last_epochs(recipe: Recipe, space: Space) -> int:
    """The epochs of the last step that trains, which are the most that a trial gets.

    Args:
        recipe: the space's, at its defaults.
        space: whose holes must leave these epochs alone.

    Raises:
        SearchError: no step trains, or the epochs are a hole.
    """
    training = [step for step in recipe.steps if step.trains and step.fit.epochs]
    if not training:
        raise SearchError("hyperband gives out epochs, and no step of the recipe trains. Remedy: another oracle.")
    name = training[-1].name
    if any(hole.name == f"{name}.fit.epochs" for hole in space.holes):
        raise SearchError(
            f"hyperband decides on the epochs of the last step that trains. {name}.fit.epochs is a hole. Remedy: the "
            "most that a trial may get in its place, or another oracle."
        )
    return training[-1].fit.epochs


def with_epochs(tree: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """The tree of a recipe whose last step that trains does so for `epochs`.

    Example:
        >>> steps = [{"technique": "quantization", "fit": {"epochs": 9}}]
        >>> with_epochs({"steps": steps}, 3)["steps"][0]["fit"]
        {'epochs': 3}
    """
    typed = Recipe.model_validate(tree)
    index = max(i for i, step in enumerate(typed.steps) if step.trains and step.fit.epochs)
    steps = [dict(step) if isinstance(step, Mapping) else step.model_dump() for step in tree["steps"]]
    steps[index]["fit"] = {**(steps[index].get("fit") or {}), "epochs": epochs}
    return {**tree, "steps": steps}
