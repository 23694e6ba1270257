"""Exact rewrites as a step: the same function in other layers, for later steps to work on."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from tfcompress.models.rewrites import CAPACITY, FASTER, rewrite
from tfcompress.techniques.base import StepPlan, Technique, refuse_nested
from tfcompress.vocabulary.errors import PromiseError, RecipeError
from tfcompress.vocabulary.state import State

_CHOICES = (*FASTER, *CAPACITY)


def _known(names: list[str]) -> list[str]:
    unknown = [name for name in names if name not in _CHOICES]
    if unknown:
        raise ValueError(f"must be of {', '.join(_CHOICES)}. Received: {', '.join(unknown)}")
    return names


class Rewriting(Technique):
    """Rewrite the model exactly, into layers that later steps make more of, before these change it further.

    `conversion.faster` keeps a rewrite only where the same network is faster with it. As a step it is the beginning
    of another one: behind ``space_to_depth`` the first stage works on a quarter of the pixels with four times the
    channels, most of which `channels` may then find to be of little use; behind ``dense_over_pixels`` training has a
    weight for every pixel of the last image, where an average took the time. The outputs stay the same, which is
    proven by running both models.

    Example:
        >>> Rewriting(rewrites=["space_to_depth"]).name
        'rewriting'
    """

    stage: ClassVar[str] = "graph"
    trains: ClassVar[bool] = False

    technique: Literal["rewriting"] = "rewriting"
    rewrites: Annotated[list[str], AfterValidator(_known), Field(min_length=1)] | None = None
    """The rewrites to make, by name: ``space_to_depth``, ``mean_pooling``, ``dense_over_pixels``.
    Defaults to those of the first two that the model has a place for."""

    def check(self, state: State) -> None:
        """Refuse a model that a rewrite finds nothing in, and one whose promises would be broken."""
        self._rewritten(state)

    def foreseen(self, state: State) -> State:
        """The rewritten model."""
        return self._rewritten(state)

    def prepare(self, state: State, plan: StepPlan) -> State:
        """The rewritten model.

        Raises:
            RecipeError: see `check`.
            ModelError: a rewrite changes what the model computes.
        """
        del plan
        return self._rewritten(state)

    @property
    def _names(self) -> tuple[str, ...]:
        return FASTER if self.rewrites is None else tuple(self.rewrites)

    def _rewritten(self, state: State) -> State:
        refuse_nested(state.model, self.name)
        done = rewrite(state.model, self._names)
        made = {change.rewrite for change in done.changes}
        idle = [name for name in self._names if name not in made]
        if idle and (self.rewrites is not None or not made):
            raise RecipeError(
                f"{self.name}.rewrites: each must find something to do in the model. Nothing for: {', '.join(idle)}. "
                "Remedy: name the others alone, or leave the step out."
            )
        try:
            return state.rewritten(done.model, done.lineage)
        except PromiseError as error:
            raise RecipeError(f"{self.name}: {error}") from error
