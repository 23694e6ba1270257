"""What is done to raw values before a model sees them: one affine map, written down so that others can repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from tfcompress import keras_door as kd
from tfcompress.vocabulary.errors import DataError
from tfcompress.vocabulary.schema import Schema

Factors = float | tuple[float, ...]

_NAMED: dict[str, tuple[float, float]] = {"raw": (1.0, 0.0), "unit": (1 / 255, 0.0), "signed": (1 / 127.5, -1.0)}


class Preprocessing(Schema):
    """``x * scale + offset`` on values as the data set stores them, per value or per channel.

    A recipe may give it in three forms: a name (`raw`, `unit` for bytes to 0...1, `signed` for bytes to -1...1),
    ``{mean: [...], std: [...]}`` in raw units, meaning ``(x - mean) / std``, or `scale` and `offset` themselves.

    Example:
        >>> Preprocessing.model_validate({"mean": 100, "std": 50}).apply(np.array([150.0])).tolist()
        [1.0]
    """

    name: str = "custom"
    """What people call it. Defaults to `custom`."""
    scale: Factors
    """Factor: one number, or one for each channel (the last axis)."""
    offset: Factors = 0.0
    """Added after the factor: one number, or one for each channel. Defaults to 0."""

    @model_validator(mode="before")
    @classmethod
    def _from_short_forms(cls, value: Any) -> Any:
        if isinstance(value, str) and value in _NAMED:
            scale, offset = _NAMED[value]
            return {"name": value, "scale": scale, "offset": offset}
        if not isinstance(value, (Mapping, Preprocessing)):
            raise ValueError(
                f"must be one of {', '.join(_NAMED)}, {{mean, std}} or {{scale, offset}}. Received: {value}"
            )
        if isinstance(value, Mapping) and {"mean", "std"} & set(value):
            return _standardizing(value)
        return value

    @model_validator(mode="after")
    def _is_invertible(self) -> Preprocessing:
        if not np.all(self.scale):
            raise ValueError(f"scale must not be 0, which would erase the input. Received: {self.scale}")
        if len(self._channel_counts()) > 1:
            raise ValueError(
                "scale and offset must have the same number of channels. "
                f"Received: {_count(self.scale)} and {_count(self.offset)}"
            )
        return self

    @property
    def is_identity(self) -> bool:
        """Whether values stay as they are."""
        return self.scale == 1 and self.offset == 0

    def check(self, input_shape: Sequence[int], dtype: Any = np.float32) -> None:
        """Refuse samples whose last axis has another length than the per-channel numbers, and scaled token ids.

        Args:
            input_shape: of one sample, without the batch.
            dtype: of the samples; int32 stands for integers that mean themselves. Defaults to float32.

        Raises:
            DataError: the channels differ, or integers would lose their meaning.
        """
        if dtype == np.int32 and not self.is_identity:
            raise DataError(
                f"Integers such as token ids are fed unchanged. Received: preprocessing {self.name}. "
                "Remedy: data.preprocessing=raw, or leave it at auto."
            )
        channels = input_shape[-1] if input_shape else 0
        if any(count != channels for count in self._channel_counts()):
            raise DataError(
                "Per-channel preprocessing needs one number for each channel, the last axis of the inputs. "
                f"Received: {max(self._channel_counts())} numbers for inputs of shape {tuple(input_shape)}."
            )

    def apply(self, values: Any) -> Any:
        """The values a model is fed.

        Args:
            values: raw values `[batch, ...]`, of any real dtype; an array, or a tensor inside a tf.data pipeline.

        Returns:
            The same kind and shape, float32; int32 stays int32.

        Raises:
            DataError: see `check`.
        """
        self.check(values.shape[1:], values.dtype)
        if values.dtype == np.int32:
            return values
        is_array = isinstance(values, np.ndarray)
        floats = values.astype(np.float32) if is_array else kd.tf.cast(values, kd.tf.float32)
        if self.is_identity:
            return floats
        return floats * np.float32(self.scale) + np.float32(self.offset)

    def describe(self) -> str:
        """One sentence for the model card: what a person deploying has to feed."""
        if self.is_identity:
            return f"{self.name}: feed the values as stored, unchanged"
        formula = f"{self.name}: feed x * {_written(self.scale)} + {_written(self.offset)}, x as stored"
        if isinstance(self.scale, tuple) or isinstance(self.offset, tuple):
            return f"{formula}, by channel"
        return f"{formula} (a byte 0...255 becomes {self.offset:.4g}...{255 * self.scale + self.offset:.4g})"

    def _channel_counts(self) -> set[int]:
        return {len(factors) for factors in (self.scale, self.offset) if isinstance(factors, tuple)}


class _Standardization(Schema):
    mean: Factors
    std: Factors = Field(description="Standard deviation.")


def _standardizing(value: Mapping[str, Any]) -> dict[str, Any]:
    given = _Standardization.model_validate(dict(value))
    mean, std = np.asarray(given.mean, np.float64), np.asarray(given.std, np.float64)
    if not np.all(std > 0):
        raise ValueError(f"std must be greater than 0. Received: {given.std}")
    if mean.ndim and std.ndim and mean.shape != std.shape:
        raise ValueError(f"mean and std must have the same number of channels. Received: {mean.size} and {std.size}")
    return {"name": "standardized", "scale": _plain(1 / std), "offset": _plain(-mean / std)}


def _plain(values: np.ndarray) -> Factors:
    return tuple(values.tolist()) if values.ndim else float(values)


def _count(factors: Factors) -> int:
    return len(factors) if isinstance(factors, tuple) else 1


def _written(factors: Factors) -> str:
    if isinstance(factors, tuple):
        return "[" + ", ".join(f"{factor:.6g}" for factor in factors) + "]"
    return f"{factors:.6g}"


NAMED: dict[str, Preprocessing] = {name: Preprocessing.model_validate(name) for name in _NAMED}
"""The preprocessings that have a name."""
