"""One operator of a Keras 3 graph (`x * 2`, `keras.ops.mean(x)`) as a tf_keras layer.

Where tf_keras has a layer that computes the same, it is that layer. Where it has none, it is the operator layer that
tf_keras itself makes of a TensorFlow function in a Functional model.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.translation import activations
from tfcompress.models.translation.calls import Call
from tfcompress.models.translation.refusal import UntranslatableError


def translate_operator(operation: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """The layer for one call of `operation`.

    Args:
        operation: a `keras.Operation` that is no layer.
        args: what it was called with: Keras 3 tensors and constants.
        kwargs: the same, by keyword.

    Raises:
        UntranslatableError: no layer and no TensorFlow function is known that computes the same.
    """
    name = type(operation).__name__
    values = dict(inspect.signature(operation.call).bind(*args, **kwargs).arguments)
    values = {key: _plain(value) for key, value in (_settings(operation) | values).items()}
    for rule in (_RULES.get(name), _activation, _tensorflow_function):
        call = rule and rule(operation, values)
        if call:
            return call
    raise UntranslatableError(
        f"tf_keras has no layer for the operator {name}",
        "Replace it in the Keras 3 model by layers, or by a layer of your own with custom_objects",
    )


def _settings(operation: Any) -> dict[str, Any]:
    """What the operation was made with, by the names of its constructor."""
    names = list(inspect.signature(type(operation).__init__).parameters)[1:]
    return {name: getattr(operation, name) for name in names if name != "name" and hasattr(operation, name)}


def _plain(value: Any) -> Any:
    """Constant tensors and variables as numpy arrays, or numbers where they are scalar; the rest as it is."""
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    if _is_tensor(value) or value is None or isinstance(value, str | bool | int | float | slice | dict):
        return value
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "shape"):
        value = np.asarray(kd.keras_3.ops.convert_to_numpy(value))
        return value if value.ndim else value.item()
    return value


def _is_tensor(value: Any) -> bool:
    return isinstance(value, kd.keras_3.KerasTensor)


def _float(value: Any) -> bool:
    return "float" in str(value.dtype)


def _arithmetic(
    layer: str | None, linear: Callable[[Any, bool], tuple[Any, Any] | None] | None
) -> Callable[[Any, dict[str, Any]], Call | None]:
    """A rule for an operator of two operands.

    Args:
        layer: the merge layer for two tensors, if there is one.
        linear: constant and whether it comes first -> scale and offset of the equal `Rescaling`; None where the
            operator is not linear.
    """

    def rule(operation: Any, values: dict[str, Any]) -> Call | None:
        one, two = values["x1"], values["x2"]
        if _is_tensor(one) and _is_tensor(two):
            # Merge layers align shapes of unequal rank from the left, Keras 3 and TensorFlow from the right.
            if layer is None or len(one.shape) != len(two.shape) or one.dtype != two.dtype:
                return None
            return Call(getattr(kd.keras.layers, layer)(name=operation.name), ([one, two],))
        tensor, constant, first = (two, one, True) if _is_tensor(two) else (one, two, False)
        if linear is None or not _float(tensor) or np.ndim(constant) >= len(tensor.shape):
            return None
        changed = linear(np.asarray(constant, np.float64), first)
        if changed is None:
            return None
        scale, offset = (np.asarray(value).tolist() for value in changed)
        return Call(kd.keras.layers.Rescaling(scale, offset, name=operation.name), (tensor,))

    return rule


def _pooled(kind: str) -> Callable[[Any, dict[str, Any]], Call | None]:
    """A rule for a reduction over all axes between the batch and the channels."""

    def rule(operation: Any, values: dict[str, Any]) -> Call | None:
        x, rank = values["x"], len(values["x"].shape)
        axes = values.get("axis")
        if axes is None or rank not in (3, 4, 5) or values.get("initial") is not None:
            return None
        if sorted(axis % rank for axis in np.atleast_1d(axes)) != list(range(1, rank - 1)):
            return None
        layer = getattr(kd.keras.layers, f"Global{kind}Pooling{rank - 2}D")
        return Call(layer(keepdims=bool(values["keepdims"]), name=operation.name), (x,))

    return rule


def _window_pooled(kind: str) -> Callable[[Any, dict[str, Any]], Call | None]:
    def rule(operation: Any, values: dict[str, Any]) -> Call | None:
        x = values["inputs"]
        if values.get("data_format") == "channels_first":
            return None
        layer = getattr(kd.keras.layers, f"{kind}Pooling{len(x.shape) - 2}D")
        made = layer(values["pool_size"], values["strides"], values["padding"], name=operation.name)
        return Call(made, (x,))

    return rule


def _merged(operation: Any, values: dict[str, Any]) -> Call | None:
    tensors = values["xs"]
    axis = values["axis"] % len(tensors[0].shape)
    if axis == 0 or not all(_is_tensor(tensor) for tensor in tensors):
        return None
    return Call(kd.keras.layers.Concatenate(values["axis"], name=operation.name), (list(tensors),))


def _reshaped(operation: Any, values: dict[str, Any]) -> Call | None:
    """Reshape, Ravel of a sample, ExpandDims and Squeeze, where the batch stays in front."""
    x, after = values["x"], operation.output.shape
    if x.shape[0] != after[0] or (x.shape[0] is None and _per_sample(x.shape) != _per_sample(after)):
        return None
    target = tuple(-1 if size is None else size for size in after[1:])
    if target.count(-1) > 1:
        return None
    return Call(kd.keras.layers.Reshape(target, name=operation.name), (x,))


def _per_sample(shape: tuple[int | None, ...]) -> int | None:
    """How many values a sample has; None when that is open."""
    return None if None in shape[1:] else math.prod(shape[1:])


def _transposed(operation: Any, values: dict[str, Any]) -> Call | None:
    x = values["x"]
    axes = tuple(axis % len(x.shape) for axis in values["axes"] or range(len(x.shape))[::-1])
    if axes[0] != 0:
        return None
    return Call(kd.keras.layers.Permute(axes[1:], name=operation.name), (x,))


def _taken(operation: Any, values: dict[str, Any]) -> Call:
    key = values["key"]
    key = tuple(key) if isinstance(key, list | tuple) else (key,)
    # The form in which tf_keras keeps slices in a config.
    parts = [
        {"start": part.start, "stop": part.stop, "step": part.step} if isinstance(part, slice) else part for part in key
    ]
    function = kd.tf.__operators__.getitem
    layer = kd.keras.src.layers.SlicingOpLambda(function, name=operation.name, dtype="float32")
    return Call(layer, (values["x"], parts))


def _leaky(operation: Any, values: dict[str, Any]) -> Call:
    return Call(kd.keras.layers.LeakyReLU(values["negative_slope"], name=operation.name), (values["x"],))


def _elu(operation: Any, values: dict[str, Any]) -> Call:
    return Call(kd.keras.layers.ELU(values["alpha"], name=operation.name), (values["x"],))


def _softmax(operation: Any, values: dict[str, Any]) -> Call:
    return Call(kd.keras.layers.Softmax(values["axis"], name=operation.name), (values["x"],))


def _relu(operation: Any, values: dict[str, Any]) -> Call:
    largest = 6.0 if type(operation).__name__ == "Relu6" else None
    return Call(kd.keras.layers.ReLU(largest, name=operation.name), (values["x"],))


_RULES: dict[str, Callable[[Any, dict[str, Any]], Call | None]] = {
    "Add": _arithmetic("Add", lambda c, _: (1.0, c)),
    "Subtract": _arithmetic("Subtract", lambda c, first: (-1.0, c) if first else (1.0, -c)),
    "Multiply": _arithmetic("Multiply", lambda c, _: (c, 0.0)),
    "TrueDivide": _arithmetic(None, lambda c, first: None if first else (1.0 / c, 0.0)),
    "Divide": _arithmetic(None, lambda c, first: None if first else (1.0 / c, 0.0)),
    "Maximum": _arithmetic("Maximum", None),
    "Minimum": _arithmetic("Minimum", None),
    "Mean": _pooled("Average"),
    "Max": _pooled("Max"),
    "AveragePool": _window_pooled("Average"),
    "MaxPool": _window_pooled("Max"),
    "Concatenate": _merged,
    "Reshape": _reshaped,
    "ExpandDims": _reshaped,
    "Squeeze": _reshaped,
    "Transpose": _transposed,
    "GetItem": _taken,
    "LeakyRelu": _leaky,
    "Elu": _elu,
    "Softmax": _softmax,
    "Relu": _relu,
    "Relu6": _relu,
}
"""Operator -> the rule for the layer; a rule that gives None leaves the operator to the next table."""

_ACTIVATIONS = {
    **{name: name.lower() for name in ("Sigmoid", "Softplus", "Softsign", "Silu", "Selu", "Tanh", "Squareplus")},
    **{"HardSigmoid": "hard_sigmoid", "HardSilu": "hard_silu", "LogSigmoid": "log_sigmoid", "HardTanh": "hard_tanh"},
    **{"TanhShrink": "tanh_shrink", "SparseSigmoid": "sparse_sigmoid", "Exp": "exponential", "Gelu": "gelu"},
    **{"SoftShrink": "soft_shrink", "HardShrink": "hard_shrink", "Celu": "celu", "LogSoftmax": "log_softmax"},
}
"""Operator -> the activation of the same formula at the operator's default settings."""


