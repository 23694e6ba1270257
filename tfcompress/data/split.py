"""Examples in memory that belong together."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.vocabulary.errors import DataError


@dataclass(frozen=True, eq=False)
class Split:
    """Examples that belong together, as stored: no preprocessing.

    Args:
        inputs: `[n, ...]`: uint8, float32, or int32 for integers that mean themselves, such as token ids. Text as
            it is read, before it is encoded, is `[n]` UTF-8 bytes.
        targets: `[n]` int64 labels, or `[n, ...]` of any task; None for unlabelled examples.
    """

    inputs: np.ndarray
    targets: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.targets is not None and len(self.targets) != len(self.inputs):
            raise DataError(
                f"Every input needs one target. Received: {len(self.inputs)} inputs and {len(self.targets)} targets."
            )

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the tensors, which are made again.
        return Split, (self.inputs, self.targets)

    @property
    def count(self) -> int:
        """Number of examples."""
        return len(self.inputs)

    @cached_property
    def fingerprint(self) -> list[Any]:
        """Shape, type and checksum of inputs and targets, as plain values."""
        arrays = [array for array in (self.inputs, self.targets) if array is not None]
        return [[list(array.shape), str(array.dtype), zlib.crc32(np.ascontiguousarray(array))] for array in arrays]

    def at(self, indices: np.ndarray) -> Split:
        """The examples at `indices`, copied."""
        return Split(self.inputs[indices], None if self.targets is None else self.targets[indices])

    @cached_property
    def tensors(self) -> tuple[Any, ...]:
        """Inputs, and targets where there are any, as tensors in main memory: made once, gathered from ever after."""
        with kd.tf.device("CPU:0"):
            return tuple(kd.tf.constant(array) for array in (self.inputs, self.targets) if array is not None)
