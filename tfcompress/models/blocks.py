"""Residual blocks of a model: which there are, and the smaller model in which some have become their shortcuts.

Example:
    >>> blocks = ResidualBlocks(model)  # doctest: +SKIP
    >>> smaller = blocks.without(["stage1_block1_add"])  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.channels.counting import call_macs
from tfcompress.models.graph import has_kernel
from tfcompress.models.rewrites._activations import is_elementwise
from tfcompress.models.rewrites._graph import Builder, Call, Graph, rebuilt, same
from tfcompress.models.rewrites._operators import plain_name
from tfcompress.vocabulary.errors import ModelError

_SUMS = ("__operators__.add", "math.add")
"""Operators that do what the layer Add does."""


@dataclass(frozen=True)
class ResidualBlock:
    """A sum that can become one of its terms, and what is left out with the others.

    Args:
        name: that of the layer that sums.
        layers: those that nothing takes from when the shortcut alone stays, the sum among them, in the model's order.
        parameters: the numbers in their weights.

    Example:
        >>> print(block)  # doctest: +SKIP
        stage1_block1_add: 6 layers from stage1_block1_conv1 on, 4,768 parameters
    """

    name: str
    layers: tuple[str, ...]
    parameters: int

    def __str__(self) -> str:
        """The block in a line for a person."""
        return f"{self.name}: {len(self.layers)} layers from {self.layers[0]} on, {self.parameters:,} parameters"


class ResidualBlocks:
    """The residual blocks of a model.

    A block is a sum of tensors of one shape, an Add or a plus, of which one has passed fewer layers with kernels than
    every other, on the shortest way from the model's input: the shortcut, whether it does nothing or projects. The
    block can become that shortcut. What then leads nowhere, its branches, is left out; blocks within a branch go with
    it, and layers that others take from stay.

    Args:
        model: a Sequential or Functional tf_keras model; it is not touched.
    """

    def __init__(self, model: Any) -> None:
        self.graph = Graph(model)
        self._passed = _kernels_passed(self.graph)
        sums = [call for call in self.graph.calls if _is_sum(call)]
        self.refused = {call.layer.name: why for call in sums if (why := self._refusal(call))}
        """Why sums are no blocks, by the name of the layer."""
        self.sums = {_name(call): call for call in sums if call.layer.name not in self.refused}
        """The calls that close the blocks, by the names of these, in the model's order."""

    def __iter__(self) -> Iterator[ResidualBlock]:
        whole = self.calls_left(())
        for name in self.sums:
            left = {call.layer.name for call in self.calls_left([name])}
            gone = {call.layer.name: call.layer for call in whole if call.layer.name not in left}
            yield ResidualBlock(name, tuple(gone), sum(layer.count_params() for layer in gone.values()))

    def shortcut(self, name: str) -> int:
        """Which input of the sum that closes the block `name` is its shortcut."""
        passed = self._passes(self.sums[name])
        return passed.index(min(passed))

    def calls_left(self, removed: Collection[str]) -> list[Call]:
        """The calls that the outputs need when the blocks `removed` are their shortcuts, in the model's order."""
        shortcuts = {self.sums[name]: self.shortcut(name) for name in removed}
        ends = [call for call in self.graph.calls if self.graph.is_output(call)]
        needed: set[Call] = set()
        while ends:
            call = ends.pop()
            if call in shortcuts:
                ends.append(self.graph.source(call, shortcuts[call]))
            elif call not in needed:
                needed.add(call)
                ends += [] if call.node.is_input else self.graph.sources(call)
        return [call for call in self.graph.calls if call in needed]

    def left(self, removed: Collection[str]) -> tuple[str, ...]:
        """The names of the blocks that are still there without `removed`, in the model's order."""
        needed = set(self.calls_left(removed))
        return tuple(name for name, call in self.sums.items() if call in needed)

    def macs(self, removed: Collection[str]) -> int:
        """Multiply-accumulates of one inference without the blocks `removed`.

        Raises:
            ValueError: a size that a convolution or Dense slides over is open.
        """
        return sum(map(call_macs, self.calls_left(removed)))

    def parameters(self, removed: Collection[str]) -> int:
        """The numbers in all weights without the blocks `removed`."""
        layers = {id(call.layer): call.layer for call in self.calls_left(removed)}
        return sum(layer.count_params() for layer in layers.values())

    def without(self, removed: Collection[str]) -> Any:
        """The model in which the blocks `removed` are their shortcuts.

        An activation that then follows on one after which it does nothing, as a ReLU on a ReLU, is left out too.

        Returns:
            A Functional, uncompiled model of the layers that are left, with the same names and weights.

        Raises:
            ModelError: no layer with a kernel would be left.
        """
        if not any(map(has_kernel, (call.layer for call in self.calls_left(removed)))):
            raise ModelError(
                f"A model must keep a layer with weights. Without the blocks {', '.join(removed)} none would be left. "
                "Remedy: remove fewer."
            )
        return rebuilt(self.graph, self._builders(removed), {})

    def _builders(self, removed: Collection[str]) -> Mapping[Call, Builder]:
        builders: dict[Call, Builder] = {}
        stands_for: dict[Call, Call] = {}
        for name in removed:
            builders[self.sums[name]] = _taking(self.shortcut(name))
        for call in self.graph.calls:
            if call in builders:
                shortcut = self.graph.source(call, self.shortcut(_name(call)))
                stands_for[call] = stands_for.get(shortcut, shortcut)
            elif not call.node.is_input and len(call.inputs) == 1 and self.graph.source(call) in stands_for:
                before = stands_for[self.graph.source(call)]
                if _does_nothing_behind(call.layer, before.layer):
                    builders[call], stands_for[call] = same, before
        return builders

    def _passes(self, call: Call) -> list[int]:
        return [self._passed[source] for source in self.graph.sources(call)]

    def _refusal(self, call: Call) -> str:
        """Why the sum of `call` cannot become one of its terms; empty where it can."""
        if not self.graph.called_once(call):
            return "it sums at several places"
        if any(tuple(tensor.shape) != call.shape for tensor in call.inputs):
            return "its terms have different shapes"
        first, second, *_ = sorted(self._passes(call))
        return "" if first < second else f"no term of it is a shortcut: the shortest have passed {first} kernels each"


