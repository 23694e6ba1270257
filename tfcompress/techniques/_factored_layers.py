"""The model with chains of smaller layers in the place of some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.loading import copied_layer
from tfcompress.models.rewrites._graph import Builder, Graph, Part, rebuilt
from tfcompress.techniques._factorization import Factors
from tfcompress.vocabulary.promises import SHARED, Kind, Promise
from tfcompress.vocabulary.state import Effect, Lineage, Move, State

_VALUES: tuple[Kind, ...] = ("zeros", "group_zeros", *SHARED, "levels")
_FACTORED = Effect(refused="the weight becomes a product of smaller ones, which have other values")


def factored(state: State, chains: Mapping[str, Factors], *, made_by: str) -> State:
    """A state whose model has chains of smaller layers in the place of some, their ranks promised.

    The last layer of a chain has the name, the activation and the number of channels of the one replaced, so that
    promises of its channels hold; the one before it is called ``<name>_rank``, the first of three ``<name>_rank_in``.

    Args:
        state: its model is not touched.
        chains: by the name of a Dense or Conv2D layer.
        made_by: the step that promises.

    Raises:
        PromiseError: of the values of a weight to be factored something was promised.
    """
    graph = Graph(state.model)
    builders: dict[Any, Builder] = {}
    moves: dict[str, Move] = {}
    ranks: dict[str, int] = {}
    for name, factors in chains.items():
        layer = state.model.get_layer(name)
        parts = _parts(graph, layer, factors)
        layer_calls = graph.calls_of(layer)
        builders |= dict.fromkeys(layer_calls, _in_turn(parts))
        moves[f"{name}/kernel"] = Move(f"{name}/kernel", dict.fromkeys(_VALUES, _FACTORED))
        # A layer called twice loses its name in the file, where its weight could not be told.
        if len(layer_calls) == 1:
            ranks |= {
                part.layer.name: kernel.shape[-1] for part, kernel in zip(parts[:-1], factors.kernels[:-1], strict=True)
            }
    state = state.rewritten(rebuilt(graph, builders, {}), Lineage().moved(moves))
    promises = tuple(
        Promise(state.lineage.origin(f"{name}/kernel"), "channels", rank, made_by=made_by)
        for name, rank in ranks.items()
    )
    return state.evolve(promises=(*state.promises, *promises))


def _parts(graph: Graph, layer: Any, factors: Factors) -> list[Part]:
    *inner, last = (
        (_arguments(layer, kernel, window), kernel if isinstance(layer, kd.keras.layers.Conv2D) else kernel[0, 0])
        for kernel, window in zip(factors.kernels, factors.windows, strict=True)
    )
    names = [f"{layer.name}_rank_in", f"{layer.name}_rank"][-len(inner) :]
    parts = [
        Part(_linear(layer, arguments, graph.name(name)), [kernel])
        for name, (arguments, kernel) in zip(names, inner, strict=True)
    ]
    return [*parts, _last(layer, *last, factors.bias)]


def _arguments(layer: Any, kernel: np.ndarray, window: tuple[bool, bool]) -> dict[str, Any]:
    """What a layer with `kernel` is made with: it strides and dilates along the axes that its window slides over."""
    if isinstance(layer, kd.keras.layers.Dense):
        return {"units": kernel.shape[-1]}
    return {
        "filters": kernel.shape[-1],
        "kernel_size": kernel.shape[:2],
        "strides": tuple(n if slides else 1 for n, slides in zip(layer.strides, window, strict=True)),
        "dilation_rate": tuple(n if slides else 1 for n, slides in zip(layer.dilation_rate, window, strict=True)),
        "padding": layer.padding if any(window) else "valid",
    }


def _linear(layer: Any, arguments: Mapping[str, Any], name: str) -> Any:
    """A layer like `layer` without a bias or an activation."""
    return type(layer)(
        **arguments,
        name=name,
        use_bias=False,
        kernel_regularizer=layer.kernel_regularizer,
        trainable=layer.trainable,
        dtype=layer.dtype_policy,
    )


def _last(layer: Any, arguments: Mapping[str, Any], kernel: np.ndarray, bias: np.ndarray | None) -> Part:
    weights = {"kernel": kernel}
    if bias is not None:
        weights["bias"] = bias
    elif layer.use_bias:
        weights["bias"] = layer.bias.numpy()
    return Part(copied_layer(layer, **arguments, use_bias="bias" in weights), weights)


def _in_turn(parts: Sequence[Part]) -> Builder:
    def build(tensor: Any) -> Any:
        for part in parts:
            tensor = part(tensor)
        return tensor

    return build
