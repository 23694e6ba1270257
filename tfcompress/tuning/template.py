"""A recipe's tree with its holes in it: read from what a person wrote, walked, and filled."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from pydantic import ValidationError

from tfcompress.recipe import problems_in
from tfcompress.recipe_text import Lines, place, step_name
from tfcompress.techniques.base import Technique, techniques
from tfcompress.tuning.holes import (
    SYNTAX,
    Hole,
    in_yaml,
    kind_of,
    misspelt_kind,
    problems_with_keys,
    read_hole,
    with_default,
)
from tfcompress.vocabulary.schema import Schema

Layers = Callable[[Technique], Sequence[str] | None]
"""The names of the layers that a step can work on, in the model's order; None where the model is not known yet, and a
hole for each of them is left out."""


class Absent(Enum):
    """What stands in place of an optional step that is not there."""

    STEP = "no step"


@dataclass(frozen=True)
class Branch:
    """A part of the tree that depends on a hole: an optional step, or alternatives.

    Args:
        hole: which it depends on.
        alternatives: the part itself by the hole's value.
        keys: by the hole's value, the keys that lead from the branch to the alternative in the text.
    """

    hole: Hole
    alternatives: Mapping[Any, Any]
    keys: Mapping[Any, tuple]


def holes_in(node: Any) -> Iterator[Hole]:
    """The holes of a template in reading order, parents before children."""
    if isinstance(node, Hole):
        yield node
    elif isinstance(node, Branch):
        yield node.hole
        for alternative in node.alternatives.values():
            yield from holes_in(alternative)
    else:
        for _, inner in _items(node):
            yield from holes_in(inner)


def filled(node: Any, values: Mapping[str, Any]) -> Any:
    """A new tree without holes; `values` must have one for each hole that is met on the way."""
    if isinstance(node, Hole):
        return values[node.name]
    if isinstance(node, Branch):
        return filled(node.alternatives[values[node.hole.name]], values)
    if isinstance(node, Mapping):
        return {key: filled(inner, values) for key, inner in node.items()}
    if isinstance(node, (list, tuple)):
        items = (filled(inner, values) for inner in node)
        return [item for item in items if item is not Absent.STEP]
    return node


def lines_of_filled(node: Any, values: Mapping[str, Any], lines: Lines) -> Lines:
    """The lines of the tree that `filled` makes, from those of the text with holes."""
    origins = _origins(node, values, (), ())
    return {path: lines[origin] for path, origin in origins if origin in lines}


def _origins(node: Any, values: Mapping[str, Any], path: tuple, origin: tuple) -> Iterator[tuple[tuple, tuple]]:
    """Every path in the filled tree, and where the text has it."""
    if isinstance(node, Branch):
        value = values[node.hole.name]
        yield from _origins(node.alternatives[value], values, path, (*origin, *node.keys[value]))
        return
    yield path, origin
    absent = 0
    for key, inner in _items(node):
        if filled(inner, values) is Absent.STEP:
            absent += 1
            continue
        here = key - absent if isinstance(node, (list, tuple)) else key
        yield from _origins(inner, values, (*path, here), (*origin, key))


def may_agree(left: Any, right: Any) -> bool:
    """Whether two parts of a template that share no hole can be filled to the same tree."""
    for one, other in ((left, right), (right, left)):
        if isinstance(one, Branch):
            return any(may_agree(alternative, other) for alternative in one.alternatives.values())
    if isinstance(left, Hole) and isinstance(right, Hole):
        return _overlap(left, right)
    for one, other in ((left, right), (right, left)):
        if isinstance(one, Hole):
            return not isinstance(other, (Mapping, list, tuple)) and one.admits(other)
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(may_agree(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(may_agree, left, right))
    return left == right


def _overlap(left: Hole, right: Hole) -> bool:
    if left.count is None and right.count is None:
        return max(left.low, right.low) <= min(left.high, right.high)
    finite, other = (left, right) if left.count is not None else (right, left)
    return any(map(other.admits, finite.grid()))


def _items(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, Mapping):
        yield from node.items()
    elif isinstance(node, (list, tuple)):
        yield from enumerate(node)


@dataclass(frozen=True)
class _Place:
    """Where the reader stands: keys in the text, keys as a person says them, and the branch it is in."""

    path: tuple = ()
    shown: tuple[str, ...] = ()
    parent: tuple[str, Any] | None = None

    def inside(self, key: Any) -> _Place:
        return replace(self, path=(*self.path, key), shown=(*self.shown, str(key)))

    def within(self, *keys: Any, parent: tuple[str, Any]) -> _Place:
        """An alternative of the branch here, which people do not count as a place of its own."""
        return replace(self, path=(*self.path, *keys), parent=parent)

    @property
    def hole_name(self) -> str:
        return ".".join(self.shown[1:] if self.shown[0] == "steps" else self.shown)


def read_template(tree: Mapping[str, Any], lines: Lines, layers: Layers | None) -> tuple[Any, list[str]]:
    """The template of a recipe with holes, and everything that is wrong with its holes.

    Args:
        tree: what a person wrote.
        lines: of `tree`; empty when there was no text.
        layers: asked for the holes of a `per_layer: {choice: [...]}`; None when no model is known.
    """
    reader = _Reader(lines, layers)
    template = reader.tree(tree)
    if not reader.problems:
        names = [hole.name for hole in holes_in(template)]
        reader.problems += [
            f"every hole needs a name of its own, but {names.count(name)} are called {name}. "
            "Remedy: give the steps other names"
            for name in sorted({name for name in names if names.count(name) > 1})
        ]
    return template, reader.problems


class _Reader:
    def __init__(self, lines: Lines, layers: Layers | None) -> None:
        self.problems: list[str] = []
        self._lines = lines
        self._layers = layers
        self._steps: dict[str, _Place] = {}

    def tree(self, tree: Mapping[str, Any]) -> Any:
        read = {}
        for key, raw in tree.items():
            at = _Place().inside(key)
            if key == "steps" and isinstance(raw, (list, tuple)):
                read[key] = [self._step(step, at.inside(index)) for index, step in enumerate(raw)]
            else:
                read[key] = self._value(raw, at)
        return read

    def _problem(self, at: _Place, text: str) -> None:
        self.problems.append(f"{place(self._lines, at.path, '.'.join(at.shown))}: {text}")

    def _step(self, raw: Any, at: _Place) -> Any:
        raw = _plain(raw)
        if not isinstance(raw, Mapping):
            return raw
        if "technique" in raw or (kind_of(raw) is None and not self._misspelt(raw, at)):
            return self._plain_step(raw, at)
        kind = kind_of(raw)
        if kind == "maybe":
            return self._maybe(raw, at)
        if kind == "one_of":
            return self._one_of_steps(raw, at)
        if kind is not None:
            self._problem(
                at,
                "in place of a step stand {maybe: {technique: ...}} and {one_of: [{technique: ...}, ...]} only. "
                f"Received: {kind}",
            )
        return raw

    def _plain_step(self, raw: Mapping[str, Any], at: _Place) -> Any:
        named_by_hole = any(isinstance(raw.get(key), Mapping) for key in ("technique", "name"))
        name = at.shown[-1] if named_by_hole else step_name(raw)
        if name in self._steps:
            before = place(self._lines, self._steps[name].path, "")
            self._problem(
                at,
                f"every step of a recipe with holes needs a name of its own, alternatives included. Received: {name}, "
                f"which {before or 'an earlier one'} has too. Remedy: give each a `name`",
            )
        self._steps[name] = at
        at = replace(at, shown=("steps", name))
        step = {key: self._value(value, at.inside(key)) for key, value in raw.items() if key != "per_layer"}
        if "per_layer" not in raw:
            return step
        per_layer = self._per_layer(raw["per_layer"], step, at.inside("per_layer"))
        return {key: per_layer if key == "per_layer" else step[key] for key in raw}

    def _per_layer(self, raw: Any, step: Mapping[str, Any], at: _Place) -> Any:
        """A hole for each layer, where one stands in place of the mapping of layers."""
        known = techniques().get(str(step.get("technique")))
        one_for_all = isinstance(raw, Mapping) and kind_of(raw) in ("choice", "int", "float", "bool")
        if not one_for_all or known is None or "per_layer" not in known.model_fields:
            return self._value(raw, at)
        hole = self._leaf(raw, at)
        if not isinstance(hole, Hole):
            return hole
        if self._layers is None:
            self._problem(
                at,
                "a hole for each layer needs a model that says which layers there are. Remedy: name a model, or "
                'groups of layers here: {"conv*": {choice: [...]}, ...}',
            )
            return hole
        try:
            typed = known.model_validate(filled(step, {inner.name: inner.default for inner in holes_in(step)}))
        except ValidationError as error:
            self._problem(at, f"the step must be right before its layers are known: {problems_in(error, step, {})}")
            return hole
        names = self._layers(typed)
        if names is None:
            return {}
        if not names:
            self._problem(at, f"a hole for each layer needs layers, and {typed.name} can work on none of this model")
        # Layers stand in a recipe as patterns; a name with a bracket must not be taken for one.
        return {glob.escape(layer): replace(hole, name=f"{hole.name}.{layer}") for layer in names}

    def _maybe(self, raw: Mapping[str, Any], at: _Place) -> Any:
        inner = _plain(raw["maybe"])
        if not isinstance(inner, Mapping) or "maybe" in inner or not ("technique" in inner or "one_of" in inner):
            self._problem(at, f"maybe takes one step, or one_of several. Received: {in_yaml(inner)}")
            return raw
        steps = inner.get("one_of") if "technique" not in inner else [inner]
        hole = Hole(f"{_names(steps)}?", "bool", default=True, parent=at.parent)
        there = self._step(inner, at.within("maybe", parent=(hole.name, True)))
        return self._branch(raw, at, hole, {False: Absent.STEP, True: there}, {False: (), True: ("maybe",)})

    def _one_of_steps(self, raw: Mapping[str, Any], at: _Place) -> Any:
        steps = raw["one_of"]
        steps = [*map(_plain, steps)] if isinstance(steps, (list, tuple)) else steps
        if (
            not isinstance(steps, list)
            or len(steps) < 2
            or not all(isinstance(step, Mapping) and "technique" in step for step in steps)
        ):
            self._problem(
                at, f"one_of in place of a step must be a list of at least two steps. Received: {in_yaml(steps)}"
            )
            return raw
        names = [step_name(step) for step in steps]
        hole = Hole(_names(steps), "choice", (*names,), parent=at.parent)
        return self._alternatives(raw, at, hole, steps, self._plain_step)

    def _value(self, raw: Any, at: _Place) -> Any:
        raw = _plain(raw)
        if isinstance(raw, (list, tuple)):
            return [self._value(item, at.inside(index)) for index, item in enumerate(raw)]
        if not isinstance(raw, Mapping):
            return raw
        kind = kind_of(raw)
        if kind is None:
            self._misspelt(raw, at)
            return {key: self._value(value, at.inside(key)) for key, value in raw.items()}
        if reason := _fixed(at.shown):
            self._problem(at, f"a hole cannot stand here: {reason}. Received: {in_yaml(raw)}")
            return raw
        if kind == "maybe":
            self._problem(at, "maybe stands in place of a step. Remedy: for a value, one_of: [null, ...]")
            return raw
        return self._one_of(raw, at) if kind == "one_of" else self._leaf(raw, at)

    def _one_of(self, raw: Mapping[str, Any], at: _Place) -> Any:
        values = raw["one_of"]
        if not isinstance(values, (list, tuple)) or len(values) < 2:
            self._problem(at, f"one_of must be a list of at least two alternatives. Received: {in_yaml(values)}")
            return raw
        hole = Hole(at.hole_name, "choice", tuple(range(len(values))), default=0, parent=at.parent)

        def read(value: Any, here: _Place) -> Any:
            return self._value(value, replace(here, shown=(*here.shown, str(here.path[-1]))))

        branch = self._alternatives(raw, at, hole, values, read)
        parts = [*branch.alternatives.values()] if isinstance(branch, Branch) else []
        for index, part in enumerate(parts):
            for other in (i for i in range(index) if may_agree(parts[i], part)):
                self._problem(
                    at,
                    f"the alternatives of one_of must differ however they are filled. Received: {other} and {index}, "
                    "which may become the same",
                )
        return branch

    def _alternatives(
        self, raw: Mapping[str, Any], at: _Place, hole: Hole, items: Sequence[Any], read: Callable[[Any, _Place], Any]
    ) -> Any:
        keys = {value: ("one_of", index) for index, value in enumerate(hole.values)}
        parts = {
            value: read(item, at.within(*keys[value], parent=(hole.name, value)))
            for value, item in zip(hole.values, items, strict=True)
        }
        return self._branch(raw, at, hole, parts, keys)

    def _branch(
        self,
        raw: Mapping[str, Any],
        at: _Place,
        hole: Hole,
        alternatives: Mapping[Any, Any],
        keys: Mapping[Any, tuple],
    ) -> Any:
        for problem in problems_with_keys(raw):
            self._problem(at, problem)
        hole = self._sound(at, with_default(hole, raw))
        return Branch(hole, alternatives, keys) if isinstance(hole, Hole) else raw

    def _leaf(self, raw: Mapping[str, Any], at: _Place) -> Any:
        return self._sound(at, read_hole(raw, at.hole_name, at.parent)) or raw

    def _sound(self, at: _Place, hole: Hole | list[str]) -> Hole | None:
        if isinstance(hole, Hole):
            return hole
        for problem in hole:
            self._problem(at, problem)
        return None

    def _misspelt(self, raw: Mapping[str, Any], at: _Place) -> bool:
        if (misspelt := misspelt_kind(raw)) is None:
            return False
        self._problem(at, f"`{misspelt[0]}` is no kind of hole. Did you mean `{misspelt[1]}`? Holes are {SYNTAX}")
        return True


def _plain(raw: Any) -> Any:
    return raw.model_dump() if isinstance(raw, Schema) else raw


def _names(steps: Any) -> str:
    return "|".join(step_name(step) for step in steps if isinstance(step, Mapping)) if isinstance(steps, list) else ""


_SHARED = "all trials share one float network and one preparation of the data"
_APPLICATION = "what the file is fed and how it is written is for the application to say, not for the search"
_WHERE_FIXED = {
    "name": "it says which recipe this is",
    "description": "it says what the recipe is for",
    "task": "trials that serve different tasks cannot be compared",
    "data": f"{_SHARED}; of data, batch_size and augment may vary",
    "train": f"{_SHARED}; train is what that network comes from",
    "conversion": f"{_APPLICATION}; of conversion, faster and strip_names may vary",
    "evaluation": "files that are measured in different ways cannot be compared",
    "technique": "its values would have no meaning. Remedy: one_of in place of the step",
    "steps": "one_of and maybe stand in place of a single step of the list",
    "step": "it is what the step's holes are called by",
}
_VARIES_IN = {"data": ("batch_size", "augment"), "conversion": ("faster", "strip_names")}


def _fixed(shown: tuple[str, ...]) -> str | None:
    """Why no hole may stand at a place; None where one may."""
    if shown[0] == "steps":
        if len(shown) == 1:
            return _WHERE_FIXED["steps"]
        if len(shown) == 3 and shown[2] in ("technique", "name"):
            return _WHERE_FIXED["technique" if shown[2] == "technique" else "step"]
        return None
    if len(shown) > 1 and shown[1] in _VARIES_IN.get(shown[0], ()):
        return None
    return _WHERE_FIXED.get(shown[0])
