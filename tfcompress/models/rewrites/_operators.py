"""Which layer of Keras computes what an operator of TensorFlow does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.rewrites._activations import Form, one_layer
from tfcompress.models.rewrites._affine import Affine
from tfcompress.models.rewrites._graph import Call, Graph, is_symbolic

Arguments = Mapping[str, Any]
"""Of an operator by the names of its parameters, defaults included."""
_Maker = Callable[[Graph, Call, Arguments], Form | None]


def plain_name(layer: Any) -> str:
    """The name of an operator without dots: `math_multiply` of `tf.math.multiply`."""
    return layer.name.removeprefix("tf.").strip("_").replace(".", "_")


def to_form(graph: Graph, call: Call) -> Form | None:
    """The layers that compute the operator of `call`, as a function of its tensors; None where there are none."""
    maker = _MAKERS.get(getattr(call.layer, "symbol", None))
    if maker is None:
        return None
    bound = inspect.signature(call.layer.function).bind(*call.node.call_args, **call.node.call_kwargs)
    bound.apply_defaults()
    return maker(graph, call, bound.arguments)


def _arithmetic(kind: str, constant: Callable[[Any, bool], tuple[Any, Any] | None]) -> _Maker:
    """The maker for an operator of two operands.

    Args:
        kind: the layer for two tensors; none where it is empty.
        constant: the factor and the shift for an operand that is constant, and stands first or not.
    """

    def make(graph: Graph, call: Call, arguments: Arguments) -> Form | None:
        first, second = list(arguments.values())[:2]
        if is_symbolic(first) and is_symbolic(second):
            fits = kind and len(first.shape) == len(second.shape) > 1
            return _new(graph, call, getattr(kd.keras.layers, kind), takes_all=True) if fits else None
        value = np.asarray(first if is_symbolic(second) else second, np.float64)
        tensor = call.inputs[0]
        by_channel = value.size == 1 or (value.shape[-1] == value.size == tensor.shape[-1])
        if not by_channel or value.ndim > len(tensor.shape) or not tensor.dtype.is_floating:
            return None
        terms = constant(value.reshape(-1), is_symbolic(second))
        return _affine(graph, call, *terms) if terms and tuple(tensor.shape) == call.shape else None

    return make


def _affine(graph: Graph, call: Call, factor: Any, shift: Any) -> Form | None:
    if not Affine.takes(call.shape):
        return None
    affine = Affine(graph, graph.name(plain_name(call.layer)), call.shape, factor, shift)
    return Form(affine.names, affine)


def _negative(graph: Graph, call: Call, arguments: Arguments) -> Form | None:
    del arguments
    return _affine(graph, call, -1.0, 0.0)


def _square(graph: Graph, call: Call, arguments: Arguments) -> Form:
    del arguments
    layer = kd.keras.layers.Multiply(name=graph.name(plain_name(call.layer)))
    return Form((layer.name,), lambda tensor: layer([tensor, tensor]))


def _activation(name: str, **required: Any) -> _Maker:
    """The maker for an activation of Keras, where the operator's arguments are as `required`."""

    def make(graph: Graph, call: Call, arguments: Arguments) -> Form | None:
        if any(arguments.get(key) not in (value, None) for key, value in required.items()):
            return None
        return _new(graph, call, kd.keras.layers.Activation, activation=name)

    return make


def _relu6(graph: Graph, call: Call, arguments: Arguments) -> Form:
    del arguments
    return _new(graph, call, kd.keras.layers.ReLU, max_value=6.0)


def _leaky_relu(graph: Graph, call: Call, arguments: Arguments) -> Form | None:
    if is_symbolic(arguments["alpha"]):
        return None
    return _new(graph, call, kd.keras.layers.LeakyReLU, alpha=float(arguments["alpha"]))


def _clip(graph: Graph, call: Call, arguments: Arguments) -> Form | None:
    """``clip(x, 0, m)`` as ``relu6(6 x / m) m / 6``, for the one bound that kernels know."""
    low, high = arguments["clip_value_min"], arguments["clip_value_max"]
    if is_symbolic(low) or is_symbolic(high) or np.size(low) * np.size(high) > 1 or low != 0 or high <= 0:
        return None
    relu6 = _relu6(graph, call, arguments)
    if high == 6:
        return relu6
    name = plain_name(call.layer)
    if not Affine.takes(call.shape):
        return None
    before = Affine(graph, graph.name(f"{name}_to_6"), call.shape, 6 / float(high), 0.0)
    after = Affine(graph, graph.name(f"{name}_from_6"), call.shape, float(high) / 6, 0.0)
    return Form((*before.names, *relu6.names, *after.names), lambda x: after(relu6.build(before(x))))


