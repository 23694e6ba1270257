"""Dense and Conv2D layers that can become several smaller ones: in which ways, and what these would cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.rewrites._graph import Call, Graph
from tfcompress.techniques._factorization import (
    Factorization,
    Method,
    Ranks,
    ResponsePca,
    SpatialSvd,
    Svd,
    Tucker2,
)
from tfcompress.techniques._responses import Responses

_OF_WINDOWS: dict[str, dict[Method, type[Factorization]]] = {
    "auto": {"spatial_svd": SpatialSvd, "tucker2": Tucker2},
    "svd": {"svd": Svd},
    "spatial_svd": {"spatial_svd": SpatialSvd},
    "tucker2": {"tucker2": Tucker2},
}
CountName = Literal["macs", "parameters"]


class Choice(NamedTuple):
    """How one layer is factored.

    Args:
        method: in which way.
        ranks: one, or two of `tucker2`: of inputs and of outputs.
    """

    method: Method
    ranks: Ranks


@dataclass(frozen=True, eq=False)
class Factorable:
    """A layer of a model, and the ways to factor it.

    Args:
        name: the layer's.
        ways: by method.
        sizes: for each call of the layer the height and width of its input, and of its output.
        bias: numbers in its bias.
        new_bias: numbers in the bias of the last layer in its place.
    """

    name: str
    ways: Mapping[Method, Factorization]
    sizes: tuple[tuple[int, int, int, int], ...]
    bias: int
    new_bias: int

    def whole(self, count: CountName) -> int:
        """What the layer itself costs."""
        kernel = next(iter(self.ways.values())).size
        if count == "parameters":
            return prod(kernel) + self.bias
        return prod(kernel) * sum(height * width for _, _, height, width in self.sizes)

    def cost(self, count: CountName, method: Method, ranks: Sequence[int | np.ndarray]) -> int | np.ndarray:
        """What the layers in its place cost at `ranks`, which may be arrays."""
        way = self.ways[method]
        shapes = way.shapes(*ranks)
        if count == "parameters":
            return sum(map(prod, shapes)) + self.new_bias
        return sum(map(prod, zip(map(prod, shapes), self._positions(way), strict=True)))

    def pays(self, method: Method, ranks: Sequence[int | np.ndarray]) -> bool | np.ndarray:
        """Whether the layers in its place have both fewer parameters and fewer multiply-accumulates."""
        fewer, faster = (self.cost(name, method, ranks) < self.whole(name) for name in ("parameters", "macs"))
        return fewer & faster

    def pays_below(self, method: Method) -> int:
        """The smallest rank, the same for inputs and outputs, at which they would be no smaller."""
        full = self.ways[method].full_ranks
        ranks = np.arange(1, max(full) + 1)
        return 1 + int(self.pays(method, [np.minimum(ranks, most) for most in full]).sum())

    def at_energy(self, energy: float, multiple_of: int, count: CountName) -> Choice | None:
        """The way, with its ranks, that costs least among those that keep `energy`; None where none pays.

        Args:
            energy: least share to keep, 0 to 1.
            multiple_of: of the ranks.
            count: what is to be least.
        """
        options = list(self._options(energy, multiple_of, count))
        return min(options, key=lambda option: option[0], default=(0, None))[1]

    def at_ranks(self, ranks_of: Callable[[Factorization], Ranks], multiple_of: int) -> Choice | None:
        """The first way at the ranks asked for, or another that keeps as much with fewer multiply-accumulates."""
        method, way = next(iter(self.ways.items()))
        ranks = ranks_of(way)
        own = (self.cost("macs", method, ranks), Choice(method, ranks))
        options = [own] if self.pays(method, ranks) else []
        if len(self.ways) > 1:
            others = self._options(float(way.kept(*ranks)), multiple_of, "macs")
            options += [option for option in others if option[1].method != method]
        return min(options, key=lambda option: option[0], default=(0, None))[1]

    def _options(self, energy: float, multiple_of: int, count: CountName) -> Iterator[tuple[int, Choice]]:
        for method, way in self.ways.items():
            ranks = way.ranks_of(multiple_of)
            fits = self.pays(method, ranks)
            # Any ranks keep nothing, which need not be computed.
            if energy > 0:
                fits &= way.kept(*ranks) >= energy
            if fits.any():
                costs = np.where(fits, self.cost(count, method, ranks), np.inf)
                best = int(np.argmin(costs))
                yield int(costs[best]), Choice(method, tuple(int(axis[best]) for axis in ranks))

    def _positions(self, way: Factorization) -> list[int]:
        """How many places each kernel of the chain is applied at, over all calls."""
        found = []
        high = wide = False
        for along_height, along_width in way.windows:
            high, wide = high or along_height, wide or along_width
            found.append(sum((h_out if high else h) * (w_out if wide else w) for h, w, h_out, w_out in self.sizes))
        return found


def is_candidate(layer: Any) -> bool:
    """Whether `layer` is of a kind that can be factored."""
    return type(layer) in (kd.keras.layers.Dense, kd.keras.layers.Conv2D)


def why_not(layer: Any) -> str:
    """What forbids replacing a Dense or Conv2D by smaller ones; empty where nothing does."""
    if getattr(layer, "groups", 1) != 1:
        return "a convolution in groups has small kernels already"
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "its channels come first"
    if layer.kernel_constraint is not None:
        return "its constraint is one of the whole kernel"
    return ""


def factorables(
    model: Any, names: Sequence[str], method: str, responses: Mapping[str, Responses] | None = None
) -> tuple[Factorable, ...]:
    """The layers of these names, with the ways to factor them.

    Args:
        model: that they are in.
        names: of Dense and Conv2D layers that nothing forbids to factor.
        method: of kernels larger than 1x1, one or `auto`; all others have `svd`.
        responses: to calibration samples, by layer; None to factor the kernels alone.
    """
    graph = Graph(model)
    return tuple(
        _factorable(graph, model.get_layer(name), method, None if responses is None else responses[name])
        for name in names
    )


def _factorable(graph: Graph, layer: Any, method: str, responses: Responses | None) -> Factorable:
    kernel = layer.kernel.numpy()
    kernel = kernel if kernel.ndim == 4 else kernel[None, None]
    outputs = kernel.shape[-1]
    bias = layer.bias.numpy() if layer.use_bias else np.zeros(outputs)
    if responses is not None:
        ways: dict[Method, Factorization] = {"svd": ResponsePca(kernel, bias, responses.mean, responses.covariance)}
    else:
        kinds = _OF_WINDOWS["svd" if kernel.shape[:2] == (1, 1) else method]
        ways = {name: kind(kernel) for name, kind in kinds.items()}
    has_bias = outputs * layer.use_bias
    return Factorable(
        name=layer.name,
        ways=ways,
        sizes=tuple(_sizes(call) for call in graph.calls_of(layer)),
        bias=has_bias,
        new_bias=has_bias if responses is None else outputs,
    )


def _sizes(call: Call) -> tuple[int, int, int, int]:
    """Of an open size only how the input's stands to the output's is told, as where images are large."""
    if type(call.layer) is kd.keras.layers.Dense:
        positions = prod(size or 1 for size in call.shape[1:-1])
        return positions, 1, positions, 1
    before, after = call.inputs[0].shape[1:3], call.shape[1:3]
    strided = (size or stride for size, stride in zip(before, call.layer.strides, strict=True))
    return (*strided, *(size or 1 for size in after))
