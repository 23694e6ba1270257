"""Model files and folders: which kind one is, why it cannot be read, and reading it with tf_keras."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tfcompress import keras_door as kd
from tfcompress.models import zoo
from tfcompress.vocabulary.errors import ModelError

KINDS = "a Keras 2 .h5, .hdf5 or .keras file or a Keras 2 SavedModel folder"

TFMOT_WRAPPERS = {
    "PruneLowMagnitude": "pruning",
    "ClusterWeights": "clustering",
    "QuantizeAnnotate": "quantization",
    "QuantizeLayer": "quantization",
    "QuantizeWrapper": "quantization",
    "QuantizeWrapperV2": "quantization",
}
"""The class names of tfmot's wrapper layers, as a model file spells them, and what each belongs to."""

_HDF5_START, _ZIP_START, _TFLITE_START = b"\x89HDF\r\n\x1a\n", b"PK", b"TFL3"


def read_model(path: Path, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """The model that `path` holds, uncompiled and not yet judged.

    The content decides what a file is, not its name.

    Args:
        path: a Keras 2 HDF5 file, a Keras 2 ``.keras`` archive, or a Keras 2 SavedModel folder.
        custom_objects: classes and functions of the model that Keras does not know, by name.

    Returns:
        A `tf_keras.Model`.

    Raises:
        ModelError: nothing is there, it is of another kind or of Keras 3, is damaged, holds weights alone or
            tfmot's wrappers, or names a class that is not known.
    """
    try:
        if not path.exists():
            raise ModelError(
                f"A model must be {KINDS}, or a zoo name. There is nothing at '{path}'. "
                f"Zoo names: {', '.join(zoo.names())}."
            )
        if path.is_dir():
            return _read_saved_model(path, custom_objects)
        start = _first_bytes(path)
        if start.startswith(_HDF5_START):
            return _read_hdf5(path, custom_objects)
        if start.startswith(_ZIP_START):
            return _read_archive(path, custom_objects)
    except ModelError:
        raise
    except Exception as error:  # What a damaged or foreign file makes the readers raise has no common class.
        raise _unreadable(path, error) from error
    raise _wrong_kind(path, start)


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)


def _read_saved_model(path: Path, custom_objects: Mapping[str, Any] | None) -> Any:
    if not (path / "saved_model.pb").is_file():
        raise ModelError(
            f"A model folder must be a SavedModel, or that of an earlier run. '{path}' has no file saved_model.pb."
        )
    if not (path / "keras_metadata.pb").is_file():
        raise ModelError(
            "A SavedModel must have been saved by Keras 2, which stores its layers beside the graph. "
            f"'{path}' has no file keras_metadata.pb (Keras 3's `export` and `tf.saved_model.save` write none). "
            "Save the model itself with tf_keras, `model.save('model.h5')`."
        )
    return kd.keras.models.load_model(str(path), custom_objects=custom_objects, compile=False)


def _read_hdf5(path: Path, custom_objects: Mapping[str, Any] | None) -> Any:
    import h5py

    with h5py.File(path, "r") as file:
        if "model_config" not in file.attrs:
            raise ModelError(
                f"A model file must hold layers and weights. '{path}' holds weights alone, or no Keras model. "
                "Save the whole model with `model.save('model.h5')`."
            )
        _refuse_keras_3(path, str(file.attrs.get("keras_version", "")))
        _refuse_wrappers(path, json.loads(file.attrs["model_config"]))
        return kd.keras.models.load_model(file, custom_objects=custom_objects, compile=False)


def _read_archive(path: Path, custom_objects: Mapping[str, Any] | None) -> Any:
    with zipfile.ZipFile(path) as archive:
        if not {"metadata.json", "config.json", "model.weights.h5"} <= set(archive.namelist()):
            raise _wrong_kind(path, _ZIP_START)
        damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
        _refuse_keras_3(path, str(json.loads(archive.read("metadata.json")).get("keras_version", "")))
        _refuse_wrappers(path, json.loads(archive.read("config.json")))
    if path.suffix != ".keras":
        raise ModelError(f"A Keras archive must be named *.keras to be read. Received: '{path}'. Rename it.")
    return kd.keras.models.load_model(path, custom_objects=custom_objects, compile=False)


def _refuse_keras_3(path: Path, version: str) -> None:
    if version.partition(".")[0].isdecimal() and int(version.partition(".")[0]) >= 3:
        raise ModelError(keras_3_refusal(f"'{path}' was saved by Keras {version}"))


def keras_3_refusal(what: str) -> str:
    """The message for a Keras 3 model; `what` says which one came."""
    return (
        f"A model must be of Keras 2: {what}, and Keras 3 models are not read yet. "
        "Build the model with tf_keras, copy the weights, and save it from there."
    )


def _refuse_wrappers(path: Path, config: Any) -> None:
    wrapped = sorted(TFMOT_WRAPPERS.keys() & set(_class_names(config)))
    if wrapped:
        raise ModelError(f"'{path}' cannot be compressed: {wrapper_refusal(wrapped)}.")


def wrapper_refusal(wrappers: list[str]) -> str:
    """The message for a model that still has the layers of tfmot whose class names are `wrappers`."""
    kinds = sorted({TFMOT_WRAPPERS[name] for name in wrappers})
    return (
        f"a model must come without tfmot's wrappers. It has those of {' and '.join(kinds)} "
        f"({', '.join(wrappers)}). Remove them first: tfmot's strip_pruning and strip_clustering do; "
        "of a quantization-aware model, take the float model it was made from"
    )


def _class_names(config: Any) -> Iterator[str]:
    """Every class name anywhere in a serialized Keras config."""
    if isinstance(config, dict):
        if isinstance(config.get("class_name"), str):
            yield config["class_name"]
        config = list(config.values())
    if isinstance(config, list):
        for item in config:
            yield from _class_names(item)


def _wrong_kind(path: Path, start: bytes) -> ModelError:
    if path.suffix in (".h5", ".hdf5", ".keras"):
        found = f"'{path}' is damaged: it is named like one, but its content is not that of one"
    elif start[4:8] == _TFLITE_START:
        found = f"'{path}' is a TFLite file already; bring the Keras model that it was made from"
    else:
        found = f"'{path}' is another kind of file"
    return ModelError(f"A model must be {KINDS}, or a zoo name. {found}.")


def _unreadable(path: Path, error: Exception) -> ModelError:
    # Keras states the cause last, behind the whole config of the layer.
    reason = str(error).rpartition("Exception encountered: ")[2].strip().partition("\n")[0] or type(error).__name__
    if any(mark in reason for mark in ("Unknown ", "Could not locate")):
        return ModelError(
            f"Every class and function in a model must be known to Keras. '{path}' holds one that is not: "
            f"{reason} Pass it to `load_model` in custom_objects={{name: object}}, or load the model in your own "
            "code and bring the object."
        )
    return ModelError(
        f"A model must be {KINDS}, complete and readable. '{path}' could not be read: {reason} "
        "If it was copied, copy it again; otherwise save the model again."
    )
