"""Promises: facts about weights that a technique establishes and that must be true of the shipped file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["channels", "zeros", "group_zeros", "distinct", "codewords", "levels"]
Scope = Literal["tensor", "channel", "subspace"]
Domain = Literal["float", "integer"]

SHARED: tuple[Kind, ...] = ("distinct", "codewords")
"""Kinds of promise that hold of integers where equal values have become equal ones."""


@dataclass(frozen=True)
class Promise:
    """One fact about one weight, held from the step that makes it to the flatbuffer.

    Args:
        weight: the weight as the caller's model names it, ``"<layer>/<attribute>"``, e.g. ``"conv2d/kernel"``.
        kind: what is promised:
            ``channels`` - there are at most `bound` output channels;
            ``zeros`` - the share of exact zeros is at least `bound`;
            ``group_zeros`` - of every `group` consecutive input channels at least `bound` are zero (N:M);
            ``distinct`` - there are at most `bound` different values, zero included;
            ``codewords`` - there are at most `bound` different sub-vectors of `group` consecutive input channels;
            ``levels`` - every value lies on a uniform signed grid of at most `bound` levels.
        bound: the number promised, in the unit that `kind` says.
        scope: whether the fact holds of the ``tensor``, of each output ``channel`` alone, or, for ``codewords`` only,
            of each ``subspace`` alone: the sub-vectors at one place along the input channels.
        domain: whether it holds of the ``float`` values or of the ``integer`` ones that the file stores.
        group: the size of a group, for ``group_zeros`` and ``codewords`` only.
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

    def found_in(self, values: np.ndarray, *, channel_axis: int = -1, input_axis: int = -2) -> float:
        """The number that a weight shows for this promise, to be held against `bound`.

        Args:
            values: the weight: real values, or for ``levels`` the integers of its grid.
            channel_axis: the axis of its output channels. Defaults to a Keras kernel's, the last.
            input_axis: the axis of its input channels. Defaults to a Keras kernel's, the one before; the sub-vectors
                of an embedding are of its rows, whose axis is the last.

        Example:
            >>> Promise("fc/kernel", "distinct", 16).found_in(np.array([[0.5, 0.0], [0.5, 1.0]]))
            3
        """
        if self.kind == "channels":
            return values.shape[channel_axis]
        if self.kind == "group_zeros":
            groups = np.moveaxis(values, input_axis, -1).reshape(-1, self.group)
            return int((groups == 0).sum(axis=1).min())
        if self.kind == "codewords":
            rows = np.moveaxis(values, input_axis, -1)
            vectors = rows.reshape(-1, rows.shape[-1] // self.group, self.group)
            apart = np.moveaxis(vectors, 1, 0) if self.scope == "subspace" else [vectors.reshape(-1, self.group)]
            return max(len(np.unique(part, axis=0)) for part in apart)
        parts = [values] if self.scope == "tensor" else np.moveaxis(values, channel_axis, 0)
        if self.kind == "zeros":
            # Counted, not averaged: a mean in float32 may fall a hair below the exact share.
            return min(np.count_nonzero(part == 0) / part.size for part in parts)
        if self.kind == "distinct":
            return max(np.unique(part).size for part in parts)
        # A grid about zero, or one level longer below it, as two's complement has it.
        return max(2 * int(values.max()) + 1, -2 * int(values.min()))

    def is_kept_by(self, found: float) -> bool:
        """Whether the measured number `found` honours this promise."""
        if self.kind in ("zeros", "group_zeros"):
            return found >= self.bound
        return found <= self.bound


def broken_by(
    values: np.ndarray, promises: Sequence[Promise], channel_axis: int = -1, input_axis: int = -2
) -> list[str]:
    """What to say of each of `promises` that a Keras kernel does not keep; empty when it keeps all.

    Args:
        values: the kernel.
        promises: on it.
        channel_axis: the axis of its output channels. Defaults to the last.
        input_axis: the axis of its input channels. Defaults to the one before.
    """
    found = [(p, p.found_in(values, channel_axis=channel_axis, input_axis=input_axis)) for p in promises]
    return [
        f"{p.weight} must have {p.kind} {p.bound:g}, promised by {p.made_by or 'an earlier step'}, but has {number:g}"
        for p, number in found
        if not p.is_kept_by(number)
    ]
