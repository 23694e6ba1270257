"""Promises: facts about weights that a technique establishes and that must be true of the shipped file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["zeros", "group_zeros", "distinct", "levels"]
Scope = Literal["tensor", "channel"]
Domain = Literal["float", "integer"]


@dataclass(frozen=True)
class Promise:
    """One fact about one weight, held from the step that makes it to the flatbuffer.

    Args:
        weight: the weight as the caller's model names it, ``"<layer>/<attribute>"``, e.g. ``"conv2d/kernel"``.
        kind: what is promised:
            ``zeros`` - the share of exact zeros is at least `bound`;
            ``group_zeros`` - of every `group` consecutive input channels at least `bound` are zero (N:M);
            ``distinct`` - there are at most `bound` different values, zero included;
            ``levels`` - every value lies on a uniform signed grid of at most `bound` levels.
        bound: the number promised, in the unit that `kind` says.
        scope: whether the fact holds of the ``tensor`` or of each output ``channel`` alone.
        domain: whether it holds of the ``float`` values or of the ``integer`` ones that the file stores.
        group: the size of a group, for ``group_zeros`` only.
        made_by: the name of the step that made the promise.

    Example:
        >>> Promise("dense/kernel", "zeros", 0.8, made_by="pruning").is_kept_by(0.81)
        True
    """

    weight: str
    kind: Kind
    bound: float
    scope: Scope = "tensor"
    domain: Domain = "integer"
    group: int | None = None
    made_by: str = ""

    def is_kept_by(self, found: float) -> bool:
        """Whether the measured number `found` honours this promise."""
        if self.kind in ("zeros", "group_zeros"):
            return found >= self.bound
        return found <= self.bound
