"""The one immutable state that goes through a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from tfcompress.vocabulary.promises import Promise

NumberFormat = Literal["int8", "int16x8", "dynamic_range", "float16"]


@dataclass(frozen=True)
class Lineage:
    """Where each weight of the caller's model is now, under which layer name.

    A weight that no step has renamed is not listed: its place is its own name.

    Args:
        places: the caller's weight name to today's, both ``"<layer>/<attribute>"``.

    Example:
        >>> Lineage().moved({"conv/kernel": "conv_folded/kernel"}).place("conv/kernel")
        'conv_folded/kernel'
    """

    places: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def place(self, weight: str) -> str:
        """Today's name of the caller's `weight`."""
        return self.places.get(weight, weight)

    def moved(self, moves: Mapping[str, str]) -> Lineage:
        """A lineage in which every weight now at a key of `moves` stands at its value."""
        places = {origin: moves.get(place, place) for origin, place in self.places.items()}
        known = set(self.places.values())
        places.update({old: new for old, new in moves.items() if old not in known})
        return Lineage(MappingProxyType(places))


@dataclass(frozen=True)
class QuantizedWeight:
    """How one weight was trained for its integer form.

    Args:
        bits: width of the grid the values were trained on, 2...8.
        container_bits: width of the integers that hold it in the file, 4 or 8.
        channel_axes: how many of the Keras weight's last axes number the channels that have a scale each; 0 for
            one scale.
    """

    bits: int
    container_bits: int
    channel_axes: int


@dataclass(frozen=True)
class State:
    """What a step receives and returns: a model and all that is known of it.

    Args:
        model: a tf_keras model; a step never changes the one it was given.
        promises: facts that later steps and the shipped file must keep.
        lineage: where the caller's weights are in `model`.
        quantization: the weights trained for their integer form, by the caller's names; None before QAT.
        number_format: the arithmetic the file is to use; None until a step has chosen it.
    """

    model: Any
    promises: tuple[Promise, ...] = ()
    lineage: Lineage = field(default_factory=Lineage)
    quantization: Mapping[str, QuantizedWeight] | None = None
    number_format: NumberFormat | None = None

    def evolve(self, **changes: Any) -> State:
        """A copy with `changes` applied."""
        return replace(self, **changes)

    def promises_of(self, weight: str, *kinds: str) -> tuple[Promise, ...]:
        """The promises made about the caller's `weight`, of the given kinds (all when none is given)."""
        return tuple(p for p in self.promises if p.weight == weight and (not kinds or p.kind in kinds))