def _reshape(graph: Graph, call: Call, arguments: Arguments) -> Form | None:
    """Any operator that only gives each sample another shape."""
    del arguments
    given, shape = tuple(call.inputs[0].shape), call.shape
    # A batch of open size stays one only where a sample keeps all its values.
    known = None not in given[1:] and None not in shape[1:]
    if not known or given[0] != shape[0] or np.prod(given[1:]) != np.prod(shape[1:]):
        return None
    form = _new(graph, call, kd.keras.layers.Reshape, target_shape=shape[1:])
    return Form(form.names, lambda tensor, *_sizes: form.build(tensor))


def _pooling(kind: str) -> _Maker:
    """The maker for a mean or maximum over all pixels or steps."""

    def make(graph: Graph, call: Call, arguments: Arguments) -> Form | None:
        rank, axis = len(call.inputs[0].shape), arguments["axis"]
        if rank not in (3, 4) or axis is None:
            return None
        axes = sorted(int(value) % rank for value in np.reshape(axis, -1))
        if axes != list(range(1, rank - 1)):
            return None
        layer = getattr(kd.keras.layers, f"Global{kind}Pooling{rank - 2}D")
        return _new(graph, call, layer, keepdims=bool(arguments["keepdims"]))

    return make


def _concat(graph: Graph, call: Call, arguments: Arguments) -> Form | None:
    rank = len(call.shape)
    if int(arguments["axis"]) % rank == 0 or not all(map(is_symbolic, arguments["values"])):
        return None
    return _new(graph, call, kd.keras.layers.Concatenate, takes_all=True, axis=int(arguments["axis"]))


def _transpose(graph: Graph, call: Call, arguments: Arguments) -> Form | None:
    order = arguments["perm"]
    if order is None or int(order[0]) != 0:
        return None
    return _new(graph, call, kd.keras.layers.Permute, dims=tuple(int(axis) for axis in order[1:]))


def _pad(graph: Graph, call: Call, arguments: Arguments) -> Form | None:
    paddings = np.asarray(arguments["paddings"])
    plain = arguments["mode"] == "CONSTANT" and arguments["constant_values"] == 0
    if not plain or paddings.shape != (4, 2) or paddings[[0, 3]].any():
        return None
    return _new(graph, call, kd.keras.layers.ZeroPadding2D, padding=paddings[1:3].tolist())


def _identity(graph: Graph, call: Call, arguments: Arguments) -> Form | None:
    del graph, arguments
    return Form((), lambda tensor: tensor) if call.inputs[0].dtype == call.outputs[0].dtype else None


def _new(graph: Graph, call: Call, kind: type, *, takes_all: bool = False, **config: Any) -> Form:
    """The form that is one new layer of `kind`; it `takes_all` tensors of the call as a list, or each apart."""
    layer = kind(name=graph.name(plain_name(call.layer)), **config)
    form = one_layer(layer)
    return Form(form.names, lambda *tensors: layer(list(tensors))) if takes_all else form


_ADD = _arithmetic("Add", lambda value, _first: (1.0, value))
_SUBTRACT = _arithmetic("Subtract", lambda value, first: (-1.0, value) if first else (1.0, -value))
_MULTIPLY = _arithmetic("Multiply", lambda value, _first: (value, 0.0))
_DIVIDE = _arithmetic("", lambda value, first: None if first or not value.all() else (1 / value, 0.0))

_MAKERS: dict[str, _Maker] = {
    "__operators__.add": _ADD,
    "math.add": _ADD,
    "math.subtract": _SUBTRACT,
    "math.multiply": _MULTIPLY,
    "math.truediv": _DIVIDE,
    "math.divide": _DIVIDE,
    "math.negative": _negative,
    "math.square": _square,
    "nn.relu": _activation("relu"),
    "nn.relu6": _relu6,
    "nn.leaky_relu": _leaky_relu,
    "nn.silu": _activation("swish", beta=1.0),
    "nn.gelu": _activation("gelu", approximate=False),
    "nn.softmax": _activation("softmax", axis=-1),
    "math.sigmoid": _activation("sigmoid"),
    "math.tanh": _activation("tanh"),
    "clip_by_value": _clip,
    "reshape": _reshape,
    "expand_dims": _reshape,
    "squeeze": _reshape,
    "compat.v1.squeeze": _reshape,
    "math.reduce_mean": _pooling("Average"),
    "math.reduce_max": _pooling("Max"),
    "concat": _concat,
    "transpose": _transpose,
    "compat.v1.transpose": _transpose,
    "pad": _pad,
    "compat.v1.pad": _pad,
    "identity": _identity,
    "cast": _identity,
}