def _kernels_passed(graph: Graph) -> dict[Call, int]:
    """By call, the layers with kernels on the shortest way from the model's input through it."""
    passed: dict[Call, int] = {}
    for call in graph.calls:
        before = [] if call.node.is_input else [passed[source] for source in graph.sources(call)]
        passed[call] = min(before, default=0) + has_kernel(call.layer)
    return passed


def _is_sum(call: Call) -> bool:
    adds = type(call.layer) is kd.keras.layers.Add or getattr(call.layer, "symbol", None) in _SUMS
    return adds and not call.node.is_input and len(call.inputs) > 1


def _name(call: Call) -> str:
    """The name of the layer; of an operator, that of the layer which an exact rewrite would make of it."""
    return call.layer.name if type(call.layer) is kd.keras.layers.Add else plain_name(call.layer)


def _taking(index: int) -> Builder:
    return lambda *tensors: tensors[index]


def _does_nothing_behind(layer: Any, before: Any) -> bool:
    """Whether `layer` is an activation that changes nothing of what the layer `before` gives."""
    layers = kd.keras.layers
    if type(layer) not in (layers.ReLU, layers.Activation):
        return False
    activation, earlier = _activation_of(layer), _activation_of(before)
    if activation is None or earlier is None:
        return False
    # Dense near zero, and far beyond any bound that an activation is clipped at.
    values = earlier(kd.tf.constant(np.sinh(np.linspace(-12, 12, 481)), kd.tf.float32))
    return np.array_equal(activation(values), values)


def _activation_of(layer: Any) -> Callable[[Any], Any] | None:
    """What `layer` does to each number at its end, alone; None where it is not known to do anything."""
    layers = kd.keras.layers
    if type(layer) is layers.ReLU:
        return layer
    ends_with_it = (layers.Activation, layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D)
    if isinstance(layer, ends_with_it) and is_elementwise(layer.activation):
        return layer.activation
    return None
