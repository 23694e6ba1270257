"""The proof that a translated model computes what its source computes, at every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.vocabulary.errors import ModelError

TOLERANCE = 1e-4
"""The largest relative difference of a layer's outputs that passes: ``max|a - b| / max|a|``, in float32."""

_SAMPLES = 2
# What an open axis is tried with: pixels, large enough for every application, and steps.
_OPEN_SIZE = {4: 96, 5: 32}
_OPEN_STEPS = 16


@dataclass(frozen=True)
class Pair:
    """A model, outer or nested, and its counterpart.

    Args:
        places: the name of the layer that each tensor comes from, nested models' names in front.
        source: the Keras 3 Functional graph.
        tensors: its tensors, in the order of computation.
        target: the tf_keras model.
        counterparts: the tensors of `target` that are to be equal, in the same order.
    """

    places: Sequence[str]
    source: Any
    tensors: Sequence[Any]
    target: Any
    counterparts: Sequence[Any]


def compare(pairs: Sequence[Pair]) -> dict[str, float]:
    """Run both models of each pair on random input and compare all tensors.

    The first sample is drawn from a standard normal distribution, the second is uniform over 0...255; both are drawn
    anew in each pair, from a fixed seed. Inputs that lead to an Embedding are indices into it.

    Args:
        pairs: nested models before those that hold them.

    Returns:
        The relative difference of each layer, by its place: the largest of its outputs and samples.

    Raises:
        ModelError: a difference is above `TOLERANCE`, or not a number. The first such layer is named.
    """
    found: dict[str, float] = {}
    for pair in pairs:
        if not pair.tensors:
            continue
        for place, ours, theirs in zip(pair.places, *_run(pair), strict=True):
            difference = relative_difference(ours, theirs)
            found[place] = max(found.get(place, 0.0), difference)
            if not difference <= TOLERANCE:
                raise ModelError(
                    f"A translated layer must compute what the Keras 3 layer computes, to a relative difference of "
                    f"{TOLERANCE:g}. The first that does not is {place!r}: {difference:.3g}. Replace this layer in the "
                    "Keras 3 model, or pass its tf_keras class in custom_objects={name: class}."
                )
    return found


def relative_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """``max|a - b| / max|a|`` of the sample where it is largest; infinite for unlike shapes or unlike NaN.

    Args:
        ours: what is right, ``[samples, ...]``.
        theirs: what is compared with it.
    """
    if ours.shape != theirs.shape:
        return np.inf
    ours, theirs = (
        np.asarray(value, np.float64).reshape(len(value) if value.ndim else 1, -1) for value in (ours, theirs)
    )
    # Where both are the same infinity or both NaN they agree, and would make a difference that is NaN.
    with np.errstate(invalid="ignore"):
        gap = np.where((ours == theirs) | (np.isnan(ours) & np.isnan(theirs)), 0.0, np.abs(ours - theirs))
    if np.isnan(gap).any():
        return np.inf
    size = np.max(np.abs(ours), axis=1, initial=0.0, where=np.isfinite(ours))
    gap = np.max(gap, axis=1, initial=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(np.where(gap == 0, 0.0, gap / size), initial=0.0))


def _run(pair: Pair) -> tuple[list[np.ndarray], list[np.ndarray]]:
    samples = random_inputs(pair.source)
    keras_3 = kd.keras_3
    source = keras_3.Model(list(pair.source.inputs), list(pair.tensors))
    ours = source([keras_3.ops.convert_to_tensor(sample) for sample in samples], training=False)
    target = kd.keras.Model(kd.tf.nest.flatten(pair.target.inputs), list(pair.counterparts))
    theirs = target([kd.tf.constant(sample) for sample in samples], training=False)
    return (
        [keras_3.ops.convert_to_numpy(value) for value in _listed(ours)],
        [np.asarray(value) for value in _listed(theirs)],
    )


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def random_inputs(graph: Any) -> list[np.ndarray]:
    """Two samples for each input of a Keras 3 graph, the same at every call."""
    rng = np.random.default_rng(0)
    return [_random(rng, tensor, _vocabulary(graph, tensor)) for tensor in graph.inputs]


def _random(rng: np.random.Generator, tensor: Any, vocabulary: int | None) -> np.ndarray:
    rank = len(tensor.shape)
    shape = [_OPEN_SIZE.get(rank, _OPEN_STEPS) if size is None else size for size in tensor.shape]
    shape[0] = tensor.shape[0] or _SAMPLES
    dtype = "float32" if "float" in tensor.dtype else tensor.dtype
    if vocabulary is not None:
        values = rng.integers(0, vocabulary, shape)
        # The index that masks say nothing of, at the end as in padded text.
        values[..., -max(1, shape[-1] // 4) :] = 0
        return values.astype(dtype)
    if dtype != "float32":
        return rng.integers(0, 2, shape).astype(dtype)
    values = rng.normal(size=shape)
    values[1:] = rng.uniform(0, 255, values[1:].shape)
    return values.astype(dtype)


def _vocabulary(graph: Any, tensor: Any) -> int | None:
    """How many rows the smallest table has that `tensor` looks up, directly or behind layers without weights."""
    sizes, reached = [], {id(tensor)}
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if node.is_input or not reached & {id(value) for value in node.input_tensors}:
                continue
            sizes += _rows(node.operation)
            if not getattr(node.operation, "weights", None):
                reached.update(map(id, node.outputs))
    return min(sizes, default=None)


def _rows(operation: Any) -> list[int]:
    layers = kd.keras_3.layers
    if isinstance(operation, layers.Embedding):
        return [operation.input_dim]
    if isinstance(operation, kd.keras_3.Model):
        return [layer.input_dim for layer in operation._flatten_layers() if isinstance(layer, layers.Embedding)]
    return []
