"""One Keras 3 layer as a tf_keras layer.

The rule: the class of the same name, made from the layer's config. A key that the class does not take is dropped when
its value is Keras 3's default, and refused when it is not. What deviates from the rule stands in the tables below.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.translation import activations
from tfcompress.models.translation.refusal import UntranslatableError

_RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}
"""Class -> key in Keras 3 -> key in tf_keras."""

_IMMATERIAL = {"seed", "use_cudnn", "flash_attention"}
"""Keys that say how a layer computes, not what."""

_ALSO_TAKEN = {name: ("zero_output_for_mask",) for name in ("RNN", "LSTM", "GRU", "SimpleRNN")}
"""Class -> keys that the tf_keras class takes without naming them in its constructor."""

_NEUTRAL = {"data_format": ("channels_last",), "dtype": (), "antialias": (False,)}
"""Key -> values that are as good as Keras 3's default."""

_WITHOUT_COUNTERPART = "tf_keras has no such layer"
_TEXT_OUTSIDE = "it works on text or on a vocabulary, which no integer graph can hold"
_REFUSED = {
    "GroupedQueryAttention": (_WITHOUT_COUNTERPART, "Use MultiHeadAttention"),
    "RMSNormalization": (_WITHOUT_COUNTERPART, "Use LayerNormalization"),
    "ReversibleEmbedding": (_WITHOUT_COUNTERPART, "Use Embedding, and Dense for the way back"),
    "SpectralNormalization": (
        "tf_keras cannot build it beside Keras 3",
        "Use the layer inside, with its kernel divided",
    ),
    "TFSMLayer": ("it holds a graph without layers", "Bring the Keras model that the graph was exported from"),
    "TorchModuleWrapper": ("it holds a PyTorch module", "Rebuild it from Keras layers"),
    "JaxLayer": ("it holds a JAX function", "Rebuild it from Keras layers"),
    "FlaxLayer": ("it holds a Flax module", "Rebuild it from Keras layers"),
} | {
    name: (_TEXT_OUTSIDE, "Keep it outside the model, in the data pipeline, and start the model behind it")
    for name in ("TextVectorization", "StringLookup", "IntegerLookup", "Hashing", "HashedCrossing")
}
"""Class -> reason and remedy where a better one can be told than that a counterpart is missing."""


def make_layer(source: Any, custom_objects: Mapping[str, Any]) -> Any:
    """A tf_keras layer that computes what `source` computes, once it has its weights.

    Args:
        source: a built Keras 3 layer, no model.
        custom_objects: tf_keras classes and functions by the names that the Keras 3 config uses.

    Raises:
        UntranslatableError: there is none.
    """
    kind = type(source)
    if getattr(source, "quantization_mode", None):
        raise UntranslatableError(
            f"its weights are quantized already ({source.quantization_mode})", "Bring the float model it was made from"
        )
    if getattr(source, "lora_enabled", False):
        raise UntranslatableError(
            "it has a LoRA adapter", "Save the model and load it again, which merges the adapter into the kernel"
        )
    if kind.__name__ in _MAKERS and _is_keras_own(kind):
        return _MAKERS[kind.__name__](source)
    try:
        config = source.get_config()
    except NotImplementedError as error:
        raise UntranslatableError("its class has no get_config()", "Write one") from error
    return _Maker(custom_objects).make(kind.__name__, _is_keras_own(kind), config, source)


def copy_weights(source: Any, target: Any) -> None:
    """Give `target` the weights of `source`: by name where names tell them apart, else in their order.

    Args:
        source: a built Keras 3 layer.
        target: what `make_layer` made of it, built.

    Raises:
        UntranslatableError: the weights are not of the same shapes.
    """
    if type(source).__name__ in _MAKERS:
        return
    values = {_own_name(weight.name): value for weight, value in zip(source.weights, source.get_weights(), strict=True)}
    names = [_own_name(weight.name) for weight in target.weights]
    if values.keys() == set(names) and len(values) == len(names) == len(source.weights):
        target.set_weights([values[name] for name in names])
        return
    ours, theirs = ([tuple(weight.shape) for weight in layer.weights] for layer in (source, target))
    if ours != theirs:
        raise UntranslatableError(
            f"its weights have the shapes {ours}, those of tf_keras {theirs}", "Replace it in the Keras 3 model"
        )
    target.set_weights(source.get_weights())


def _own_name(name: str) -> str:
    return name.partition(":")[0].rpartition("/")[2]


