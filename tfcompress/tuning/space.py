"""The space of a search: every recipe that a recipe with holes can become."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cached_property
from itertools import combinations
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from tfcompress.fingerprints import describe
from tfcompress.recipe import Recipe, problems_in, sections, shipped
from tfcompress.recipe_text import Lines, overridden, read_tree, shipped_texts
from tfcompress.tuning.holes import SYNTAX, Hole
from tfcompress.tuning.template import Absent, Branch, Layers, filled, holes_in, lines_of_filled, read_template
from tfcompress.vocabulary.errors import RecipeError


@dataclass(frozen=True, eq=False)
class Space:
    """A recipe with holes.

    The values of its holes are mappings from the holes' names. A hole that has a parent is *active* in such a
    mapping while its parent has the value it belongs to; values of other holes are ignored.

    Args:
        origin: where it comes from, for messages.
        template: the recipe's tree with its holes.
        lines: of the text it was read from; empty when there was none.

    Example:
        >>> space = load_space("ptq_int8", ["post_training.number_format={choice: [int8, int16x8]}"])
        >>> space.size, space.fill({"post_training.number_format": "int16x8"})["steps"]
        (2, [{'technique': 'post_training', 'number_format': 'int16x8'}])
    """

    origin: str
    template: Mapping[str, Any]
    lines: Lines

    @cached_property
    def holes(self) -> tuple[Hole, ...]:
        """Every hole in the order of the recipe, parents before children."""
        return tuple(holes_in(self.template))

    def active(self, values: Mapping[str, Any]) -> tuple[Hole, ...]:
        """The holes that `values` make exist; a hole whose parent has no value does not."""
        active: dict[str, Hole] = {}
        for hole in self.holes:
            if hole.parent is None or (
                hole.parent[0] in active and values.get(hole.parent[0], _MISSING) == hole.parent[1]
            ):
                active[hole.name] = hole
        return tuple(active.values())

    def parents(self, hole: Hole) -> list[tuple[str, Any]]:
        """The holes that `hole` stands under and the values that make it exist, the outermost first."""
        by_name = {each.name: each for each in self.holes}
        chain: list[tuple[str, Any]] = []
        while hole.parent is not None:
            chain.append(hole.parent)
            hole = by_name[hole.parent[0]]
        return chain[::-1]

    def fill(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The tree of a recipe, in which every active hole has its value.

        Raises:
            RecipeError: an active hole has no value or one it cannot have, or a name is no hole's; all at once.
        """
        return filled(self.template, self._settled(values))

    def default(self) -> dict[str, Any]:
        """The default of every hole, active or not."""
        return {hole.name: hole.default for hole in self.holes}

    def sample(self, generator: np.random.Generator) -> dict[str, Any]:
        """A random value for every hole that is active in them."""
        return self._settled({hole.name: hole.at(generator.random()) for hole in self.holes})

    def canonical(self, values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
        """What two mappings share if and only if they fill to the same recipe: the values of their active holes.

        Raises:
            RecipeError: as `fill` does.
        """
        return tuple(self._settled(values).items())

    @cached_property
    def size(self) -> int | None:
        """The number of different recipes; None when a hole is continuous."""
        if any(hole.count is None for hole in self.holes):
            return None
        children: dict[Any, list[Hole]] = {}
        for hole in self.holes:
            children.setdefault(hole.parent, []).append(hole)

        def count(hole: Hole) -> int:
            with_children = [key for key in children if key is not None and key[0] == hole.name]
            return hole.count + sum(prod(map(count, children[key])) - 1 for key in with_children)

        return prod(map(count, children.get(None, ())))

    def grid(self) -> Iterator[dict[str, Any]]:
        """The values of every different recipe, active holes only, the last hole changing fastest.

        Raises:
            RecipeError: a hole is continuous.
        """
        if continuous := [hole.name for hole in self.holes if hole.count is None]:
            raise RecipeError(
                f"{self.origin}: a grid needs holes with countable values. Received: ranges without a step in "
                f"{', '.join(continuous)}. Remedy: {{float: [low, high], step: ...}}"
            )
        return self._extended({}, 0)

    def check(self) -> None:
        """Try the defaults, and around them every choice and both ends of every range, of each hole and of every two.

        Two at a time, because the rules of a recipe compare two values at most (`end` must lie behind `begin`).

        Raises:
            RecipeError: with everything that cannot be filled so, its place, the rule, what came, and the values.
        """
        problems = self._tried(())
        if not problems:
            probes = []
            for probe in ((hole, value) for hole in self.holes for value in hole.ends()):
                found = self._tried((probe,))
                problems += found
                if not found:
                    probes.append(probe)
            for pair in combinations(probes, 2):
                if not _are_apart(pair[0][0], pair[1][0]):
                    problems += self._tried(pair)
        if problems:
            listed = "\n  ".join(dict.fromkeys(problems))
            raise RecipeError(f"{self.origin} cannot be searched as written:\n  {listed}")

    def identity(self) -> dict[str, Any]:
        """What makes this space another, as plain values: its tree with its holes, what it is called aside."""
        return {key: _plain(node) for key, node in self.template.items() if key not in ("name", "description")}

    def _settled(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of the active holes, as the holes write them."""
        active = self.active(values)
        settled, problems = {}, self._strangers(values)
        for hole in active:
            if hole.name not in values:
                problems.append(f"{hole.name}: a value is missing. It must be {hole.allowed}")
                continue
            try:
                settled[hole.name] = hole.admit(values[hole.name])
            except ValueError as error:
                problems.append(f"{hole.name}: {error}")
        if problems:
            raise RecipeError(f"{self.origin} cannot be filled:\n  " + "\n  ".join(problems))
        return settled

    def _strangers(self, values: Mapping[str, Any]) -> list[str]:
        names = [hole.name for hole in self.holes]
        problems = []
        for name in values:
            if name not in names:
                near = get_close_matches(str(name), names, n=1)
                hint = f"Did you mean {near[0]}?" if near else f"The holes are {', '.join(names)}"
                problems.append(f"{name}: there is no such hole. {hint}")
        return problems

    def _extended(self, values: dict[str, Any], index: int) -> Iterator[dict[str, Any]]:
        if index == len(self.holes):
            yield values
            return
        hole = self.holes[index]
        if hole.parent is not None and values.get(hole.parent[0], _MISSING) != hole.parent[1]:
            yield from self._extended(values, index + 1)
            return
        for value in hole.grid():
            yield from self._extended({**values, hole.name: value}, index + 1)

    def _tried(self, probes: Sequence[tuple[Hole, Any]]) -> list[str]:
        """What is wrong with the recipe in which some holes have other values than their defaults."""
        values = self.default()
        for hole, value in probes:
            values |= dict(self.parents(hole))
            values[hole.name] = value
        active = self.active(values)
        if not all(hole in active and values[hole.name] == value for hole, value in probes):
            return []
        tree = self.fill(values)
        try:
            Recipe.model_validate(tree)
        except ValidationError as error:
            listed = problems_in(error, tree, lines_of_filled(self.template, values, self.lines)).split("\n  ")
            told = ", ".join(f"{hole.name}={value}" for hole, value in probes)
            return [f"{problem} ({told})" if told else problem for problem in listed] + _advice(error)
        return []


_MISSING = object()


def shipped_spaces() -> dict[str, Path]:
    """The recipes with holes that ship with the package, by name."""
    return shipped_texts("spaces")


def load_space(
    source: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] = (), layers: Layers | None = None
) -> Space:
    """The space of a recipe with holes; `Space.check` tells whether all of it can run.

    Args:
        source: the tree of a recipe with holes, a YAML file, or a name that ships; or a recipe without, whose holes
            come from `overrides`.
        overrides: `"<step or section>.<key>=<value>"`, values as in YAML, holes among them.
        layers: which layers of the model a step can work on, in order; needed where a hole stands for each layer.

    Raises:
        RecipeError: a hole is wrong or cannot stand where it does, all at once; or there is none.

    Example:
        >>> load_space("prune_qat", ["pruning.final_sparsity={float: [0.3, 0.9]}"]).holes[0].default
        0.6
    """
    space = read_space(source, overrides, layers)
    if not space.holes:
        raise RecipeError(
            f"{space.origin} has no hole: there is nothing to search. Remedy: use tfcompress compress, which runs it "
            f"as it is, or leave values open: {SYNTAX}"
        )
    return space


def draft(source: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The tree of the recipe in which every hole has its default, but those for each layer are not there.

    It is what can be said before the model, whose layers they are, is known. Takes the arguments of `load_space`.

    Raises:
        RecipeError: as `load_space` does.
    """
    space = read_space(source, overrides, lambda _: None)
    return space.fill(space.default())


def read_space(
    source: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] = (), layers: Layers | None = None
) -> Space:
    """As `load_space`, but a recipe without holes is a space of one."""
    if isinstance(source, Recipe):
        source = source.model_dump()
    origin, tree, lines = read_tree(source, {**shipped(), **shipped_spaces()})
    template, problems = read_template(overridden(tree, overrides, sections()), lines, layers)
    if problems:
        raise RecipeError(f"{origin} has holes that cannot be searched:\n  " + "\n  ".join(problems))
    return Space(origin, template, lines)


def _are_apart(left: Hole, right: Hole) -> bool:
    """Whether two holes need no trial together: they are one, or the values of two layers in one step."""
    step, per_layer, _ = left.name.partition(".per_layer.")
    return left is right or (bool(per_layer) and right.name.startswith(f"{step}{per_layer}"))


def _advice(error: ValidationError) -> list[str]:
    """A word on holes, where a mapping stands in place of a value and may have been meant as one."""
    kinds = ("_type", "literal_error")
    meant = any(isinstance(issue["input"], Mapping) and issue["type"].endswith(kinds) for issue in error.errors())
    return [f"holes are {SYNTAX}"] if meant else []


def _plain(node: Any) -> Any:
    if isinstance(node, Hole):
        return {"hole": _plain(asdict(node))}
    if isinstance(node, Branch):
        return {
            "hole": _plain(asdict(node.hole)),
            "alternatives": [_plain(part) for part in node.alternatives.values()],
        }
    if isinstance(node, Mapping):
        return {str(key): _plain(inner) for key, inner in node.items()}
    if isinstance(node, (list, tuple)):
        return [_plain(inner) for inner in node]
    if node is Absent.STEP:
        return node.value
    return node if node is None or isinstance(node, (bool, int, float, str)) else describe(node)
