"""The text of a recipe: found, read with the line of every key, and overridden, before it is known to be one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from tfcompress.vocabulary.errors import RecipeError

Lines = Mapping[tuple, int]
"""The line of every key and list item of a text, by its path."""


def shipped_texts(folder: str) -> dict[str, Path]:
    """The YAML files in a folder of the package, by name."""
    return {path.stem: path for path in sorted((Path(str(resources.files("tfcompress"))) / folder).glob("*.yaml"))}


def read_tree(source: str | Path | Mapping[str, Any], known: Mapping[str, Path]) -> tuple[str, dict[str, Any], Lines]:
    """What a recipe says, unchecked.

    Args:
        source: a tree, a YAML file, or a name in `known`.
        known: the files that ship, by name.

    Returns:
        Where it comes from, for messages; the tree, named after its file; and its lines, none where there is no text.

    Raises:
        RecipeError: there is no such file, it is no YAML, or it holds no mapping.
    """
    if isinstance(source, Mapping):
        return "the recipe", {**source}, {}
    origin, text = _read(source, known)
    tree, lines = parse_yaml(origin, text)
    if not isinstance(tree, dict):
        raise RecipeError(f"{origin} must hold a mapping with the key `steps`. Received: {type(tree).__name__}.")
    return origin, {"name": Path(origin).stem, **tree}, lines


def _read(source: str | Path, known: Mapping[str, Path]) -> tuple[str, str]:
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


def place(lines: Lines, path: tuple, shown: str) -> str:
    """Where something stands, as a person would say it: the line of `path` or of what it stands in, and `shown`.

    Example:
        >>> place({("data",): 7}, ("data", "batch_size"), "data.batch_size")
        'line 7, data.batch_size'
    """
    line = next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), None)
    return ", ".join(filter(None, [f"line {line}" if line else "", shown]))


def step_name(step: Mapping[str, Any]) -> str:
    """What a step that is not yet checked is called."""
    return str(step.get("name") or step.get("technique"))


def overridden(tree: Mapping[str, Any], overrides: Sequence[str], sections: Sequence[str]) -> dict[str, Any]:
    """A copy of `tree` with other values; `tree` stays as it was.

    Args:
        tree: of a recipe. A step may stand inside other mappings and lists, as in a recipe with holes.
        overrides: `"<step or section>.<key>=<value>"`, values as in YAML.
        sections: the keys of a recipe that hold keys of their own.

    Raises:
        RecipeError: an override does not have this form, or names no step and no section.

    Example:
        >>> overridden({"steps": [{"technique": "pruning"}]}, ["pruning.end=0.5"], [])["steps"]
        [{'technique': 'pruning', 'end': 0.5}]
    """
    changed = {**tree}
    for override in overrides:
        _override(changed, override, sections)
    return changed


def parse_override(override: str) -> tuple[list[str], Any]:
    """The path that an override names, and the value.

    Raises:
        RecipeError: it is none.

    Example:
        >>> parse_override("pruning.end=0.5")
        (['pruning', 'end'], 0.5)
    """
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or len(path) < 2:
        raise RecipeError(f"--set takes <step or section>.<key>=<value>. Received: {override}")
    try:
        return path, yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override}: the value is not valid YAML: {error}") from None


def _override(tree: dict[str, Any], override: str, sections: Sequence[str]) -> None:
    path, value = parse_override(override)
    steps = dict(_steps(tree.get("steps"), ("steps",)))
    if path[0] in steps:
        target = _opened(tree, steps[path[0]])
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


def _steps(node: Any, path: tuple) -> Iterator[tuple[str, tuple]]:
    """The steps in a part of a tree, with their paths."""
    if isinstance(node, Mapping) and ("technique" in node or "name" in node):
        yield step_name(node), path
    elif isinstance(node, (Mapping, list, tuple)):
        for key, inner in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from _steps(inner, (*path, key))


def _opened(tree: dict[str, Any], path: tuple) -> dict[str, Any]:
    """The mapping at `path`, to be changed: what it stands in may be the caller's, and is copied on the way."""
    target: Any = tree
    for part in path:
        target[part] = {**target[part]} if isinstance(target[part], Mapping) else [*target[part]]
        target = target[part]
    return target
