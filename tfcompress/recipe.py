"""Recipes: an ordered list of named steps and a conversion, checked whole before anything runs."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from tfcompress.convert.settings import ConversionSettings
from tfcompress.data.settings import DataSettings
from tfcompress.fingerprints import describe
from tfcompress.recipe_text import Lines, overridden, place, read_tree, shipped_texts, step_name
from tfcompress.techniques.base import ANY_STAGE, STAGES, Technique, techniques, undoes
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.schema import Schema
from tfcompress.vocabulary.state import NumberFormat
from tfcompress.vocabulary.training import Fit, Task

AnyTechnique = Annotated[
    functools.reduce(operator.or_, techniques().values()),
    Field(discriminator="technique"),
]


class EvaluationSettings(Schema):
    """How the artifact is measured."""

    latency_seconds: float = Field(default=3.0, gt=0, le=600)
    """Time given to each latency measurement. Defaults to 3."""
    split: Literal["test", "validation"] = "test"
    """What the metric is measured on. Defaults to test; validation where the figures are to decide something."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of the second latency measurement, the first having one. Defaults to the machine's cores."""


class Recipe(Schema):
    """What is done to a model, from data to measured file.

    Example:
        >>> from tfcompress.techniques.post_training import PostTraining
        >>> [step.name for step in Recipe(steps=[PostTraining()]).steps]
        ['post_training']
    """

    name: str = "unnamed"
    """The recipe's name."""
    description: str = ""
    """One sentence for `tfcompress recipes`."""
    task: Task = Field(default=Task())
    """Loss and metric. Defaults to classification with integer labels."""
    data: DataSettings = Field(default=DataSettings())
    """Batches, augmentation, preprocessing, calibration."""
    train: Fit = Field(default=Fit(epochs=20))
    """How a network of the zoo, which comes untrained, is trained first. A user's model is not trained here."""
    steps: list[AnyTechnique]
    """The techniques, in order."""
    conversion: ConversionSettings = Field(default=ConversionSettings())
    """The form of the shipped file."""
    evaluation: EvaluationSettings = Field(default=EvaluationSettings())
    """How the file is measured."""

    @model_validator(mode="after")
    def _steps_can_follow_one_another(self) -> Recipe:
        problems = [
            *_order_problems(self.steps),
            *self._distillation_problems(),
            *self._part_problems(),
            *self._precision_problems(),
        ]
        if not problems:
            problems = self.conversion.problems_with(self.number_format)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _distillation_problems(self) -> Iterator[str]:
        """What of a distillation cannot be in the place where it stands."""
        of_training = self.train.distillation
        if of_training is not None and any(teacher.is_float for teacher in of_training.teacher):
            yield (
                "train.distillation.teacher: the float model is what is trained here, and cannot be its own teacher. "
                "Remedy: name the file of another"
            )
        for step in self.steps:
            settings = step.fit.distillation
            if settings is None or step.stage != STAGES[-1] or not step.trains:
                continue
            if settings.gradient_weight:
                yield (
                    f"{step.name}.fit.distillation.gradient_weight: the rounding of quantization-aware training has no "
                    "second derivatives, which gradients are matched by. Remedy: match them in a step before, such as "
                    "fine_tuning"
                )
            if settings.features and self.conversion.faster:
                yield (
                    f"{step.name}.fit.distillation.features: conversion.faster may replace the layers whose outputs "
                    "are matched. Remedy: match them in a step before, such as fine_tuning, or conversion.faster=false"
                )

    def _part_problems(self) -> Iterator[str]:
        """Which trainings are of weights that are not there, or draw at weights that are not trained."""
        fits = {"train": (self.train, False), **{f"{s.name}.fit": (s.fit, s.adds_weights) for s in self.steps}}
        for where, (fit, adds_weights) in fits.items():
            if fit.train == "added" and not adds_weights:
                yield (
                    f"{where}.train: `added` trains what a step adds, and nothing is added here. "
                    "Remedy: biases, normalizations, or all"
                )
            if fit.train not in (None, "all") and fit.regularization is not None:
                yield (
                    f"{where}.regularization: it draws at kernels, and train: {fit.train} leaves them as they are. "
                    "Remedy: leave it out, or train all"
                )

    def _precision_problems(self) -> Iterator[str]:
        """Which trainings cannot be in the precision that they ask for."""
        fits = {"train": self.train, **{f"{step.name}.fit": step.fit for step in self.steps if step.trains}}
        for step in self.steps:
            if step.stage == STAGES[-1] and step.trains and step.fit.precision != "float32":
                yield (
                    f"{step.name}.fit.precision: quantization-aware training emulates integers in float32. Received: "
                    f"{step.fit.precision}. Remedy: leave it out here; the steps before may have it"
                )
        for where, fit in fits.items():
            if fit.precision == "mixed_float16" and fit.distillation and fit.distillation.gradient_weight:
                yield (
                    f"{where}.precision: the gradients that distillation.gradient_weight matches are lost in float16, "
                    "where the scaling of the loss does not reach them. Received: mixed_float16. Remedy: "
                    "mixed_bfloat16 or float32"
                )

    @property
    def number_format(self) -> NumberFormat:
        """The arithmetic of the file: that of the last step, int8 after quantization-aware training."""
        return getattr(self.steps[-1], "number_format", "int8")

    def plain(self) -> dict[str, Any]:
        """The recipe with every value as plain JSON; Python objects in it appear by name."""
        return self.model_dump(mode="json", fallback=describe)


