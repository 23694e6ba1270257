"""The one immutable state that goes through a recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from tfcompress.vocabulary.errors import PromiseError
from tfcompress.vocabulary.promises import Kind, Promise, Scope

NumberFormat = Literal["int8", "int16x8", "dynamic_range", "float16"]


@dataclass(frozen=True)
class Effect:
    """What becomes of the promises of one kind when their weight is changed; by default they are kept.

    Args:
        scope: the scope they hold in afterwards; None for the one they had.
        bound_times: what their bound is multiplied by, as when each channel becomes several.
        bound_raised_by: what is then added to it, as when zeros come in among distinct values.
        refused: why they can no longer be kept; empty when they can.

    Example:
        >>> Effect(scope="channel").on(Promise("conv/kernel", "distinct", 16)).scope
        'channel'
    """

    scope: Scope | None = None
    bound_times: int = 1
    bound_raised_by: int = 0
    refused: str = ""

    def then(self, later: Effect) -> Effect:
        """The effect of this change and a `later` one together."""
        return Effect(
            later.scope or self.scope,
            self.bound_times * later.bound_times,
            self.bound_raised_by * later.bound_times + later.bound_raised_by,
            self.refused or later.refused,
        )

    def on(self, promise: Promise) -> Promise:
        """What `promise` has become, where it is not refused."""
        bound = promise.bound * self.bound_times + self.bound_raised_by
        return replace(promise, scope=self.scope or promise.scope, bound=bound)


KEPT = Effect()
"""The effect of a change that leaves the values of a weight as they are, perhaps in another order or shape."""


@dataclass(frozen=True)
class Move:
    """Where a weight goes, and what becomes of the promises on it.

    Args:
        place: its new name, ``"<layer>/<attribute>"``.
        effects: by kind of promise; a kind not listed is kept.
    """

    place: str
    effects: Mapping[Kind, Effect] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Lineage:
    """Where each weight of the caller's model is now, and what became of the promises on it on the way.

    A weight that no step has renamed or changed is not listed: its place is its own name, and promises on it hold.

    Args:
        places: the caller's weight name to today's, both ``"<layer>/<attribute>"``; in a nested model,
            ``"<model>/<layer>/<attribute>"``.
        effects: the caller's weight name to what became of its promises of each kind; a kind not listed is kept.

    Example:
        >>> Lineage().moved({"conv/kernel": "conv_folded/kernel"}).place("conv/kernel")
        'conv_folded/kernel'
    """

    places: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    effects: Mapping[str, Mapping[Kind, Effect]] = field(default_factory=lambda: MappingProxyType({}))

    def place(self, weight: str) -> str:
        """Today's name of the caller's `weight`."""
        return self.places.get(weight, weight)

    def origin(self, place: str) -> str:
        """The caller's name of the weight that stands at `place`; of several merged there, the one of its kind."""
        merged = [weight for weight, now in self.places.items() if now == place]
        alike = [weight for weight in merged if weight.rpartition("/")[2] == place.rpartition("/")[2]]
        return place if place in merged else next(iter([*alike, *merged]), place)

    def effect(self, weight: str, kind: Kind) -> Effect:
        """What became of promises of `kind` on the caller's `weight`."""
        return self.effects.get(weight, {}).get(kind, KEPT)

    def plain(self) -> dict[str, Any]:
        """Places and effects as plain values, for a file."""
        effects = {w: {kind: asdict(effect) for kind, effect in kinds.items()} for w, kinds in self.effects.items()}
        return {"places": dict(self.places), "effects": effects}

    def moved(self, moves: Mapping[str, str | Move]) -> Lineage:
        """A lineage in which every weight now at a key of `moves` is what its value says; a name alone keeps all."""
        to = {old: new if isinstance(new, Move) else Move(new) for old, new in moves.items()}
        known = set(self.places.values())
        origins = {**self.places, **{old: old for old in to if old not in known}}
        places = {origin: to[place].place if place in to else place for origin, place in origins.items()}
        moved = {origin: to[place].effects for origin, place in origins.items() if place in to}
        effects = {
            origin: MappingProxyType(
                {kind: self.effect(origin, kind).then(moved.get(origin, {}).get(kind, KEPT)) for kind in kinds}
            )
            for origin in origins
            if (kinds := {**self.effects.get(origin, {}), **moved.get(origin, {})})
        }
        return Lineage(MappingProxyType(places), MappingProxyType(effects))

    def then(self, later: Lineage) -> Lineage:
        """The lineage over both this one and a `later` one, whose caller's model is the result of this."""
        return self.moved({old: Move(new, later.effects.get(old, {})) for old, new in later.places.items()})

    def carried(self, promises: Iterable[Promise]) -> tuple[Promise, ...]:
        """What `promises` on the caller's weights have become; they still go by the caller's names.

        Raises:
            PromiseError: some cannot be kept, each named with the reason.
        """
        promises = tuple(promises)
        lost = [
            f"{p.weight} ({p.kind}, promised by {p.made_by or 'an earlier step'}): {refused}"
            for p in promises
            if (refused := self.effect(p.weight, p.kind).refused)
        ]
        if lost:
            raise PromiseError(
                "A model must be rewritten before promises are made that the rewrite cannot keep. It would break:\n  "
                + "\n  ".join(lost)
                + "\nRemedy: rewrite first, or leave the weight out of the step that promises."
            )
        return tuple(self.effect(p.weight, p.kind).on(p) for p in promises)


