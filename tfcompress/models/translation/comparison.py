"""The proof that a translated model computes what its source computes, at every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.translation.calls import Call
from tfcompress.vocabulary.errors import ModelError

TOLERANCE = 1e-4
"""The largest relative difference of a layer's outputs that passes: ``max|a - b| / max|a|``, in float32."""

_SAMPLES = 2
# What an open axis is tried with: pixels, large enough for every application, and steps.
_OPEN_SIZE = {4: 96, 5: 32}
_OPEN_STEPS = 16


@dataclass(frozen=True)
class Step:
    """One call in a Keras 3 graph, and its counterpart.

    Args:
        place: the name of the layer or operator, those of nested models in front.
        tensors: what it gives in the Keras 3 graph.
        counterparts: what its counterpart gives in the tf_keras graph, in the same order.
        call: the counterpart, with its arguments.
    """

    place: str
    tensors: Sequence[Any]
    counterparts: Sequence[Any]
    call: Call


@dataclass(frozen=True)
class Pair:
    """A model, outer or nested, and its counterpart.

    Args:
        source: the Keras 3 Functional graph.
        target: the tf_keras model.
        steps: all calls, in the order of computation.
    """

    source: Any
    target: Any
    steps: Sequence[Step]


def compare(pairs: Sequence[Pair]) -> dict[str, float]:
    """Run both models of each pair on random input and compare all tensors.

    The first sample is drawn from a standard normal distribution, the second is uniform over 0...255; both are drawn
    anew in each pair, from a fixed seed. Inputs that lead to an Embedding are indices into it. A layer whose difference
    is too large after all that came before it is compared alone, on the inputs that Keras 3 gives it.

    Args:
        pairs: nested models before those that hold them.

    Returns:
        The relative difference of each layer, by its place: the largest of its outputs and samples.

    Raises:
        ModelError: a difference is above `TOLERANCE`, or not a number. The first such layer is named.
    """
    found: dict[str, float] = {}
    for pair in pairs:
        if not pair.steps:
            continue
        ours, theirs = _run(pair)
        for step in pair.steps:
            difference = _difference(step, ours, theirs)
            found[step.place] = max(found.get(step.place, 0.0), difference)
            if not difference <= TOLERANCE:
                raise ModelError(
                    f"A translated layer must compute what the Keras 3 layer computes, to a relative difference of "
                    f"{TOLERANCE:g}. The first that does not is {step.place!r}: {difference:.3g}. Replace this layer "
                    "in the Keras 3 model, or pass its tf_keras class in custom_objects={name: class}."
                )
    return found


def _difference(step: Step, ours: Mapping[int, np.ndarray], theirs: Mapping[int, np.ndarray]) -> float:
    """The difference after all that was computed before; where that is too large, of this step alone.

    Rounding grows from layer to layer, in some networks without bound: the step alone is given what Keras 3 gave.
    """
    chained = _largest(step, ours, [theirs[id(tensor)] for tensor in step.tensors])
    if chained <= TOLERANCE:
        return chained
    return min(chained, _largest(step, ours, step.call.on(ours)))


def _largest(step: Step, ours: Mapping[int, np.ndarray], theirs: Sequence[Any]) -> float:
    pairs = zip(step.tensors, theirs, strict=True)
    return max(relative_difference(ours[id(tensor)], np.asarray(value)) for tensor, value in pairs)


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


def _run(pair: Pair) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """What both models compute of the same random inputs, by the id of the Keras 3 tensor."""
    samples = random_inputs(pair.source)
    keras_3 = kd.keras_3
    tensors = [tensor for step in pair.steps for tensor in step.tensors]
    counterparts = [tensor for step in pair.steps for tensor in step.counterparts]
    source = keras_3.Model(list(pair.source.inputs), tensors)
    target = kd.keras.Model(kd.tf.nest.flatten(pair.target.inputs), counterparts)
    try:
        ours = source([keras_3.ops.convert_to_tensor(sample) for sample in samples], training=False)
        theirs = target([kd.tf.constant(sample) for sample in samples], training=False)
    except Exception as error:  # What a model raises at inputs that it cannot take has no common class.
        names = [f"{tensor.name} {sample.shape}" for tensor, sample in zip(pair.source.inputs, samples, strict=True)]
        raise ModelError(
            "A Keras 3 model must run on random input of its input shape, to be compared with its translation. With "
            f"{', '.join(names)} it raises {type(error).__name__}: {str(error).strip()} "
            "Give its inputs the shapes it can take."
        ) from error
    given = dict(zip(map(id, pair.source.inputs), samples, strict=True))
    keys = [id(tensor) for tensor in tensors]
    return (
        given | dict(zip(keys, map(keras_3.ops.convert_to_numpy, _listed(ours)), strict=True)),
        given | dict(zip(keys, map(np.asarray, _listed(theirs)), strict=True)),
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
