"""Recipes: an ordered list of named steps and a conversion, checked whole before anything runs."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from tfcompress.convert.settings import ConversionSettings
from tfcompress.data.settings import DataSettings
from tfcompress.fingerprints import describe
from tfcompress.techniques.base import STAGES, Technique, techniques
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.schema import Schema
from tfcompress.vocabulary.state import NumberFormat
from tfcompress.vocabulary.training import Fit, Task

Lines = Mapping[tuple, int]
"""The line of every key and list item of a text, by its path."""

AnyTechnique = Annotated[
    functools.reduce(operator.or_, techniques().values()),
    Field(discriminator="technique"),
]


class EvaluationSettings(Schema):
    """How the artifact is measured."""

    latency_seconds: float = Field(default=3.0, gt=0, le=600)
    """Time given to each latency measurement. Defaults to 3."""
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
        problems = list(_order_problems(self.steps))
        if not problems:
            problems = self.conversion.problems_with(self.number_format)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def number_format(self) -> NumberFormat:
        """The arithmetic of the file: that of the last step, int8 after quantization-aware training."""
        return getattr(self.steps[-1], "number_format", "int8")

    def plain(self) -> dict[str, Any]:
        """The recipe with every value as plain JSON; Python objects in it appear by name."""
        return self.model_dump(mode="json", fallback=describe)


def shipped() -> dict[str, Path]:
    """The recipes that ship with the package, by name."""
    folder = Path(str(resources.files("tfcompress"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


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
    if isinstance(source, (str, Path)):
        origin, text = _read(source)
        tree, lines = _parse(origin, text)
    else:
        origin, tree, lines = "the recipe", {**source}, {}
    for override in overrides:
        _override(tree, override)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(f"{origin} cannot run as written:\n  {problems_in(error, tree, lines)}") from None


def _order_problems(steps: Sequence[Technique]) -> Iterator[str]:
    names = [step.name for step in steps]
    for name in sorted({n for n in names if names.count(n) > 1}):
        yield f"steps: names must be unique, but {names.count(name)} steps are called {name}. Remedy: give each a name"
    for index, step in enumerate(steps):
        for earlier in steps[:index]:
            if STAGES.index(step.stage) < STAGES.index(earlier.stage):
                yield (
                    f"steps: {step.name} cannot follow {earlier.name}, whose work it would undo. "
                    f"The order is {' -> '.join(STAGES)}"
                )
        for problem in step.problems_after(steps[:index]):
            yield f"steps: {problem}"
    if sum(step.stage == STAGES[-1] for step in steps) != 1:
        yield "steps: exactly one step must choose the file's arithmetic: quantization, or post_training"


def _read(source: str | Path) -> tuple[str, str]:
    known = shipped()
    path = known.get(str(source), Path(source))
    if not path.is_file():
        near = get_close_matches(str(source), known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise RecipeError(
            f"A recipe must be a YAML file or the name of one that ships. Received: {source}.{hint} "
            f"These ship: {', '.join(known)}."
        )
    try:
        return str(source), path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{source} must be text in UTF-8: {error}") from None


def _parse(origin: str, text: str) -> tuple[dict[str, Any], Lines]:
    """The tree of a recipe's text, named after its file, and its lines."""
    tree, lines = parse_yaml(origin, text)
    if not isinstance(tree, dict):
        raise RecipeError(f"{origin} must hold a mapping with the key `steps`. Received: {type(tree).__name__}.")
    return {"name": Path(origin).stem, **tree}, lines


def parse_yaml(origin: str, text: str) -> tuple[Any, Lines]:
    """What a YAML text holds, and the line of every key and list item by its path.

    Raises:
        RecipeError: it is no YAML, or a key stands twice; the message begins with `origin`.
    """
    try:
        tree = yaml.safe_load(text)
        return tree, dict(_lines(yaml.compose(text), ())) if isinstance(tree, dict) else {}
    except yaml.YAMLError as error:
        raise RecipeError(f"{origin} is not valid YAML: {error}") from None
    except _TwiceError as error:
        raise RecipeError(f"{origin}: {error}") from None


class _TwiceError(ValueError):
    """A key stands twice in one mapping, of which YAML would take the last silently."""


def _lines(node: yaml.Node, path: tuple) -> Iterator[tuple[tuple, int]]:
    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if first.setdefault(key.value, line) != line:
                raise _TwiceError(
                    f"a key may stand once. Received: `{key.value}` in lines {first[key.value]} and {line}"
                )
            yield (*path, key.value), line
            yield from _lines(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*path, index), item.start_mark.line + 1
            yield from _lines(item, (*path, index))


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or len(path) < 2:
        raise RecipeError(f"--set takes <step or section>.<key>=<value>. Received: {override}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override}: the value is not valid YAML: {error}") from None
    steps = {_step_name(step): index for index, step in enumerate(tree.get("steps") or []) if isinstance(step, dict)}
    sections = [name for name, field in Recipe.model_fields.items() if name not in ("name", "description", "steps")]
    if path[0] in steps:
        # The tree may be the caller's; only copies are changed.
        tree["steps"] = [*tree["steps"]]
        tree["steps"][steps[path[0]]] = target = {**tree["steps"][steps[path[0]]]}
    elif path[0] in sections:
        tree[path[0]] = target = {**(tree.get(path[0]) or {})}
    else:
        raise RecipeError(
            f"--set {override}: {path[0]} is neither a step of the recipe ({', '.join(steps)}) "
            f"nor a section ({', '.join(sections)})."
        )
    for part in path[1:-1]:
        inner = target.get(part) or {}
        if not isinstance(inner, Mapping):
            raise RecipeError(f"--set {override}: {part} holds the value {inner!r}, which has no keys.")
        target[part] = target = dict(inner)
    target[path[-1]] = value


def _step_name(step: Mapping[str, Any]) -> str:
    return str(step.get("name") or step.get("technique"))


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
    path, shown = _place(issue["loc"], tree)
    line = next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), None)
    where = ", ".join(filter(None, [f"line {line}" if line and lines else "", shown]))
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


def _place(location: Sequence[str | int], tree: Any) -> tuple[tuple, str]:
    """A pydantic location as the path in the raw tree, and as a person would say it.

    Pydantic mixes in the names of the alternatives it tried; what is no key of the tree is dropped, but for the
    last part, which may name a key that is missing.
    """
    path: tuple = ()
    shown: list[str] = []
    node: Any = tree
    for index, part in enumerate(location):
        inside = (
            part in node if isinstance(node, Mapping) else isinstance(part, int) and isinstance(node, (list, tuple))
        )
        if not inside and index < len(location) - 1:
            continue
        node = node[part] if inside else None
        path = (*path, part)
        shown.append(_step_name(node) if path[:-1] == ("steps",) and isinstance(node, Mapping) else str(part))
    return path, ".".join(shown)


def _near_key(path: tuple, tree: Mapping[str, Any], schema: Any) -> str:
    if path[0] == "steps" and len(path) > 2:
        schema = techniques()[tree["steps"][path[1]]["technique"]]
        path = path[2:]
    for part in path[:-1]:
        schema = schema.model_fields[part].annotation if hasattr(schema, "model_fields") else None
    keys = list(getattr(schema, "model_fields", {}))
    near = get_close_matches(str(path[-1]), keys, n=1)
    return f" Did you mean `{near[0]}`?" if near else f" Keys here: {', '.join(keys)}" if keys else ""
