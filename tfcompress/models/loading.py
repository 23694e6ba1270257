"""Bringing in a trained model: `load_model`; and telling and copying models: `fingerprint`, `clone`."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.files import (
    KINDS,
    TFMOT_WRAPPERS,
    issubclass_of,
    read_model,
    wrapper_refusal,
)
from tfcompress.models.translation import translate
from tfcompress.vocabulary.errors import ModelError


def load_model(
    source: str | os.PathLike[str] | Any, custom_objects: Mapping[str, Any] | None = None, unsafe: bool = False
) -> Any:
    """A trained Keras model, of Keras 2 or 3, as a tf_keras model that is fit to be compressed.

    Args:
        source: a tf_keras model, a Keras 3 model, or the path of a ``.h5``, ``.hdf5`` or ``.keras`` file of either, or
            of a Keras 2 SavedModel folder.
        custom_objects: classes and functions of the model that Keras does not know, by name. For a Keras 3 model
            these are the tf_keras classes that take the place of its own. Defaults to none.
        unsafe: execute byte code that a file holds (that of Lambda layers). Defaults to refusing such a file.

    Returns:
        `source` itself when it is a tf_keras model, else the model read, uncompiled: a Sequential or Functional
        `tf_keras.Model` with finite weights. A Keras 3 model is translated (`translation.translate`).

    Raises:
        ModelError: the source cannot be read or translated, or is not such a model. All that is wrong with a model
            that could be read is named at once.

    Example:
        >>> load_model("trained.keras").output_shape  # doctest: +SKIP
        (None, 10)
    """
    if isinstance(source, str | os.PathLike):
        model, where = read_model(Path(source), custom_objects, unsafe=unsafe), f"'{os.fspath(source)}'"
    elif isinstance(source, kd.keras.Model):
        model, where = source, f"model {source.name!r}"
    elif issubclass_of(type(source), "keras") and isinstance(source, kd.keras_3.Model):
        model, where = translate(source, custom_objects), f"model {source.name!r}"
    else:
        raise ModelError(
            f"A model must be a tf_keras or Keras 3 model, or the path of {KINDS}. Received: {type(source).__name__}."
        )
    problems = _problems(model)
    if problems:
        raise ModelError(f"{where} cannot be compressed: " + "; ".join(problems) + ".")
    return model


def check_one_input_and_output(model: Any) -> None:
    """Refuse a model that a run cannot feed and measure.

    Raises:
        ModelError: it has several inputs or several outputs.
    """
    problems = [
        f"a model must have one {what}; models of several are not supported yet. "
        f"It has {len(names)}: {', '.join(names)}"
        for what, names in (("input", model.input_names), ("output", model.output_names))
        if len(names) != 1
    ]
    if problems:
        raise ModelError(f"model {model.name!r} cannot be compressed: " + "; ".join(problems) + ".")


def clone(model: Any) -> Any:
    """An independent copy of a Sequential or Functional model: new layers of the same names, equal weights.

    Custom layers, activations, regularizers and the like are taken from the model itself; they need not be
    registered with Keras. tfmot's wrappers are layers like others. The copy is uncompiled.

    Raises:
        ModelError: a layer cannot be made again from its own `get_config()`.
    """
    copy = kd.keras.models.clone_model(model, clone_function=copied_layer)
    set_weights(copy, model.get_weights())
    return copy


def set_weights(layer: Any, weights: Sequence[np.ndarray]) -> None:
    """Give a layer or model `weights` in Keras' order; its Normalizations take theirs up at once."""
    layer.set_weights(weights)
    for part in layer._flatten_layers():
        if isinstance(part, kd.keras.layers.experimental.preprocessing.PreprocessingLayer):
            part.finalize_state()