@dataclass(frozen=True)
class QuantizedWeight:
    """How one weight was trained for its integer form.

    Args:
        bits: width of the grid the values were trained on, 1...8.
        container_bits: width of the integers that hold it in the file, 4 or 8.
        channel_axes: how many of the Keras weight's last axes number the channels that have a scale each; 0 for
            one scale.
    """

    bits: int
    container_bits: int
    channel_axes: int


@dataclass(frozen=True)
class LitertQuantizer:
    """What the LiteRT quantizer is to make of the file of a float model.

    Args:
        algorithm: how it chooses the scales of weights.
        weight_bits: 8, or 4 where it has such operators.
        weight_granularity: whether each channel of a weight has a scale of its own.
        sixteen_bit: the weights in the model, ``"<layer>/<attribute>"``, of the operators with 16-bit activations.
    """

    algorithm: Literal["min_max", "octav", "mse", "gptq"]
    weight_bits: Literal[4, 8]
    weight_granularity: Literal["channel", "tensor"]
    sixteen_bit: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """What a step receives and returns: a model and all that is known of it.

    Args:
        model: a tf_keras model; a step never changes the one it was given.
        promises: facts that later steps and the shipped file must keep.
        lineage: where the caller's weights are in `model`.
        quantization: the weights trained for their integer form, by the caller's names; None before QAT.
        number_format: the arithmetic the file is to use; None until a step has chosen it.
        litert: how the LiteRT quantizer is to make the file of a float one; None where the converter makes it.
    """

    model: Any
    promises: tuple[Promise, ...] = ()
    lineage: Lineage = field(default_factory=Lineage)
    quantization: Mapping[str, QuantizedWeight] | None = None
    number_format: NumberFormat | None = None
    litert: LitertQuantizer | None = None

    def evolve(self, **changes: Any) -> State:
        """A copy with `changes` applied."""
        return replace(self, **changes)

    def rewritten(self, model: Any, lineage: Lineage) -> State:
        """The state after a rewrite of its model.

        Args:
            model: the model rewritten.
            lineage: of that rewrite alone, from the weights of this state's model.

        Raises:
            PromiseError: the rewrite cannot keep a promise.
        """
        now = {self.lineage.place(promise.weight): promise.weight for promise in self.promises}
        here = lineage.carried(replace(p, weight=self.lineage.place(p.weight)) for p in self.promises)
        promises = tuple(replace(promise, weight=now[promise.weight]) for promise in here)
        return self.evolve(model=model, promises=promises, lineage=self.lineage.then(lineage))

    def promises_of(self, weight: str, *kinds: str) -> tuple[Promise, ...]:
        """The promises made about the caller's `weight`, of the given kinds (all when none is given)."""
        return tuple(p for p in self.promises if p.weight == weight and (not kinds or p.kind in kinds))
