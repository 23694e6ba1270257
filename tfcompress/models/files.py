"""Model files and folders: which kind one is, why it cannot be read, and reading it with the Keras that wrote it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tfcompress import keras_door as kd
from tfcompress.models import zoo
from tfcompress.models.translation import activations, translate
from tfcompress.vocabulary.errors import ModelError

KINDS = "a .keras, .h5 or .hdf5 file of Keras 3 or 2, or a Keras 2 SavedModel folder"

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


def read_model(path: Path, custom_objects: Mapping[str, Any] | None = None, *, unsafe: bool = False) -> Any:
    """The model that `path` holds, uncompiled and not yet judged.

    The content decides what a file is, not its name. A Keras 3 model is translated.

    Args:
        path: an HDF5 file or ``.keras`` archive of Keras 3 or 2, or a Keras 2 SavedModel folder.
        custom_objects: classes and functions of the model that Keras does not know, by name.
        unsafe: execute byte code that the file holds (that of Lambda layers). Defaults to refusing it.

    Returns:
        A `tf_keras.Model`.

    Raises:
        ModelError: nothing is there, it is of another kind, is damaged, holds weights alone, a graph without layers,
            code or tfmot's wrappers, names a class that is not known, or cannot be translated.
    """
    try:
        if not path.exists():
            raise ModelError(
                f"A model must be {KINDS}, or a zoo name. There is nothing at '{path}'. "
                f"Zoo names: {', '.join(zoo.names())}."
            )
        if path.is_dir():
            return _read_saved_model(path, custom_objects, unsafe)
        start = _first_bytes(path)
        if start.startswith(_HDF5_START):
            return _read_hdf5(path, custom_objects, unsafe)
        if start.startswith(_ZIP_START):
            return _read_archive(path, custom_objects, unsafe)
    except ModelError:
        raise
    except Exception as error:  # What a damaged or foreign file makes the readers raise has no common class.
        raise _unreadable(path, error) from error
    raise _wrong_kind(path, start)


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)


def _read_saved_model(path: Path, custom_objects: Mapping[str, Any] | None, unsafe: bool) -> Any:
    if not (path / "saved_model.pb").is_file():
        raise ModelError(
            f"A model folder must be a SavedModel, or that of an earlier run. '{path}' has no file saved_model.pb."
        )
    if not (path / "keras_metadata.pb").is_file():
        raise ModelError(
            "A SavedModel must have been saved by Keras 2, which stores its layers beside the graph. "
            f"'{path}' has no file keras_metadata.pb: the `export` of Keras 3 and `tf.saved_model.save` write a graph "
            "without layers. Save the model itself, `model.save('model.keras')`."
        )
    metadata = kd.keras.protobuf.saved_metadata_pb2.SavedMetadata()
    metadata.ParseFromString((path / "keras_metadata.pb").read_bytes())
    _refuse_code(path, [json.loads(node.metadata) for node in metadata.nodes if node.metadata], unsafe)
    return _load_keras_2(str(path), custom_objects)


def _read_hdf5(path: Path, custom_objects: Mapping[str, Any] | None, unsafe: bool) -> Any:
    import h5py

    with h5py.File(path, "r") as file:
        if "model_config" not in file.attrs:
            raise ModelError(
                f"A model file must hold layers and weights. '{path}' holds weights alone, or no Keras model. "
                "Save the whole model with `model.save('model.h5')`."
            )
        config = json.loads(file.attrs["model_config"])
        _refuse_code(path, config, unsafe)
        _refuse_wrappers(path, config)
        if not _is_keras_3(file.attrs.get("keras_version", "")):
            return _load_keras_2(file, custom_objects)
    if path.suffix not in (".h5", ".hdf5"):
        raise ModelError(f"A Keras 3 HDF5 file must be named *.h5 to be read. Received: '{path}'. Rename it.")
    return _load_keras_3(path, custom_objects, unsafe)


def _read_archive(path: Path, custom_objects: Mapping[str, Any] | None, unsafe: bool) -> Any:
    with zipfile.ZipFile(path) as archive:
        if not {"metadata.json", "config.json", "model.weights.h5"} <= set(archive.namelist()):
            raise _wrong_kind(path, _ZIP_START)
        damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
        metadata, config = (json.loads(archive.read(name)) for name in ("metadata.json", "config.json"))
    if path.suffix != ".keras":
        raise ModelError(f"A Keras archive must be named *.keras to be read. Received: '{path}'. Rename it.")
    _refuse_code(path, config, unsafe)
    _refuse_wrappers(path, config)
    if _is_keras_3(metadata.get("keras_version", "")):
        return _load_keras_3(path, custom_objects, unsafe)
    return _load_keras_2(path, custom_objects, safe_mode=not unsafe)


def _is_keras_3(version: Any) -> bool:
    major = str(version).partition(".")[0]
    return major.isdecimal() and int(major) >= 3


def _load_keras_2(source: Any, custom_objects: Mapping[str, Any] | None, **options: Any) -> Any:
    # A translated model may have been saved, and holds them.
    activations.register()
    return kd.keras.models.load_model(source, custom_objects=custom_objects, compile=False, **options)


def _load_keras_3(path: Path, custom_objects: Mapping[str, Any] | None, unsafe: bool) -> Any:
    objects = dict(custom_objects or {})
    # A class is of one generation: Keras 3's serve to read the file, tf_keras' to translate it; functions serve both.
    readable = {name: value for name, value in objects.items() if not issubclass_of(value, "tf_keras")}
    wanted = {name: value for name, value in objects.items() if not issubclass_of(value, "keras")}
    model = kd.keras_3.saving.load_model(path, custom_objects=readable, compile=False, safe_mode=not unsafe)
    return translate(model, wanted)


def issubclass_of(value: Any, package: str) -> bool:
    """Whether `value` is a class that `package` defines or one that derives from such a class."""
    return any(base.__module__.partition(".")[0] == package for base in getattr(value, "__mro__", ()))


def _refuse_code(path: Path, config: Any, unsafe: bool) -> None:
    """Refuse functions stored as byte code, before anything of the file is deserialized."""
    if not unsafe and any(_holds_code(part) for part in _parts(config)):
        raise ModelError(
            f"A model file must not hold code. '{path}' has a layer with a Python function as byte code (a Lambda), "
            "and reading it would execute whatever that code says. Rebuild the model without it, or, only if you trust "
            "where the file comes from, pass unsafe=True (--unsafe)."
        )


def _holds_code(part: Mapping[str, Any]) -> bool:
    config = part.get("config")
    if part.get("class_name") == "__lambda__":
        return True
    # The older form names the type of every function that a Lambda has beside it.
    return isinstance(config, dict) and any(
        config.get(f"{name}_type") == "lambda" for name in ("function", "output_shape", "mask")
    )


def _refuse_wrappers(path: Path, config: Any) -> None:
    wrapped = sorted(TFMOT_WRAPPERS.keys() & {str(part.get("class_name")) for part in _parts(config)})
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


def _parts(config: Any) -> Iterator[Mapping[str, Any]]:
    """Every dict anywhere in a serialized Keras config."""
    if isinstance(config, dict):
        yield config
        config = list(config.values())
    if isinstance(config, list):
        for item in config:
            yield from _parts(item)


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
            "code and bring the object (a Keras 3 object with custom_objects={name: tf_keras class} for its layers)."
        )
    return ModelError(
        f"A model must be {KINDS}, complete and readable. '{path}' could not be read: {reason} "
        "If it was copied, copy it again; otherwise save the model again."
    )