def fingerprint(model: Any) -> str:
    """The SHA-256, in hexadecimal, of the model's architecture (names included) and of every weight's bytes.

    Equal for two loads of one file and for a model and its `clone`; different when one weight differs.

    Raises:
        ModelError: the config of a layer cannot be written as JSON; all such layers are named.
    """
    config = _plain_config(model)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for value in model.get_weights():
        digest.update(f"{value.dtype.name}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _plain_config(model: Any) -> Any:
    """The config of `model` in JSON's types, because configs hold tuples, numpy numbers and functions."""
    try:
        # Without the version of Keras that stands beside it.
        return json.loads(model.to_json())["config"]
    except Exception as error:  # A user's own class may fail in any way.
        odd = [f"{layer.name} ({type(layer).__name__})" for layer in _layers(model) if not _is_plain(layer)]
        raise ModelError(
            f"A layer's `get_config()` must give what JSON can hold. That of {', '.join(odd) or model.name} does not: "
            f"{error}. Remedy: give numbers, texts, lists and dicts of them there, and make the object from them in "
            "`from_config`."
        ) from error


def _is_plain(layer: Any) -> bool:
    """Whether the config of `layer` can be written as JSON; of a nested model, its layers are asked."""
    if isinstance(layer, kd.keras.Model):
        return True
    try:
        json.dumps(layer.get_config(), default=kd.keras.src.saving.legacy.saved_model.json_utils.get_json_type)
    except Exception:  # As above.
        return False
    return True


def classes_of(model: Any) -> int | None:
    """The size of the last axis of the model's output; None where it has none or that size is open."""
    shape = model.output_shape
    return shape[-1] if isinstance(shape, tuple) and len(shape) > 1 else None


def _problems(model: Any) -> list[str]:
    """Everything that forbids compressing `model`, each with its remedy; empty when nothing does."""
    graphless = _graphless(model)
    if graphless:
        return [graphless]
    problems = []
    layers = list(_layers(model))
    wrappers = sorted({type(layer).__name__ for layer in layers} & TFMOT_WRAPPERS.keys())
    revived = [
        f"{layer.name} ({type(layer).__name__})"
        for layer in layers
        # The classes that SavedModel loading makes up in place of ones it does not know are defined there.
        if type(layer).__module__.endswith("saving.legacy.saved_model.load")
    ]
    if wrappers:
        problems.append(wrapper_refusal(wrappers))
    elif revived:
        problems.append(
            "every custom class or function of a SavedModel must be passed in custom_objects={name: object}. "
            f"Unknown are those of the layers {', '.join(revived)}"
        )
    return problems + _not_finite(model)


def _graphless(model: Any) -> str:
    """What to say when `model`, or one nested in it, has no graph of layers; empty when all have."""
    if isinstance(model, kd.keras.Sequential) and model.inputs is None:
        return "a Sequential model must know its input shape. Call `model.build((None, ...))` first"
    subclassed = [
        part.name for part in (model, *_layers(model)) if isinstance(part, kd.keras.Model) and part.inputs is None
    ]
    if not subclassed:
        return ""
    return (
        "a model must be Sequential or Functional, all nested ones too: a subclassed model has no graph of layers "
        f"to work on. Subclassed: {', '.join(subclassed)}. Rebuild with `tf_keras.Model(inputs, outputs)`"
    )


def _layers(model: Any) -> Iterator[Any]:
    """All layers of `model`, those of nested models included."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, kd.keras.Model):
            yield from _layers(layer)


def _not_finite(model: Any) -> list[str]:
    found = []
    for weight in model.weights:
        if weight.dtype.is_floating:
            bad = int(np.sum(~np.isfinite(weight.numpy())))
            if bad:
                found.append(f"{weight.name.partition(':')[0]} ({bad} of {weight.shape.num_elements()})")
    if not found:
        return []
    return [f"every weight must be finite. NaN or infinity is in {', '.join(found)}. Train again from sound weights"]


def copied_layer(layer: Any, /, **changes: Any) -> Any:
    """A new layer from the config of `layer`, with `changes` to it, without its weights.

    Raises:
        ModelError: the layer cannot be made again from its own `get_config()`.
    """
    if isinstance(layer, kd.keras.Model):
        return kd.keras.models.clone_model(layer, clone_function=copied_layer)
    try:
        with kd.keras.utils.custom_object_scope(custom_objects(layer)):
            return type(layer).from_config({**_config(layer), **changes})
    except Exception as error:  # A user's own class may fail in any way.
        raise ModelError(
            f"A layer must be one that its own `from_config(get_config())` makes again. "
            f"Layer {layer.name!r} ({type(layer).__name__}) is not: {error}"
        ) from error


def _config(layer: Any) -> dict[str, Any]:
    """The config of `layer`, with functions themselves where its constructor takes them.

    A config can hold a lambda only as byte code, which Keras' constructors do not take back.
    """
    config = layer.get_config()
    if type(layer).from_config.__func__ is kd.keras.layers.Layer.from_config.__func__:
        config.update({key: vars(layer)[key] for key in config if inspect.isfunction(vars(layer).get(key))})
    return config


def custom_objects(layer: Any) -> dict[str, Any]:
    """The functions and classes in `layer` that are not Keras' own, by the names that its config gives them.

    What `tf_keras.utils.custom_object_scope` needs to make the layer again.
    """
    found, seen = {}, set()
    # Not its `submodules`: TensorFlow cannot walk what a recurrent layer with `recurrent_dropout` keeps.
    pending = list(layer._flatten_layers())
    while pending:
        value = pending.pop()
        if inspect.isfunction(value):
            found[value.__name__] = value
        elif hasattr(value, "get_config") and not isinstance(value, type) and id(value) not in seen:
            seen.add(id(value))
            found[type(value).__name__] = type(value)
            pending.extend(getattr(value, "__dict__", {}).values())
    return {name: value for name, value in found.items() if not str(value.__module__).startswith("tf_keras.")}