def shipped() -> dict[str, Path]:
    """The recipes that ship with the package, by name."""
    return shipped_texts("recipes")


def load_recipe(source: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] = ()) -> Recipe:
    """A checked recipe.

    Args:
        source: a recipe, its tree, a YAML file, or the name of a recipe that ships.
        overrides: `"<step or section>.<key>=<value>"`, values as in YAML.

    Raises:
        RecipeError: it cannot run as written; all problems at once, each with its place, the rule and what came.

    Example:
        >>> load_recipe("ptq_int8", ["data.batch_size=32"]).data.batch_size
        32
    """
    if isinstance(source, Recipe):
        if not overrides:
            return source
        source = source.model_dump()
    _refuse_shipped_space(source)
    origin, tree, lines = read_tree(source, shipped())
    tree = overridden(tree, overrides, sections())
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        listed = problems_in(error, tree, lines) + _advice_on_holes(error)
        raise RecipeError(f"{origin} cannot run as written:\n  {listed}") from None


def _refuse_shipped_space(source: str | Path | Mapping[str, Any]) -> None:
    if str(source) in shipped_texts("spaces") and not Path(str(source)).is_file():
        raise RecipeError(
            f"A recipe must have its values. Received: {source}, which leaves some open. Remedy: tfcompress search "
            f"--recipe={source} finds them; or close them in a copy of the file."
        )


def _advice_on_holes(error: ValidationError) -> str:
    """A word on searching, where a mapping stands in place of a value or step and may have been meant as a hole."""
    kinds = ("_type", "_parsing", "literal_error", "union_tag_not_found", "union_tag_invalid")
    meant = any(isinstance(issue["input"], Mapping) and issue["type"].endswith(kinds) for issue in error.errors())
    return "\n  values that are left open are found by tfcompress search, which takes such a recipe" if meant else ""


def sections() -> list[str]:
    """The keys of a recipe that hold keys of their own, the steps aside."""
    return [name for name in Recipe.model_fields if name not in ("name", "description", "steps")]


