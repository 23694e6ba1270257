"""Data that is already there: arrays in Python and in .npz files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.data.split import Split
from tfcompress.vocabulary.errors import DataError

_NPZ_COLUMNS = {"train": ("x_train", "y_train"), "validation": ("x_val", "y_val"), "test": ("x_test", "y_test")}
_NPZ_UNCUT = {"train": ("x", "y")}
_NPZ_FORMS = "x_train, y_train, x_test, y_test and optionally x_val, y_val; or x and y; or unlabelled x or x_train"


def splits_of_npz(path: Path) -> dict[str, Split]:
    """The splits in an .npz file; see `tfcompress.data.load_data` for its keys.

    Raises:
        DataError: the file cannot be read, has other keys, or an array does not serve.
    """
    arrays = _read_npz(path)
    columns = _NPZ_UNCUT if {"x", "y"} & set(arrays) else _NPZ_COLUMNS
    labelled = any(y in arrays for _, y in columns.values())
    # What is labelled is to be measured: a test split is missed then, unless all is yet to be cut.
    required = {"train", "test"} if labelled else {"train"}
    wanted = {
        name: (x, y) if labelled else (x,)
        for name, (x, y) in columns.items()
        if name in required or x in arrays or y in arrays
    }
    keys = {key for pair in wanted.values() for key in pair}
    if keys != set(arrays):
        raise DataError(
            f"{path} must hold {_NPZ_FORMS}. Found: {_listed(arrays)}. "
            f"Missing: {_listed(keys - set(arrays))}. Unknown: {_listed(set(arrays) - keys)}."
        )
    return {name: split_of(name, *(arrays[key] for key in pair)) for name, pair in wanted.items()}


def splits_of_mapping(source: Mapping[Any, Any]) -> dict[str, Split]:
    """The splits of ``{"train": (x, y), "validation": (x, y), "test": (x, y)}``; unlabelled ones are `x` alone.

    Raises:
        DataError: train or test is missing, a key is unknown, or an array does not serve.
    """
    if not {"train", "test"} <= set(source) <= {"train", "validation", "test"}:
        raise DataError(
            "A dict of splits must have the keys train and test, may have validation, and no other. "
            f"Received: {_listed(source)}."
        )
    return {name: split_of(name, *_pair(name, source[name])) for name in source}


def splits_of_arrays(source: Any) -> dict[str, Split]:
    """One split, yet to be cut, of ``(x, y)``, ``(x,)``, an array `x`, or a finite iterable of unlabelled samples.

    Raises:
        DataError: it is none of these, or an array does not serve.
    """
    if isinstance(source, Iterable) and not isinstance(source, (tuple, np.ndarray)):
        source = _stacked(source)
    return {"train": split_of("data", *_pair("data", source))}


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive.items())
    # AttributeError and TypeError: a lone array (.npy) under this name is no archive.
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} must be an .npz archive of numeric arrays, and cannot be read: {error}") from error


def _pair(name: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, tuple):
        return (value,)
    if len(value) not in (1, 2):
        raise DataError(f"{name}: a tuple must be (inputs, targets) or (inputs,). Received: {len(value)} elements.")
    return value


def _stacked(samples: Iterable[Any]) -> np.ndarray:
    arrays = [np.asarray(sample) for sample in samples]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) != 1:
        raise DataError(
            "Samples must all have one shape, and there must be at least one. "
            f"Received: {len(arrays)} samples of shapes {_listed(shapes)}."
        )
    return np.stack(arrays)


def split_of(name: str, x: Any, y: Any = None) -> Split:
    """The split `name` of inputs `[n, ...]` and targets `[n, ...]`, in the dtypes that `Split` keeps.

    Integers other than bytes become int32 where they fit into it; `for_inputs_of` says what they stand for.

    Raises:
        DataError: they are no real numbers, or not equally many.
    """
    inputs = _numeric(name, "inputs", x)
    if inputs.dtype != np.uint8:
        inputs = inputs.astype(np.int32 if _fits_int32(inputs) else np.float32, copy=False)
    targets = None if y is None else _targets(name, y)
    if targets is not None and len(targets) != len(inputs):
        raise DataError(
            f"{name}: every input needs one target. Received: {len(inputs)} inputs and {len(targets)} targets."
        )
    return Split(inputs, targets)


def for_inputs_of(dtype: str | None, name: str, split: Split) -> Split:
    """The split as a model takes it: int32 where its input is of integers, else uint8 or float32.

    Args:
        dtype: of the model's input; None stands for real numbers.
        name: of the split.
        split: of numbers.

    Raises:
        DataError: the model takes integers, and there are fractions.
    """
    inputs = split.inputs
    if dtype is None or not np.issubdtype(dtype, np.integer):
        return Split(inputs.astype(np.float32), split.targets) if inputs.dtype == np.int32 else split
    with np.errstate(invalid="ignore"):  # NaN becomes a number that it is not equal to
        whole = inputs.astype(np.int32)
    if not np.array_equal(whole, inputs):
        raise DataError(
            f"{name}: a model with an input of {dtype} takes whole numbers within int32. Received: inputs of "
            f"{inputs.dtype} from {inputs.min():g} to {inputs.max():g}. Remedy: token ids, or a model of real inputs."
        )
    return Split(whole, split.targets)


def _fits_int32(values: np.ndarray) -> bool:
    if values.dtype.kind not in "iu":
        return False
    limits = np.iinfo(np.int32)
    return not values.size or (limits.min <= values.min() and values.max() <= limits.max)


def _targets(name: str, y: Any) -> np.ndarray:
    targets = _numeric(name, "targets", y)
    if not np.issubdtype(targets.dtype, np.integer):
        return targets.astype(np.float32, copy=False)
    # Labels often come as a column: it means the same.
    return targets.reshape(len(targets)).astype(np.int64) if targets.size == len(targets) else targets.astype(np.int64)


def _numeric(name: str, what: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataError(f"{name}: the {what} must be one regular array: {error}") from error
    if array.ndim == 0 or array.dtype.kind not in "buif":
        raise DataError(
            f"{name}: the {what} must be an array of real numbers with an axis of examples. "
            f"Received: {type(value).__name__} of shape {array.shape} and dtype {array.dtype}."
        )
    return array


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(sorted(map(str, values))) or "none"
