"""How a student learns from teachers: the part of a step's training that distillation is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_serializer, model_validator

from tfcompress.vocabulary.preprocessing import Preprocessing
from tfcompress.vocabulary.schema import Schema

FLOAT = "float"
"""The teacher that a run has anyway: the float model that it started from."""

TFLITE_SUFFIX = ".tflite"


def _path_or_model(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if (isinstance(value, str) and value) or hasattr(value, "get_weights"):
        return value
    raise ValueError("must be `float`, the path of a Keras model or a .tflite file, or in Python a Keras model")


class Teacher(Schema):
    """A trained network whose outputs a student learns from.

    In a recipe a text alone stands for its `model`.

    Example:
        >>> Teacher(model="large.h5", preprocessing="unit").preprocessing.name
        'unit'
    """

    model: Annotated[Any, BeforeValidator(_path_or_model)] = FLOAT
    """`float` for the float model that the run started from, the path of a Keras model or of a .tflite file, or in
    Python a Keras model. Defaults to `float`."""
    preprocessing: Preprocessing | None = None
    """What it expects to be fed. Defaults to what is written beside its file (`<name>.preprocessing.yaml`), else to
    what the student is fed."""
    weight: float = Field(default=1.0, gt=0)
    """Its share among several teachers, relative to theirs. Defaults to 1."""

    @property
    def is_float(self) -> bool:
        """Whether it is the float model that the run started from."""
        return isinstance(self.model, str) and self.model == FLOAT

    @property
    def is_tflite(self) -> bool:
        """Whether it is a .tflite file."""
        return isinstance(self.model, str) and self.model.endswith(TFLITE_SUFFIX)

    @property
    def where(self) -> str:
        """How messages name it."""
        return self.model if isinstance(self.model, str) else f"model {self.model.name!r}"


class Temperatures(Schema):
    """A temperature that goes from `begin`, in a step's first epoch, to `end`, in its last, by equal differences."""

    begin: float = Field(gt=0)
    """In the first epoch."""
    end: float = Field(gt=0)
    """In the last epoch."""


class FeaturePair(Schema):
    """A layer of the student whose output is to become like that of a layer of the teacher."""

    student: str
    """Name of the student's layer, as the model that the run started from has it."""
    teacher: str
    """Name of the teacher's layer."""


def _teachers(value: Any) -> Any:
    given = list(value) if isinstance(value, (list, tuple)) else [value]
    return [one if isinstance(one, (Mapping, Teacher)) else {"model": one} for one in given]


def _form(value: Any) -> str:
    return "schedule" if isinstance(value, (Mapping, Temperatures)) else "number"


class Distillation(Schema):
    """What is learned from teachers, beside the task itself.

    The loss is ``(1 - weight) * task + weight * soft targets + feature_weight * features + gradient_weight *
    gradients``. Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015).

    Example:
        >>> Distillation(teacher=["large.h5", "float"]).teacher[1].is_float
        True
    """

    teacher: Annotated[list[Teacher], BeforeValidator(_teachers)] = Field(default=[Teacher()], min_length=1)
    """Who teaches: a text or mapping for one, a list for several, whose softened probabilities are averaged. Features
    and gradients are those of the first. Defaults to `float`, the model that the run started from."""
    temperature: Annotated[
        Annotated[Annotated[float, Field(gt=0)], Tag("number")] | Annotated[Temperatures, Tag("schedule")],
        Discriminator(_form),
    ] = 4.0
    """What logits of both are divided by before they are compared: a number, or `{begin: 8, end: 1}` over the step's
    epochs. Without effect in regression. Defaults to 4."""
    weight: float = Field(default=0.9, ge=0, le=1)
    """Of the soft targets; the rest is the weight of the task's own loss. Defaults to 0.9."""
    features: list[FeaturePair] = Field(default=[])
    """Layers whose outputs are matched. Defaults to none."""
    feature_loss: Literal["hint", "attention"] = "hint"
    """How: `hint` compares the outputs themselves, through a learned projection where they have different numbers of
    channels (Romero et al., "FitNets", 2015); `attention` compares where they are large (Zagoruyko and Komodakis,
    "Paying More Attention to Attention", 2017)."""
    feature_weight: float = Field(default=1.0, ge=0)
    """Of the mean over all pairs of features. Defaults to 1."""
    gradient_weight: float = Field(default=0.0, ge=0)
    """Of the difference of how outputs change with the inputs (Czarnecki et al., "Sobolev Training", 2017). Defaults
    to 0, off."""

    @model_validator(mode="after")
    def _has_an_effect(self) -> Distillation:
        if not (self.weight or self.gradient_weight or (self.features and self.feature_weight)):
            raise ValueError(
                "a teacher must have something to teach. Received: weight 0, no gradients and no features. "
                "Remedy: a weight above 0, or no distillation"
            )
        return self

    @field_serializer("teacher", mode="plain")
    def _written(self, teachers: list[Teacher]) -> list[dict[str, Any]]:
        # A Keras model, unlike other objects in a recipe, must not be taken apart.
        return [{**one.model_dump(exclude={"model"}), "model": one.model} for one in teachers]

    @property
    def needs_layers(self) -> bool:
        """Whether the first teacher must be a Keras model, whose inside is looked at."""
        return bool(self.features or self.gradient_weight)
