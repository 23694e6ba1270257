"""What may be left of a model that a step makes smaller: a share of one of its figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field, model_validator

from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.schema import Schema

Remainder = Annotated[float, Field(gt=0, le=1)]


class OneFigure(Schema):
    """A share of one figure of the model that the step receives; subclasses have the figures as optional values."""

    @model_validator(mode="after")
    def _one_figure(self) -> OneFigure:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"one of {', '.join(type(self).model_fields)} must be given. Received: {given or 'none'}")
        return self

    @property
    def figure(self) -> str:
        """Which figure it is of."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def bound(self) -> float:
        """The share of it that may be left."""
        return getattr(self, self.figure)


class Target(OneFigure):
    """What may be left of the model that the step receives, as a share of one figure of it."""

    macs: Remainder | None = None
    """Of its multiply-accumulates in convolutions and Dense layers."""
    parameters: Remainder | None = None
    """Of the numbers in its weights."""
    latency: Remainder | None = None
    """Of the time that its int8 file takes on this machine, measured: one thread, XNNPACK."""


def counted(count: Callable[[], int], name: str, where: str) -> int:
    """What `count` gives of the whole model.

    Raises:
        RecipeError: multiply-accumulates cannot be counted; it names the target in the step `where`.
    """
    try:
        return count()
    except ValueError as error:
        raise RecipeError(f"{where}: target.{name}: {error}. Remedy: another target.") from error