def _activation(operation: Any, values: dict[str, Any]) -> Call | None:
    name = _ACTIVATIONS.get(type(operation).__name__)
    if name is None:
        return None
    # `gelu` approximates by default as an operator, and does not as an activation.
    at_default = {"alpha": 1.0, "axis": -1, "threshold": 0.5, "b": 4, "approximate": False}
    if any(values[key] != at_default[key] for key in values.keys() & at_default.keys()):
        return None
    x = next(value for value in values.values() if _is_tensor(value))
    return Call(kd.keras.layers.Activation(activations.named(name), name=operation.name), (x,))


_AXES = {"axis": "axis", "keepdims": "keepdims"}
_PAIR = {"x1": "x", "x2": "y"}
_FUNCTIONS: dict[str, tuple[str, dict[str, str]]] = {
    **{
        name: (f"math.{name.lower()}", {"x": "x"})
        for name in ("Sqrt", "Square", "Rsqrt", "Log", "Log1p", "Expm1", "Sin", "Cos", "Tan", "Erf", "Floor", "Ceil")
    },
    **{name: (f"math.{name.lower()}", {"x": "x"}) for name in ("Round", "Sign", "Reciprocal", "Negative")},
    **{name: (f"math.{name.lower()}", _PAIR) for name in ("Add", "Subtract", "Multiply", "Maximum", "Minimum")},
    **{name: (f"math.{name.lower()}", _PAIR) for name in ("Greater", "Less", "Equal")},
    **{"Ceil": ("math.ceil", {"x": "x"}), "Absolute": ("math.abs", {"x": "x"})},
    **{"TrueDivide": ("math.divide", _PAIR), "Divide": ("math.divide", _PAIR), "Power": ("math.pow", _PAIR)},
    **{"GreaterEqual": ("math.greater_equal", _PAIR), "LessEqual": ("math.less_equal", _PAIR)},
    **{"NotEqual": ("math.not_equal", _PAIR), "LogicalNot": ("math.logical_not", {"x": "x"})},
    **{"LogicalAnd": ("math.logical_and", _PAIR), "LogicalOr": ("math.logical_or", _PAIR)},
    **{
        name: (f"math.reduce_{name.lower()}", {"x": "input_tensor", **_AXES})
        for name in ("Sum", "Mean", "Max", "Min", "Prod", "Std", "Var")
    },
    "Std": ("math.reduce_std", {"x": "input_tensor", **_AXES}),
    "Var": ("math.reduce_variance", {"x": "input_tensor", **_AXES}),
    "Matmul": ("linalg.matmul", {"x1": "a", "x2": "b"}),
    "Transpose": ("transpose", {"x": "a", "axes": "perm"}),
    "Reshape": ("reshape", {"x": "tensor", "newshape": "shape"}),
    "ExpandDims": ("expand_dims", {"x": "input", "axis": "axis"}),
    "Squeeze": ("squeeze", {"x": "input", "axis": "axis"}),
    "Concatenate": ("concat", {"xs": "values", "axis": "axis"}),
    "Stack": ("stack", {"x": "values", "axis": "axis"}),
    "Clip": ("clip_by_value", {"x": "t", "x_min": "clip_value_min", "x_max": "clip_value_max"}),
    "Where": ("where", {"condition": "condition", "x1": "x", "x2": "y"}),
    "Cast": ("cast", {"x": "x", "dtype": "dtype"}),
    "Softmax": ("nn.softmax", {"x": "logits", "axis": "axis"}),
    "LogSoftmax": ("nn.log_softmax", {"x": "logits", "axis": "axis"}),
    "Gelu": ("nn.gelu", {"x": "features", "approximate": "approximate"}),
    "StopGradient": ("stop_gradient", {"variable": "input"}),
    "Argmax": ("math.argmax", {"x": "input", "axis": "axis"}),
    "Argmin": ("math.argmin", {"x": "input", "axis": "axis"}),
    "Flip": ("reverse", {"x": "tensor", "axis": "axis"}),
    "Tile": ("tile", {"x": "input", "repeats": "multiples"}),
    "Repeat": ("repeat", {"x": "input", "repeats": "repeats", "axis": "axis"}),
}
"""Operator -> TensorFlow's function, and the names of its arguments."""


def _tensorflow_function(operation: Any, values: dict[str, Any]) -> Call | None:
    name = type(operation).__name__
    if name not in _FUNCTIONS:
        return None
    symbol, names = _FUNCTIONS[name]
    if any(value for key, value in values.items() if key not in names):
        return None
    if any(_is_tensor(value) and _float(value) for value in values.values()):
        # TensorFlow would make an int32 tensor of an int that comes first.
        values = {k: float(v) if type(v) is int and k in _PAIR else v for k, v in values.items()}
    function = kd.tf
    for part in symbol.split("."):
        function = getattr(function, part)
    arguments = {names[key]: value for key, value in values.items() if key in names and value is not None}
    first = next(iter(names.values()))
    layer = kd.keras.src.layers.TFOpLambda(function, name=operation.name, dtype="float32")
    return Call(layer, (arguments.pop(first),), arguments)