def _order_problems(steps: Sequence[Technique]) -> Iterator[str]:
    anywhere = ", ".join(name for name, technique in sorted(techniques().items()) if technique.stage == ANY_STAGE)
    names = [step.name for step in steps]
    for name in sorted({n for n in names if names.count(n) > 1}):
        yield f"steps: names must be unique, but {names.count(name)} steps are called {name}. Remedy: give each a name"
    for index, step in enumerate(steps):
        for earlier in steps[:index]:
            if undoes(step.stage, earlier.stage):
                yield (
                    f"steps: {step.name} cannot follow {earlier.name}, whose work it would undo. "
                    f"The order is {' -> '.join(STAGES)}; {anywhere} may stand anywhere before {STAGES[-1]}"
                )
        for problem in step.problems_after(steps[:index]):
            yield f"steps: {problem}"
    if sum(step.stage == STAGES[-1] for step in steps) != 1:
        yield "steps: exactly one step must choose the file's arithmetic: quantization, or post_training"


def problems_in(error: ValidationError, tree: Any, lines: Lines, schema: Any = Recipe) -> str:
    """Everything that is wrong with `tree`, each with its place, the rule and what came, a line for each.

    Args:
        error: pydantic's.
        tree: what was validated.
        lines: see `parse_yaml`; empty when there was no text.
        schema: what `tree` was validated by. Defaults to `Recipe`.
    """
    return "\n  ".join(dict.fromkeys(_problem(issue, tree, lines, schema) for issue in error.errors()))


def _problem(issue: Mapping[str, Any], tree: Any, lines: Lines, schema: Any) -> str:
    """One line for one pydantic issue: the place in the file, the rule, and what came."""
    path, shown = _place(issue["loc"], tree, lacking=issue["type"] == "missing")
    where = place(lines, path, shown)
    at = f"{where}: " if where else ""
    if issue["type"] == "extra_forbidden":
        return f"{at}unknown key.{_near_key(path, tree, schema)}"
    if issue["type"] == "missing":
        return f"{at}this key is required"
    if issue["type"] in ("union_tag_invalid", "union_tag_not_found"):
        came = issue["input"].get("technique") if isinstance(issue["input"], dict) else issue["input"]
        return f"{at}`technique` must be one of {', '.join(sorted(techniques()))}. Received: {came}"
    if issue["type"] == "value_error":
        return at + str(issue["ctx"]["error"]).replace("\n", "\n  ")
    rule = issue["msg"].replace("Input should be", "must be")
    return f"{at}{rule}. Received: {issue['input']!r}"


def _schema_in(annotation: Any) -> Any:
    """The schema that a value of this type is, or that is one of its alternatives or its items; None without one."""
    if hasattr(annotation, "model_fields"):
        return annotation
    return next((found for part in get_args(annotation) if (found := _schema_in(part))), None)


def _place(location: Sequence[str | int], tree: Any, *, lacking: bool) -> tuple[tuple, str]:
    """A pydantic location as the path in the raw tree, and as a person would say it.

    Pydantic mixes in the names of the alternatives it tried; what is no key of the tree is dropped, but for the
    last part where it names a key that is `lacking`.
    """
    path: tuple = ()
    shown: list[str] = []
    node: Any = tree
    for index, part in enumerate(location):
        inside = (
            part in node if isinstance(node, Mapping) else isinstance(part, int) and isinstance(node, (list, tuple))
        )
        if not inside and not (lacking and index == len(location) - 1):
            continue
        node = node[part] if inside else None
        path = (*path, part)
        shown.append(step_name(node) if path[:-1] == ("steps",) and isinstance(node, Mapping) else str(part))
    return path, ".".join(shown)


def _near_key(path: tuple, tree: Mapping[str, Any], schema: Any) -> str:
    if path[0] == "steps" and len(path) > 2:
        schema = techniques()[tree["steps"][path[1]]["technique"]]
        path = path[2:]
    for part in path[:-1]:
        # The items of a list are of what the list is of.
        if not isinstance(part, int):
            schema = _schema_in(schema.model_fields[part].annotation) if hasattr(schema, "model_fields") else None
    keys = list(getattr(schema, "model_fields", {}))
    near = get_close_matches(str(path[-1]), keys, n=1)
    return f" Did you mean `{near[0]}`?" if near else f" Keys here: {', '.join(keys)}" if keys else ""
