"""Sets of images, texts and sounds read through TensorFlow Datasets, decoded once into arrays."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.data import audio
from tfcompress.data._arrays import split_of
from tfcompress.data.audio import AudioSettings
from tfcompress.data.split import Split
from tfcompress.vocabulary.errors import DataError

_SPLITS = ("train", "validation", "test")
_DECODED_AT_ONCE = 1024
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

Shape = tuple[int | None, ...]
Kind = Literal["image", "text", "audio"]


@dataclass(frozen=True)
class Found:
    """What a source holds.

    Args:
        splits: images as stored, texts as UTF-8 bytes `[n]`, or sounds as `tfcompress.data.audio.features`.
        class_names: of the labels, in order; None where the source has none.
        kind: what the inputs are.
        sample_rate: of sounds, samples a second.
    """

    splits: dict[str, Split]
    class_names: tuple[str, ...] | None
    kind: Kind = "image"
    sample_rate: int | None = None


def registered_names() -> list[str]:
    """The data sets that TFDS knows, and our own."""
    with _quiet() as tfds:
        # Community data sets are left out: their list lies on the network.
        return ["digits", *tfds.list_builders(with_community_datasets=False)]


def read_named(name: str, data_dir: Path | None, size: Shape | None, sound: AudioSettings) -> Found:
    """`digits`, or a TFDS set of images, texts or sounds, prepared first where it is not.

    Args:
        name: `<name>`, `<name>/<config>` or `<name>:<version>`.
        data_dir: where prepared sets lie; None for TFDS's own place.
        size: height and width to resize images to; None leaves them as they are.
        sound: how sounds become frames of frequencies.

    Raises:
        DataError: the set cannot be prepared or read, or does not hold one image, text or sound with each label.
    """
    with _quiet() as tfds:
        builder = _builder(tfds, name, data_dir)
        _prepare(tfds, builder, name)
        kind, key, target = _keys(tfds, builder.info, name)
        rate = _sample_rate(builder.info.features[key], name) if kind == "audio" else None
        read = {
            "image": partial(_read_images, size=size),
            "text": _read_texts,
            "audio": partial(_read_sounds, settings=sound, sample_rate=rate),
        }[kind]
        found = {split: split for split in _SPLITS if split in builder.info.splits}
        if len(builder.info.splits) == 1:
            found = {"train": next(iter(builder.info.splits))}
        if "train" not in found:
            raise DataError(f"{name} must have a train split. It has: {', '.join(builder.info.splits)}.")
        options = {
            "decoders": tfds.decode.PartialDecoding({key: True, target: True}),
            # TFDS would keep a second copy of what is about to become an array.
            "read_config": tfds.ReadConfig(try_autocache=False),
        }
        try:
            splits = {
                split: read(split, _pairs(builder.as_dataset(split=source, **options), key, target))
                for split, source in found.items()
            }
        except kd.tf.errors.OpError as error:
            raise DataError(
                f"{name} in {builder.data_dir} cannot be read: {_first_line(error)}. "
                "Remedy: remove that folder and prepare the data set again."
            ) from error
        return Found(splits, _class_names(tfds, builder.info, target), kind, rate)


def read_folder(path: Path, size: Shape | None, channels: int | None) -> Found:
    """The images of ``<path>/<split>/<class>/<image>``, as `tfds.ImageFolder` reads it.

    Args:
        path: holds the folders train and test, and may hold validation.
        size: height and width to resize to; None leaves the images as they are.
        channels: 1 decodes to grey, 3 (the default for None) to colour, 4 to colour and opacity.

    Raises:
        DataError: the layout is another (all problems at once), or an image cannot be read.
    """
    _check_layout(path)
    with _quiet() as tfds:
        builder = tfds.ImageFolder(str(path), shape=(None, None, channels or 3))
        try:
            splits = {
                split: _read_images(split, _pairs(builder.as_dataset(split=split), "image", "label"), size)
                for split in _SPLITS
                if split in builder.info.splits
            }
        except kd.tf.errors.OpError as error:
            raise DataError(f"{_unreadable_image(path, channels or 3)} cannot be read: {_first_line(error)}") from error
        return Found(splits, _class_names(tfds, builder.info, "label"))


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """TFDS without its progress bars and chatter, for as long as the block runs; the bars stay off."""
    tfds = kd.tfds
    tfds.disable_progress_bar()
    loggers = [logging.getLogger(name) for name in ("absl", "urllib3.connectionpool")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield tfds
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _builder(tfds: Any, name: str, data_dir: Path | None) -> Any:
    if name == "digits":
        from tfcompress.data.digits import Digits

        return Digits(data_dir=data_dir)
    try:
        return tfds.builder(name, data_dir=data_dir, try_gcs=False)
    # Builders are code of many authors, who raise what they like.
    except Exception as error:
        raise DataError(f"TFDS cannot set up {name}: {_first_line(error)}") from error


def _prepare(tfds: Any, builder: Any, name: str) -> None:
    if builder.is_prepared():
        return
    remedy = (
        f"{name} is not prepared under {builder.data_dir}. "
        "Remedy: as data_dir, the folder in which it is prepared; or a network, and a data_dir that can be written."
    )
    unreachable = _unreachable_hosts(builder)
    if unreachable:
        raise DataError(f"{name} cannot be downloaded: no network reaches {', '.join(unreachable)}. {remedy}")
    try:
        # It prints to the terminal what it does.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    # Builders are code of many authors, who raise what they like.
    except Exception as error:
        # Another process may have been faster to move its copy into place.
        if not builder.is_prepared():
            raise DataError(f"{name} cannot be prepared: {_first_line(error)}. {remedy}") from error


def _unreachable_hosts(builder: Any) -> list[str]:
    """The hosts of the downloads, if none of them has an address here.

    TFDS tries ten times, for minutes, before it gives up. Behind a proxy names are resolved elsewhere: not asked then.
    """
    hosts = sorted({host for url in builder.url_infos or () if (host := urlsplit(url).hostname)})
    return [] if getproxies() or any(map(_has_address, hosts)) else hosts


def _has_address(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False


def _keys(tfds: Any, info: Any, name: str) -> tuple[Kind, str, str]:
    """What the inputs are, and the features that are input and target.

    They are the supervised pair, else the only label with the only image, the only sound, or the only text: a set of
    images or sounds may have captions and file names.
    """
    kinds: dict[Kind, type] = {
        "image": tfds.features.Image,
        "audio": tfds.features.Audio,
        "text": tfds.features.Text,
    }
    features, label = info.features, tfds.features.ClassLabel
    if isinstance(info.supervised_keys, tuple) and all(isinstance(key, str) for key in info.supervised_keys):
        key, target, *others = info.supervised_keys
        for kind, feature in kinds.items():
            serves = kind == "image" or isinstance(features[target], label)
            if not others and serves and isinstance(features[key], feature):
                return kind, key, target
    labels = [key for key, feature in features.items() if isinstance(feature, label)]
    for kind, feature in kinds.items():
        keys = [key for key, found in features.items() if isinstance(found, feature)]
        if keys:
            if len(keys) == 1 and len(labels) == 1:
                return kind, keys[0], labels[0]
            break
    listed = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in features.items())
    raise DataError(
        f"{name} must hold one image, sound or text and one label in each example. It holds: {listed}. "
        "Remedy: bring it as an .npz file or as arrays."
    )


def _sample_rate(feature: Any, name: str) -> int:
    if feature.sample_rate is None or feature.shape != (None,):
        raise DataError(
            f"Sounds must have one channel and say how many samples a second they have. {name} has the shape "
            f"{feature.shape} and {feature.sample_rate} samples a second. Remedy: bring their features as arrays."
        )
    return feature.sample_rate


def _class_names(tfds: Any, info: Any, target: str) -> tuple[str, ...] | None:
    feature = info.features[target]
    return tuple(feature.names) if isinstance(feature, tfds.features.ClassLabel) and feature.names else None


def _pairs(examples: Any, key: str, target: str) -> Any:
    """Of a tf.data set of dicts, the inputs and targets."""
    return examples.map(lambda example: (example[key], example[target]), num_parallel_calls=kd.tf.data.AUTOTUNE)


def _read_texts(name: str, examples: Any) -> Split:
    del name
    texts, labels = _joined(examples.batch(_DECODED_AT_ONCE))
    return Split(np.asarray(texts, object), np.asarray(labels, np.int64))


def _read_sounds(name: str, examples: Any, settings: AudioSettings, sample_rate: int) -> Split:
    batches = (
        examples.map(lambda sound, label: (audio.fitted(sound, settings, sample_rate), label))
        .batch(_DECODED_AT_ONCE)
        .map(lambda sounds, labels: (audio.features(sounds, settings, sample_rate), labels))
    )
    return split_of(name, *_joined(batches))


def _read_images(name: str, examples: Any, size: Shape | None) -> Split:
    """Every image and target of a tf.data set of pairs, as arrays."""
    tf = kd.tf
    if size is not None and examples.element_spec[0].shape[:2] != size:
        examples = examples.map(lambda pixels, y: (_resized(pixels, size), y), num_parallel_calls=tf.data.AUTOTUNE)
    if examples.element_spec[0].shape.is_fully_defined():
        return split_of(name, *_joined(examples.batch(_DECODED_AT_ONCE)))
    pixels, targets = zip(*examples.as_numpy_iterator(), strict=True)
    shapes = sorted({sample.shape for sample in pixels})
    if len(shapes) > 1:
        raise DataError(
            f"Images must have one size, or be resized to a model's. Received: {len(shapes)} sizes from "
            f"{shapes[0]} to {shapes[-1]}. Remedy: a model with a fixed input size, or images of one size."
        )
    return split_of(name, np.stack(pixels), np.asarray(targets))


def _joined(batches: Any) -> tuple[Any, Any]:
    """All batches of inputs and targets as one of each."""
    parts = list(batches.as_numpy_iterator())
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True)) if parts else ([], [])


def _resized(pixels: Any, size: Shape) -> Any:
    """Bilinear, averaging where it shrinks; bytes stay bytes."""
    tf = kd.tf
    resized = tf.image.resize(pixels, size, antialias=True)
    return tf.cast(tf.round(resized), tf.uint8) if pixels.dtype == tf.uint8 else resized


def _check_layout(path: Path) -> None:
    folders = {child.name: child for child in sorted(path.iterdir()) if child.is_dir()}
    problems = [f"the folder {name} is missing" for name in ("train", "test") if name not in folders]
    problems += [f"{name} is no split" for name in folders if name not in _SPLITS]
    for name in _SPLITS:
        if name in folders and not any(_images(child) for child in folders[name].iterdir() if child.is_dir()):
            problems.append(f"{name} has no class folders with images ({', '.join(_IMAGE_SUFFIXES)})")
    if problems:
        raise DataError(
            f"An image folder must be laid out as {path}/<train, validation or test>/<class>/<image>, "
            f"validation being optional. Found: {'; '.join(problems)}."
        )


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in _IMAGE_SUFFIXES)


def _unreadable_image(path: Path, channels: int) -> Path:
    """The first image that cannot be decoded, or the whole folder where each can."""
    tf = kd.tf
    for split in _SPLITS:
        for folder in sorted(path.glob(f"{split}/*/")):
            for file in _images(folder):
                try:
                    tf.io.decode_image(tf.io.read_file(str(file)), channels=channels, expand_animations=False)
                except tf.errors.OpError:
                    return file
    return path


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(".")
