"""What layers answer to calibration samples, as mean and covariance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.loading import clone
from tfcompress.models.rewrites._graph import Graph, Part

_BATCH = 32


@dataclass(frozen=True, eq=False)
class Responses:
    """The outputs of one layer before its activation, over samples, positions and calls.

    Args:
        mean: `[outputs]`, float64.
        covariance: `[outputs, outputs]`, float64.
    """

    mean: np.ndarray
    covariance: np.ndarray


def responses(model: Any, names: Sequence[str], samples: np.ndarray) -> dict[str, Responses]:
    """The moments of what layers of `model` answer to `samples`.

    Args:
        model: it is not touched.
        names: of its Dense and Conv2D layers.
        samples: inputs of the model, `[n, ...]`.
    """
    graph = Graph(clone(model))
    calls = [call for call in graph.calls if call.layer.name in names]
    tensors = [
        Part.copy(call.layer, activation="linear", name=f"response_{i}")(*call.inputs) for i, call in enumerate(calls)
    ]
    probe = kd.keras.Model(graph.model.inputs, tensors)
    sums = {name: _Sums() for name in names}
    for start in range(0, len(samples), _BATCH):
        values = kd.tf.nest.flatten(probe(kd.tf.constant(samples[start : start + _BATCH]), training=False))
        for call, value in zip(calls, values, strict=True):
            sums[call.layer.name].add(value.numpy())
    return {name: own.moments() for name, own in sums.items()}


class _Sums:
    """Sums of vectors and of their outer products."""

    def __init__(self) -> None:
        self._count, self._sum, self._products = 0, 0.0, 0.0

    def add(self, values: np.ndarray) -> None:
        rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
        self._count += len(rows)
        self._sum = self._sum + rows.sum(axis=0)
        self._products = self._products + rows.T @ rows

    def moments(self) -> Responses:
        mean = self._sum / self._count
        return Responses(mean, self._products / self._count - np.outer(mean, mean))