def _is_keras_own(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "keras"


class _Maker:
    """Makes tf_keras objects from Keras 3 configs."""

    def __init__(self, custom_objects: Mapping[str, Any]) -> None:
        self.custom_objects = custom_objects

    def make(self, name: str, keras_own: bool, config: Mapping[str, Any], source: Any = None) -> Any:
        """The tf_keras object of class `name`; `source` is the Keras 3 object itself, where it is at hand."""
        custom = self.custom_objects.get(name)
        if custom is None and not keras_own:
            raise UntranslatableError(
                "its class is not one of Keras, and a Keras 3 layer does not run inside a tf_keras model",
                f"Write the class for tf_keras and pass custom_objects={{{name!r}: the tf_keras class}}",
            )
        target = custom or (None if name in _REFUSED else _counterpart(name))
        if target is None:
            reason, remedy = _REFUSED.get(name, (_WITHOUT_COUNTERPART, "Replace it in the Keras 3 model"))
            raise UntranslatableError(
                reason, f"{remedy}, or pass custom_objects={{{name!r}: a tf_keras class that does the same}}"
            )
        arguments = self._arguments(name, config, target, source)
        return target(**arguments) if custom is None else target.from_config(arguments)

    def _arguments(self, name: str, config: Mapping[str, Any], target: type, source: Any) -> dict[str, Any]:
        defaults = _defaults(type(source)) if source is not None else _defaults(_in_keras_3(name))
        accepted = _defaults(target)
        arguments, refused = {}, []
        for old_key, value in config.items():
            key = _RENAMED.get(name, {}).get(old_key, old_key)
            if value == "channels_first":
                raise UntranslatableError(
                    "it works channels first, and TFLite channels last",
                    "Rebuild the model with data_format='channels_last'",
                )
            if key in accepted or key in _ALSO_TAKEN.get(name, ()):
                if key.endswith("_initializer") and not _is_built_in(value):
                    # What it would draw is overwritten by the weights that are copied.
                    continue
                arguments[key] = self._value(key, value, source)
            # A key that the constructor does not name is a switch from before, off where it is False.
            elif old_key not in _IMMATERIAL and not _is_default(
                value, defaults.get(old_key, False), _NEUTRAL.get(key, ())
            ):
                refused.append(f"{key}={value!r}")
        if refused:
            raise UntranslatableError(f"tf_keras' {name} knows no {', '.join(refused)}", "Rebuild the layer without")
        return arguments

    def _value(self, key: str, value: Any, source: Any) -> Any:
        if key == "dtype":
            return _dtype(value)
        if key.endswith("activation") and value is not None:
            return self._activation(value) if isinstance(value, str) else self._function(key, value, source)
        if isinstance(value, dict) and "class_name" in value:
            return self._object(key, value, source)
        if isinstance(value, list | tuple):
            return type(value)(self._value(key, item, None) for item in value)
        return value

    def _activation(self, name: str) -> Callable[[Any], Any]:
        found = self.custom_objects.get(name) or activations.named(name)
        if found is None:
            raise UntranslatableError(
                f"tf_keras has no activation {name!r}",
                f"Pass custom_objects={{{name!r}: a function that computes it with TensorFlow}}",
            )
        return found

    def _function(self, key: str, value: Mapping[str, Any], source: Any) -> Callable[..., Any]:
        name = value.get("config")
        known = self.custom_objects.get(name) if isinstance(name, str) else None
        # Inside a layer, a function is given TensorFlow's tensors by either Keras: the same one serves both.
        found = known or getattr(source, key, None)
        if not callable(found):
            raise UntranslatableError(
                f"its {key} is a function that is not at hand", f"Pass custom_objects={{{name!r}: the function}}"
            )
        return found

    def _object(self, key: str, value: Mapping[str, Any], source: Any) -> Any:
        name, config = value["class_name"], value.get("config") or {}
        if name in ("function", "__lambda__"):
            return self._function(key, value, source)
        if name == "__tuple__":
            return tuple(value["items"])
        inner = getattr(source, key, None)
        inner = inner if type(inner).__name__ == name else None
        return self.make(name, _is_built_in(value), config, inner)


def _is_built_in(value: Any) -> bool:
    """Whether a serialized object is of Keras itself; what is no serialized object counts as such."""
    return not isinstance(value, dict) or str(value.get("module")).partition(".")[0] == "keras"


def _counterpart(name: str) -> Any:
    """The class that tf_keras has under this name, wherever."""
    keras = kd.keras
    homes = (keras.layers, keras.initializers, keras.regularizers, keras.constraints)
    # Layers that Keras defines beside the application that needs them.
    for home in (*homes, keras.src.applications.convnext):
        found = getattr(home, name, None)
        if isinstance(found, type):
            return found
    return None


def _in_keras_3(name: str) -> Any:
    keras = kd.keras_3
    homes = (keras.layers, keras.initializers, keras.regularizers, keras.constraints)
    return next((getattr(home, name) for home in homes if hasattr(home, name)), object)


def _defaults(kind: type) -> dict[str, Any]:
    """What the constructor of `kind` takes by name, those of its bases behind ``**kwargs`` included."""
    found: dict[str, Any] = {}
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                found.setdefault(parameter.name, parameter.default)
        if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def _is_default(value: Any, default: Any, neutral: tuple[Any, ...]) -> bool:
    return value is None or value is default or any(value == other for other in (default, *neutral))


def _dtype(value: Any) -> str:
    """The dtype policy: float32 for every float one, because quantization-aware training needs it."""
    name = value["config"]["name"] if isinstance(value, dict) else str(getattr(value, "name", value))
    return "float32" if "float" in name else name


def _normalization(source: Any) -> Any:
    """With its statistics as constants: tf_keras would keep them as weights that need another `adapt`."""
    statistics = {}
    for name in ("mean", "variance"):
        value = kd.keras_3.ops.convert_to_numpy(getattr(source, name))
        # It has the rank of the input; tf_keras takes the axes that are kept alone.
        kept = sorted(axis % value.ndim for axis in source.axis)
        statistics[name] = np.reshape(value, [value.shape[axis] for axis in kept]).tolist()
    return kd.keras.layers.Normalization(
        axis=source.axis, invert=source.invert, name=source.name, trainable=source.trainable, **statistics
    )


def _lambda(source: Any) -> Any:
    """With the same function: inside the layer, it is given TensorFlow's tensors by either Keras."""
    return kd.keras.layers.Lambda(
        source.function, arguments=source.arguments, name=source.name, trainable=source.trainable
    )


_MAKERS: dict[str, Callable[[Any], Any]] = {"Normalization": _normalization, "Lambda": _lambda}
"""Class -> function from the layer, where the config does not say all; what it makes needs no weights copied."""
