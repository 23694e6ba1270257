"""The weights that a forward pass computes with, while tfmot's wrappers stand between them and the trained ones.

A pruned weight is multiplied by its mask, a shared one replaced by centroids or code words, and one under
quantization-aware training rounded to its grid. Reading them here leaves every variable of the model as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tensorflow_model_optimization.python.core.clustering.keras.cluster_wrapper import ClusterWeights
from tensorflow_model_optimization.python.core.quantization.keras.quantize_wrapper import QuantizeWrapper
from tensorflow_model_optimization.python.core.sparsity.keras.pruning_wrapper import PruneLowMagnitude

from tfcompress import keras_door as kd
from tfcompress.techniques._substitution import Substitution

STRIPPABLE = (PruneLowMagnitude, ClusterWeights, Substitution)
"""Wrappers that are gone when training ends; those of quantization stay until the model is converted."""


@dataclass(frozen=True)
class EffectiveWeight:
    """One weight as the forward pass uses it.

    Args:
        name: the layer's own name, behind those of the models it is nested in; where a layer has several weights,
            followed by the weight's: `conv`, `encoder/conv`, `lstm/lstm_cell/kernel`.
        values: float, in the weight's shape.
        bits: width of the grid it is trained on; None when it is not quantized.
    """

    name: str
    values: np.ndarray
    bits: int | None

    @property
    def zeros(self) -> int:
        """How many values are exactly zero."""
        return int(np.count_nonzero(self.values == 0))


def effective_weights(model: Any) -> Iterator[EffectiveWeight]:
    """Every weight of `model` with two axes or more; biases and the vectors of normalization do not count."""
    for name, layer in _leaves(model):
        found = [parts for parts in _layer_weights(layer) if parts[1].ndim >= 2]
        for variable, values, bits in found:
            # A variable's first name is its layer's, with the wrapper's prefix.
            own = variable.name.split(":")[0].partition("/")[2] or variable.name
            yield EffectiveWeight(name if len(found) == 1 else f"{name}/{own}", values, bits)


def plain_weights(layer: Any) -> list[np.ndarray]:
    """The effective weights of a layer that is plain, pruned or clustered, as `set_weights` of the plain one takes."""
    return [values for _, values in _plain_pairs(layer)]


def _leaves(model: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for layer in model.layers:
        if isinstance(layer, kd.keras.Model):
            yield from _leaves(layer, f"{prefix}{layer.name}/")
        else:
            own = layer.layer if isinstance(layer, (*STRIPPABLE, QuantizeWrapper)) else layer
            yield prefix + own.name, layer


def _layer_weights(layer: Any) -> Iterator[tuple[Any, np.ndarray, int | None]]:
    """Each variable of the layer itself, its effective values, and the width of their grid."""
    if not isinstance(layer, QuantizeWrapper):
        yield from ((variable, values, None) for variable, values in _plain_pairs(layer))
        return
    for variable, quantizer, ranges in layer._weight_vars:
        grid = getattr(quantizer, "grid", None)
        bits = grid.bits if grid is not None else getattr(quantizer, "num_bits", None)
        yield variable, quantizer(variable, False, weights=ranges).numpy(), bits
    quantized = {id(variable) for variable, _, _ in layer._weight_vars}
    yield from ((v, v.numpy(), None) for v in layer.layer.weights if id(v) not in quantized)


def _plain_pairs(layer: Any) -> list[tuple[Any, np.ndarray]]:
    if isinstance(layer, PruneLowMagnitude):
        masks = {id(weight): mask.numpy() for weight, mask, _ in layer.pruning_vars}
        return [(v, v.numpy() * masks.get(id(v), 1)) for v in layer.layer.weights]
    if isinstance(layer, ClusterWeights):
        return _clustered_pairs(layer)
    if isinstance(layer, Substitution):
        return [(v, (layer.effective() if v is layer.variable else v).numpy()) for v in layer.layer.weights]
    return [(variable, variable.numpy()) for variable in layer.weights]


def _clustered_pairs(wrapper: Any) -> list[tuple[Any, np.ndarray]]:
    originals = wrapper.original_clusterable_weights
    # Only the wrapper's own update knows how it keeps zeros; it assigns to all of these.
    touched = [*originals.values(), *wrapper.cluster_centroids.values(), *wrapper.pulling_indices.values()]
    before = [variable.numpy() for variable in touched]
    wrapper.update_clustered_weights_associations()
    clustered = {id(weight): wrapper.get_weight_from_layer(name).numpy() for name, weight in originals.items()}
    for variable, value in zip(touched, before, strict=True):
        variable.assign(value)
    variables = list(wrapper.layer.weights)
    # tfmot's wrapper leaves tensors in the place of the variables, which its layer therefore lists no more.
    for position, name in sorted(wrapper.position_original_weights.items()):
        variables.insert(position, originals[name])
    return [(variable, clustered.get(id(variable), variable.numpy())) for variable in variables]
