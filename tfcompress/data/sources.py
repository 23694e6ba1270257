"""Whatever a person can name as data, brought into one form and checked against a model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.data._arrays import splits_of_arrays, splits_of_mapping, splits_of_npz
from tfcompress.data._tfds import read_folder, read_named, registered_names
from tfcompress.data.dataset import Dataset, Split, assemble, is_labels
from tfcompress.data.preprocessing import Preprocessing
from tfcompress.data.settings import DataSettings
from tfcompress.vocabulary.errors import DataError

_FORMS = (
    "Accepted are: digits, the name of a TFDS image classification set (mnist, cifar10, ...), an image folder "
    "with train/<class>/ and test/<class>/, an .npz file, and in Python arrays, a dict of splits or samples"
)


def load_data(
    source: Any,
    *,
    data_dir: str | Path | None = None,
    settings: DataSettings = DataSettings(),  # noqa: B008  (frozen)
    input_shape: Sequence[int | None] | None = None,
    seed: int = 0,
) -> Dataset:
    """Bring data into memory, in three splits that never mix.

    Args:
        source: what to load:

            - `"digits"`: 1,797 handwritten digits, without a download (`tfcompress.data.digits.Digits`);
            - the name of a TFDS image classification set, such as `"cifar10"`, `"emnist/letters"`, `"mnist:3.0.1"`;
            - a folder ``train/<class>/<image>``, ``test/…`` and optionally ``validation/…`` (`tfds.ImageFolder`);
              a bare name that TFDS knows means TFDS: write `./mnist` for a folder of that name;
            - an .npz file with `x_train`, `y_train`, `x_test`, `y_test` and optionally `x_val`, `y_val`; or `x` and
              `y`; or, unlabelled, `x` or `x_train`;
            - in Python: arrays ``(x, y)``, an unlabelled `x` or ``(x,)``, ``{"train": (x, y), "test": (x, y)}`` and
              optionally `"validation"`, or a finite iterable of unlabelled samples.

            Inputs are kept as stored: uint8, or float32 for every other dtype. Integer targets of shape `[n]` or
            `[n, 1]` are class labels; all others (float, multi-hot) are kept as they are.
        data_dir: where TFDS finds and prepares data sets. Defaults to TFDS's own (`~/tensorflow_datasets`).
        settings: the validation fraction, and the preprocessing and augmentation to check against the inputs.
        input_shape: of one input of the model, without the batch: images from TFDS and folders are resized to it
            (bilinear, bytes rounded). Arrays are never changed. Defaults to None, which resizes nothing.
        seed: decides which training examples are validated on.

    Returns:
        A `Dataset`. Where the source has no test split, a fifth of its only split becomes one, the same for every
        seed; where it has no validation split, `settings.validation_fraction` of train becomes one, by `seed`.

    Raises:
        DataError: the source is unknown or cannot be read, or does not fit the settings.

    Example:
        >>> data = load_data((np.zeros((100, 4)), np.zeros(100, int)))
        >>> data.train.count, data.validation.count, data.test.count
        (72, 8, 20)
    """
    shape = tuple(input_shape or ())
    is_image = len(shape) == 3
    size = shape[:2] if is_image and None not in shape[:2] else None
    class_names = None
    if isinstance(source, (str, os.PathLike)):
        name = str(source)
        path = _existing_path(source)
        if path is None:
            splits, class_names = read_named(name, None if data_dir is None else Path(data_dir).expanduser(), size)
        elif path.is_dir():
            splits, class_names = read_folder(path, size, shape[-1] if is_image else None)
        else:
            splits = splits_of_npz(path)
    else:
        name = "arrays"
        splits = splits_of_mapping(source) if isinstance(source, Mapping) else splits_of_arrays(source)
    dataset = assemble(name, splits, settings=settings, seed=seed, class_names=class_names)
    settings.augment.check(dataset.input_shape)
    if isinstance(settings.preprocessing, Preprocessing):
        settings.preprocessing.check(dataset.input_shape)
    return dataset


def check_fits(dataset: Dataset, input_shape: Sequence[int | None], classes: int | None) -> None:
    """Refuse data that a model cannot be trained on, calibrated with or measured by.

    Args:
        dataset: all of it is looked at.
        input_shape: of one input of the model, without the batch; None stands for any length.
        classes: outputs of a classifier with integer labels; None for any other task.

    Raises:
        DataError: names every problem: empty splits, inputs of another shape, values that are not finite, labels
            that are negative or beyond the classes, splits with and without targets.
    """
    problems = [problem for name, split in dataset.splits.items() for problem in _problems(name, split, classes)]
    for shape in sorted({split.inputs.shape[1:] for split in dataset.splits.values() if split.count}):
        if not _fits(shape, tuple(input_shape)):
            problems.append(
                f"the model takes inputs of shape {_written(input_shape)}, and the data has {_written(shape)}. "
                "Remedy: a model for this shape, or reshaped data"
            )
    if len({split.targets is None for split in dataset.splits.values()}) > 1:
        problems.append("some splits have targets and some have none. Remedy: give them to all, or to none")
    if problems:
        raise DataError(f"{dataset.name} does not fit:\n" + "\n".join(f"- {problem}." for problem in problems))


def _problems(name: str, split: Split, classes: int | None) -> Iterator[str]:
    if not split.count:
        yield f"the {name} split is empty. Remedy: give it at least one example"
        return
    for what, array in (("inputs", split.inputs), ("targets", split.targets)):
        if array is not None and not (finite := np.isfinite(array)).all():
            yield f"{name}: {what} must be finite, and {array.size - int(finite.sum())} values are NaN or infinite"
    if classes is not None and is_labels(split.targets):
        wrong = (split.targets < 0) | (split.targets >= classes)
        if wrong.any():
            yield (
                f"{name}: labels must be 0...{classes - 1} for a model of {classes} classes, and {int(wrong.sum())} "
                f"are not, from {split.targets.min()} to {split.targets.max()}"
            )


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(want in (None, have) for have, want in zip(shape, wanted, strict=True))


def _written(shape: Sequence[int | None]) -> str:
    return "(" + ", ".join("any" if length is None else str(length) for length in shape) + ")"


def _existing_path(source: str | os.PathLike[str]) -> Path | None:
    """The file or folder that `source` means; None where it is the name of a TFDS set.

    Raises:
        DataError: it is neither.
    """
    path = Path(source).expanduser()
    written = os.fspath(source)
    base = re.split("[/:]", written)[0]
    means_file = isinstance(source, os.PathLike) or written.startswith((".", "~", os.sep)) or path.suffix == ".npz"
    names = [] if means_file else registered_names()
    if base in names:
        return None
    if path.is_dir() or (path.suffix == ".npz" and path.is_file()):
        return path
    close = get_close_matches(base, names, n=3)
    hint = (
        f" Did you mean {' or '.join(close)}?" if close else " There is no such file or folder." if means_file else ""
    )
    raise DataError(f"Unknown data set: {written}.{hint} {_FORMS}.")
