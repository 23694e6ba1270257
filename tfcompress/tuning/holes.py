"""Holes: the values that a recipe leaves open, and what each may be filled with."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Literal

Kind = Literal["choice", "int", "float", "bool"]

KEYS: dict[str, tuple[str, ...]] = {
    "choice": ("default",),
    "int": ("sampling", "default"),
    "float": ("sampling", "step", "default"),
    "bool": ("default",),
    "maybe": ("default",),
    "one_of": ("default",),
}
"""The kinds of hole as a recipe writes them, and the other keys each may have."""

SYNTAX = (
    "{choice: [2, 4, 8]}, {int: [low, high]}, {int: [low, high, step]}, {float: [low, high]}, {bool}, and for "
    "alternatives {one_of: [...]} and {maybe: {technique: ...}}"
)
"""Every kind of hole in one line, for messages."""

# YAML 1.1 takes a number without a point, such as 1e-4, for text.
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")

_NOT_GIVEN = object()


@dataclass(frozen=True)
class Hole:
    """One open value.

    Args:
        name: its place in the recipe, unique: `pruning.final_sparsity`, `quantization.per_layer.conv1`; that of an
            optional step ends in `?`.
        kind: what it may be filled with.
        values: of `choice` all of them, text, numbers, True, False or None; of `bool` False and True.
        low: of `int` and `float` the least value, included.
        high: the greatest value, included.
        step: from one value to the next; a `float` without is continuous. Defaults to 1 for `int`.
        sampling: whether equal differences (`linear`) or equal ratios (`log`) are drawn equally often.
        default: where nothing speaks for another value. Defaults to the middle of numbers, else to the first.
        parent: name and value of another hole: this one exists only while that one has that value.

    Example:
        >>> Hole("pruning.final_sparsity", "float", low=0.5, high=0.9, step=0.2).grid()
        (0.5, 0.7, 0.9)
    """

    name: str
    kind: Kind
    values: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    step: float | None = None
    sampling: Literal["linear", "log"] = "linear"
    default: Any = _NOT_GIVEN
    parent: tuple[str, Any] | None = None

    def __post_init__(self) -> None:
        """Fill in what follows from the rest."""
        if self.kind == "bool":
            object.__setattr__(self, "values", (False, True))
        if self.kind == "int" and self.step is None:
            object.__setattr__(self, "step", 1)
        if self.default is _NOT_GIVEN:
            object.__setattr__(self, "default", self._middle())

    @property
    def count(self) -> int | None:
        """How many values it may have; None when it is continuous."""
        if self.values:
            return len(self.values)
        return None if self.step is None else int((_exact(self.high) - _exact(self.low)) // _exact(self.step)) + 1

    @property
    def allowed(self) -> str:
        """What it may be filled with, for messages."""
        if self.values:
            return f"one of {', '.join(map(in_yaml, self.values))}"
        steps = "" if self.step in (None, 1) else f" in steps of {self.step:g}"
        return f"a {'whole ' if self.kind == 'int' else ''}number from {self.low:g} to {self.high:g}{steps}"

    def grid(self) -> tuple[Any, ...]:
        """All its values, in order.

        Raises:
            ValueError: it is continuous.
        """
        if self.count is None:
            raise ValueError(f"{self.name} is continuous and has no grid. Remedy: give it a step")
        return self.values or tuple(map(self._point, range(self.count)))

    def ends(self) -> tuple[Any, ...]:
        """The values that a check must try: all of a choice, both ends of a range."""
        return self.values or (self.low, self.high)

    def at(self, share: float) -> Any:
        """The value at `share` (0...1) of its range, so that uniform shares give a fair draw.

        Example:
            >>> Hole("fit.learning_rate", "float", low=1e-4, high=1.0, sampling="log").at(0.5)
            0.01
        """
        if self.sampling == "linear" and self.count is not None:
            index = min(int(share * self.count), self.count - 1)
            return self.values[index] if self.values else self._point(index)
        if self.sampling == "log":
            value = self.low * (self.high / self.low) ** share
        else:
            value = self.low + share * (self.high - self.low)
        value = min(max(value, self.low), self.high)
        return value if self.step is None else self._point(round((value - self.low) / self.step))

    def admit(self, value: Any) -> Any:
        """`value` as this hole writes it: of its own type, and exactly on its grid.

        Raises:
            ValueError: it cannot be filled with `value`.
        """
        same = (own for own in self.values if own == value) if self.values else self._near(value)
        for own in same:
            return own
        raise ValueError(f"must be {self.allowed}. Received: {in_yaml(value)}")

    def admits(self, value: Any) -> bool:
        """Whether it can be filled with `value`."""
        try:
            self.admit(value)
        except ValueError:
            return False
        return True

    def _near(self, value: Any) -> Iterator[float]:
        """What arithmetic on floats left of a value of this range."""
        if isinstance(value, (bool, str)) or not hasattr(value, "__float__") or not math.isfinite(value):
            return
        rounding = 1e-9 * (self.high - self.low)
        inside = min(max(float(value), self.low), self.high)
        point = inside if self.step is None else self._point(round((inside - self.low) / self.step))
        if abs(point - value) <= rounding:
            yield point

    def _point(self, index: int) -> float:
        """The value `index` steps above the least; exact in decimals, as people write them."""
        if self.kind == "int":
            return int(self.low + index * self.step)
        return float(_exact(self.low) + index * _exact(self.step))

    def _middle(self) -> Any:
        if self.values and not all(_is_number(value) for value in self.values):
            return self.values[0]
        value = self.at(0.5)
        # People read the filled recipe; digits beyond these say nothing.
        return value if self.count is not None else min(max(float(f"{value:.6g}"), self.low), self.high)


def kind_of(raw: Mapping[Any, Any]) -> str | None:
    """The kind of the hole that a mapping in a recipe is; None when it is none.

    Example:
        >>> kind_of({"choice": [2, 4]}), kind_of({"epochs": 3})
        ('choice', None)
    """
    return next((kind for kind in KEYS if kind in raw), None)


def misspelt_kind(raw: Mapping[Any, Any]) -> tuple[str, str] | None:
    """The key of a mapping that was to be a kind of hole, and the kind it was to be.

    Example:
        >>> misspelt_kind({"chioce": [2, 4]})
        ('chioce', 'choice')
    """
    for key, value in raw.items():
        near = get_close_matches(str(key), KEYS, n=1, cutoff=0.7)
        filled_like_one = isinstance(value, list) or (near == ["maybe"] and isinstance(value, Mapping))
        if near and (filled_like_one or (near == ["bool"] and value is None)):
            return str(key), near[0]
    return None


def problems_with_keys(raw: Mapping[Any, Any]) -> list[str]:
    """What is wrong with the keys of a hole; empty when nothing is."""
    kind = kind_of(raw)
    problems = []
    for key in raw:
        if key == kind or key in KEYS[kind]:
            continue
        near = get_close_matches(str(key), KEYS[kind], n=1)
        hint = f"Did you mean `{near[0]}`?" if near else f"Keys beside it: {', '.join(KEYS[kind])}"
        problems.append(
            f"a hole is of one kind. Received: {kind} and {key}"
            if key in KEYS
            else f"unknown key `{key}` of a hole of kind {kind}. {hint}"
        )
    return problems


def read_hole(raw: Mapping[str, Any], name: str, parent: tuple[str, Any] | None = None) -> Hole | list[str]:
    """The hole that a mapping in a recipe is.

    Args:
        raw: a mapping with the key `choice`, `int`, `float` or `bool`.
        name: see `Hole`.
        parent: see `Hole`.

    Returns:
        The hole, or everything that is wrong with it.

    Example:
        >>> read_hole({"int": [1, 5]}, "pruning.fit.epochs").default
        3
        >>> read_hole({"int": [5, 1]}, "pruning.fit.epochs")
        ['low must lie below high. Received: [5, 1]']
    """
    kind = kind_of(raw)
    problems = problems_with_keys(raw)
    fields = _READERS[kind](raw, problems)
    if problems:
        return problems
    hole = Hole(name, kind, parent=parent, **fields)
    return with_default(hole, raw)


def with_default(hole: Hole, raw: Mapping[str, Any]) -> Hole | list[str]:
    """`hole` with the default that its mapping in a recipe gives, or what is wrong with that."""
    if "default" not in raw:
        return hole
    try:
        return replace(hole, default=hole.admit(_scalar(raw["default"])))
    except ValueError as error:
        return [f"default {error}"]


def _read_choice(raw: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    values = raw["choice"]
    if not isinstance(values, (list, tuple)) or not values:
        problems.append(f"choice must be a list of at least one value. Received: {in_yaml(values)}")
        return {}
    values = tuple(map(_scalar, values))
    compound = [value for value in values if not (value is None or isinstance(value, (str, bool)) or _is_number(value))]
    if compound:
        problems.append(
            "choice takes texts, finite numbers, true, false and null. "
            f"Received: {', '.join(map(in_yaml, compound))}. Remedy: one_of, whose alternatives may be anything"
        )
        return {}
    twice = [value for index, value in enumerate(values) if value in values[:index]]
    if twice:
        problems.append(f"the values of a choice must differ. Received twice: {', '.join(map(in_yaml, twice))}")
    return {"values": values}


def _read_int(raw: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    bounds = raw["int"]
    whole = isinstance(bounds, (list, tuple)) and all(type(bound) is int for bound in bounds)
    if not whole or len(bounds) not in (2, 3):
        problems.append(f"int must be [low, high] or [low, high, step], whole numbers. Received: {in_yaml(bounds)}")
        return {}
    return _read_range(raw, bounds, (*bounds, 1)[2], problems)


def _read_float(raw: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    bounds = raw["float"]
    bounds = [_scalar(bound) for bound in bounds] if isinstance(bounds, (list, tuple)) else bounds
    if not isinstance(bounds, list) or len(bounds) != 2 or not all(map(_is_number, bounds)):
        remedy = " Remedy: a third number goes into `step:`" if isinstance(bounds, list) and len(bounds) == 3 else ""
        problems.append(f"float must be [low, high], finite numbers. Received: {in_yaml(bounds)}.{remedy}".rstrip("."))
        return {}
    step = _scalar(raw.get("step"))
    if step is not None and not _is_number(step):
        problems.append(f"step must be a finite number. Received: {in_yaml(step)}")
        return {}
    return _read_range(raw, [float(bound) for bound in bounds], step, problems)


def _read_range(raw: Mapping[str, Any], bounds: list[float], step: float | None, problems: list[str]) -> dict[str, Any]:
    low, high = bounds[:2]
    sampling = raw.get("sampling", "linear")
    if sampling not in ("linear", "log"):
        problems.append(f"sampling must be linear or log. Received: {in_yaml(sampling)}")
    if low >= high:
        problems.append(f"low must lie below high. Received: {in_yaml(list(bounds[:2]))}")
    elif step is not None and step <= 0:
        problems.append(f"step must lie above 0. Received: {in_yaml(step)}")
    elif step is not None and (_exact(high) - _exact(low)) % _exact(step):
        whole = (_exact(high) - _exact(low)) // _exact(step)
        near = [float(_exact(low) + count * _exact(step)) for count in (whole, whole + 1) if count]
        problems.append(
            f"step must lead from low to high, which are both included. Received: {in_yaml([low, high])} in steps of "
            f"{step:g}. Remedy: end at {' or '.join(f'{value:g}' for value in near)}"
        )
    if sampling == "log" and low <= 0:
        problems.append(f"sampling log needs low above 0. Received: {in_yaml(low)}")
    return {"low": low, "high": high, "step": step, "sampling": sampling}


def _read_bool(raw: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    if raw["bool"] not in (None, True):
        problems.append(f"bool takes no values: write {{bool}}. Received: {in_yaml(raw['bool'])}")
    return {}


_READERS: dict[str, Callable[[Mapping[str, Any], list[str]], dict[str, Any]]] = {
    "choice": _read_choice,
    "int": _read_int,
    "float": _read_float,
    "bool": _read_bool,
}


def _scalar(value: Any) -> Any:
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _exact(value: float) -> Decimal:
    return Decimal(repr(value))


def in_yaml(value: Any) -> str:
    """A value as YAML would have it, on one line, for messages.

    Example:
        >>> in_yaml({"choice": [None, True, 2]})
        '{choice: [null, true, 2]}'
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {in_yaml(inner)}' for key, inner in value.items())}}}"
    return f"[{', '.join(map(in_yaml, value))}]" if isinstance(value, (list, tuple)) else str(value)
