"""What exact rewrites did to a model, layer by layer, and in a few lines."""

from __future__ import annotations

from collections.abc import Iterable

from tfcompress.vocabulary.schema import Schema

_NAMED = 3
"""Layers whose names a line shows."""


class Change(Schema):
    """What an exact rewrite did to one layer. A layer that it only gave other neighbours has none.

    Example:
        >>> print(Change(rewrite="p", layer="x", kind="Average", became=("y",), kinds=("Add",), reason="so"))
        p: x (Average) becomes y (Add); so
    """

    rewrite: str
    """The name of the pass."""
    layer: str
    """The layer, as the caller's model names it; inside a nested model, ``"<model>/<layer>"``."""
    kind: str
    """Its class when the pass came to it."""
    became: tuple[str, ...]
    """The names of the layers that do its work now."""
    kinds: tuple[str, ...]
    """Their classes."""
    reason: str
    """Why it was done."""

    def __str__(self) -> str:
        became = ", ".join(f"{name} ({kind})" for name, kind in zip(self.became, self.kinds, strict=True))
        return f"{self.rewrite}: {self.layer} ({self.kind}) becomes {became or 'nothing'}; {self.reason}"


def summary(changes: Iterable[Change]) -> list[str]:
    """One line for each pass: how many layers it changed, the names of a few, and why."""
    passes: dict[str, list[Change]] = {}
    for change in changes:
        passes.setdefault(change.rewrite, []).append(change)
    return [_line(name, of_pass) for name, of_pass in passes.items()]


def _line(name: str, changes: list[Change]) -> str:
    layers = list(dict.fromkeys(change.layer for change in changes))
    count = f"{len(layers)} layer" + ("s" if len(layers) > 1 else "")
    more = f" and {len(layers) - _NAMED} more" if len(layers) > _NAMED else ""
    reasons = "; ".join(dict.fromkeys(change.reason for change in changes))
    return f"{name}: {count} ({', '.join(layers[:_NAMED])}{more}); {reasons}"
