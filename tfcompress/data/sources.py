"""Whatever a person can name as data, brought into one form and checked against a model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.data._arrays import for_inputs_of, splits_of_arrays, splits_of_mapping, splits_of_npz
from tfcompress.data._tfds import Found, read_folder, read_named, registered_names
from tfcompress.data.audio import standardise_audio
from tfcompress.data.dataset import Dataset, assemble, is_labels, with_test
from tfcompress.data.encoding import Encoding
from tfcompress.data.settings import DataSettings
from tfcompress.data.split import Split
from tfcompress.data.text import encode_text
from tfcompress.vocabulary.errors import DataError
from tfcompress.vocabulary.preprocessing import Preprocessing

_FORMS = (
    "Accepted are: digits, the name of a TFDS set that classifies images, texts or sounds (cifar10, ag_news_subset, "
    "spoken_digit, ...), an image folder "
    "with train/<class>/ and test/<class>/, an .npz file, and in Python arrays, a dict of splits or samples"
)


def load_data(
    source: Any,
    *,
    data_dir: str | Path | None = None,
    settings: DataSettings = DataSettings(),  # noqa: B008  (frozen)
    input_shape: Sequence[int | None] | None = None,
    input_dtype: str | None = None,
    seed: int = 0,
) -> Dataset:
    """Bring data into memory, in three splits that never mix.

    Args:
        source: what to load:

            - `"digits"`: 1,797 handwritten digits, without a download (`tfcompress.data.digits.Digits`);
            - the name of a TFDS set that classifies images (`"cifar10"`, `"emnist/letters"`, `"mnist:3.0.1"`), texts
              (`"ag_news_subset"`, `"imdb_reviews"`) or sounds (`"spoken_digit"`, `"speech_commands"`);
            - a folder ``train/<class>/<image>``, ``test/…`` and optionally ``validation/…`` (`tfds.ImageFolder`);
              a bare name that TFDS knows means TFDS: write `./mnist` for a folder of that name;
            - an .npz file with `x_train`, `y_train`, `x_test`, `y_test` and optionally `x_val`, `y_val`; or `x` and
              `y`; or, unlabelled, `x` or `x_train`;
            - a `Dataset`, which is given back as it is;
            - in Python: arrays ``(x, y)``, an unlabelled `x` or ``(x,)``, ``{"train": (x, y), "test": (x, y)}`` and
              optionally `"validation"`, or a finite iterable of unlabelled samples.

            Inputs are kept as stored: uint8, or float32 for every other dtype; `input_dtype` may ask for int32. Texts
            become token ids, int32 `[length]`, as `settings.text` says, and sounds standardised log-mel energies or
            MFCCs, float32 `[frames, bins, 1]`, as `settings.audio` says; `Dataset.encoding` has what that takes,
            which is learned from the examples that are not tested on. Integer targets of shape `[n]` or
            `[n, 1]` are class labels; all others (float, multi-hot) are kept as they are.
        data_dir: where TFDS finds and prepares data sets. Defaults to TFDS's own (`~/tensorflow_datasets`).
        settings: the validation fraction, how texts and sounds are encoded, and the preprocessing and augmentation
            to check against the inputs.
        input_shape: of one input of the model, without the batch: images from TFDS and folders are resized to it
            (bilinear, bytes rounded). Arrays are never changed. Defaults to None, which resizes nothing.
        input_dtype: of the model's input: an integer type asks for int32, such as token ids for an Embedding.
            Defaults to None, which stands for real numbers.
        seed: decides which training examples are validated on.

    Returns:
        A `Dataset`. Where the source has no test split, a fifth of its only split becomes one, the same for every
        seed; where it has no validation split, `settings.validation_fraction` of train becomes one, by `seed`.

    Raises:
        DataError: the source is unknown or cannot be read, or does not fit the settings or `input_dtype`.

    Example:
        >>> data = load_data((np.zeros((100, 4)), np.zeros(100, int)))
        >>> data.train.count, data.validation.count, data.test.count
        (72, 8, 20)
    """
    shape = tuple(input_shape or ())
    is_image = len(shape) == 3
    size = shape[:2] if is_image and None not in shape[:2] else None
    if isinstance(source, Dataset):
        _check_settings(source, settings)
        return source
    if isinstance(source, (str, os.PathLike)):
        name = str(source)
        path = _existing_path(source)
        if path is None:
            folder = None if data_dir is None else Path(data_dir).expanduser()
            found = read_named(name, folder, size, settings.audio)
        elif path.is_dir():
            found = read_folder(path, size, shape[-1] if is_image else None)
        else:
            found = Found(splits_of_npz(path), None)
    else:
        name = "arrays"
        found = Found(splits_of_mapping(source) if isinstance(source, Mapping) else splits_of_arrays(source), None)
    splits, encoding = _encoded(found, settings, input_dtype)
    dataset = assemble(name, splits, settings=settings, seed=seed, class_names=found.class_names, encoding=encoding)
    _check_settings(dataset, settings)
    return dataset


def _check_settings(dataset: Dataset, settings: DataSettings) -> None:
    """Refuse augmentation and preprocessing that the inputs cannot take."""
    settings.augment.check(dataset.input_shape)
    if isinstance(settings.preprocessing, Preprocessing):
        settings.preprocessing.check(dataset.input_shape, dataset.train.inputs.dtype)


def _encoded(
    found: Found, settings: DataSettings, input_dtype: str | None
) -> tuple[Mapping[str, Split], Encoding | None]:
    """Texts and sounds as what models take, nothing learned from the test split; other inputs as `input_dtype` asks."""
    if found.kind == "text":
        if input_dtype is not None and not np.issubdtype(input_dtype, np.integer):
            raise DataError(
                f"Text is fed as token ids, and the model's input is of {input_dtype}. Remedy: a model with "
                "`Input(shape, dtype='int32')` in front of an Embedding, or lstm_text or transformer_text of the zoo."
            )
        return encode_text(with_test(found.splits), settings.text)
    if found.kind == "audio":
        return standardise_audio(with_test(found.splits), settings.audio, found.sample_rate)
    return {name: for_inputs_of(input_dtype, name, split) for name, split in found.splits.items()}, None


def check_fits(
    dataset: Dataset, input_shape: Sequence[int | None], classes: int | None, tokens: int | None = None
) -> None:
    """Refuse data that a model cannot be trained on, calibrated with or measured by.

    Args:
        dataset: all of it is looked at.
        input_shape: of one input of the model, without the batch; None stands for any length.
        classes: outputs of a classifier with integer labels; None for any other task.
        tokens: how many token ids the model knows; None for a model that knows none. Defaults to None.

    Raises:
        DataError: names every problem: empty splits, inputs of another shape, values that are not finite, labels
            that are negative or beyond the classes, token ids likewise, splits with and without targets.
    """
    problems = [problem for name, split in dataset.splits.items() for problem in _problems(name, split, classes)]
    problems += _token_problems(dataset, tokens)
    for shape in sorted({split.inputs.shape[1:] for split in dataset.splits.values() if split.count}):
        if not _fits(shape, tuple(input_shape)):
            remedy = f"or other values of {dataset.encoding.setting}" if dataset.encoding else "or reshaped data"
            problems.append(
                f"the model takes inputs of shape {_written(input_shape)}, and the data has {_written(shape)}. "
                f"Remedy: a model for this shape, {remedy}"
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


def _token_problems(dataset: Dataset, tokens: int | None) -> Iterator[str]:
    if tokens is None:
        return
    remedy = "a smaller data.text.vocabulary_size, or the vocabulary that the model was trained with"
    for name, split in dataset.splits.items():
        lowest, highest = (int(end) for end in (split.inputs.min(), split.inputs.max())) if split.count else (0, 0)
        if lowest < 0 or highest >= tokens:
            yield (
                f"{name}: token ids must be 0...{tokens - 1}, the rows of the model's Embedding, and are "
                f"{lowest}...{highest}. Remedy: {remedy}"
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
