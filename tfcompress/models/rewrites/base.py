"""The contract that every rewrite keeps, and how the ones that exist are found."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from graphlib import TopologicalSorter
from typing import ClassVar, Literal

from tfcompress.models.rewrites._graph import Builder, Call, Graph, Part
from tfcompress.vocabulary.state import Move

Purpose = Literal["opening", "enabling", "calibrating", "faster", "capacity", "export"]


@dataclass(frozen=True)
class Edit:
    """One change that a pass wants made, whole: made or left out, the model stays the same function.

    Args:
        became: for each layer it is about, the names of the layers that are to do its work; layers that it only gives
            other neighbours are not listed.
        reason: why.
        builders: for each call to replace, a function from the new tensors that it would be given to its new outputs.
        moves: where the weights go, by their names in the model at hand.
        copies: layers put in the place of others wherever these are called, by the id of the other.
        origins: the layers that new ones come from, where `became` does not tell; by the new name.
    """

    became: Mapping[str, tuple[str, ...]]
    reason: str
    builders: Mapping[Call, Builder]
    moves: Mapping[str, str | Move] = field(default_factory=dict)
    copies: Mapping[int, Part] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def layer(self) -> str:
        """The first layer it is about."""
        return next(iter(self.became))


class Rewrite(ABC):
    """An exact rewrite: the model computes the same in inference.

    A subclass in a file of this folder is found by being there; no list names it.
    """

    name: ClassVar[str]
    """What it is called by."""
    purpose: ClassVar[Purpose]
    """``opening`` makes a model what a run can start from, ``enabling`` makes techniques possible, ``calibrating`` is
    for rounding without training, ``faster`` is a choice for the shipped file, ``capacity`` gives training more
    weights, ``export`` is for the converter."""
    after: ClassVar[tuple[str, ...]] = ()
    """Passes of the same purpose that do their part before."""

    @abstractmethod
    def edits(self, graph: Graph) -> Iterator[Edit]:
        """The changes to make in `graph`; the same ones in the same order each time.

        An edit that replaces a call which an earlier edit replaces is put off until the pass is applied again.
        """


@cache
def rewrites() -> dict[str, Rewrite]:
    """Every pass by its name, each after those it names in `after`, else by name."""
    package = importlib.import_module("tfcompress.models.rewrites")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package.__name__}.{module.name}")
    found = {cls.name: cls for cls in Rewrite.__subclasses__() if cls.__module__.startswith(f"{package.__name__}.")}
    order = TopologicalSorter({name: found[name].after for name in sorted(found)}).static_order()
    return {name: found[name]() for name in order}


def names_of(purpose: Purpose) -> tuple[str, ...]:
    """The names of the passes that serve `purpose`, in the order in which they are applied."""
    return tuple(name for name, found in rewrites().items() if found.purpose == purpose)
