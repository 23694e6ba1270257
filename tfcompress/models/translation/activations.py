"""Activations that Keras 3 has by name and tf_keras lacks, or means otherwise by the same name.

Formulas: the documentation of `keras.activations`. The functions are registered with tf_keras, so that models that
hold them can be saved, loaded and cloned like others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfcompress import keras_door as kd

_PACKAGE = "tfcompress"


def hard_sigmoid(x: Any) -> Any:
    """``relu6(x + 3) / 6``; that of tf_keras is ``clip(0.2 x + 0.5, 0, 1)``."""
    return kd.tf.nn.relu6(x + 3.0) * (1.0 / 6.0)


def hard_silu(x: Any) -> Any:
    """``x * relu6(x + 3) / 6``, also called hard swish."""
    return x * hard_sigmoid(x)


def relu6(x: Any) -> Any:
    """``min(max(x, 0), 6)``."""
    return kd.tf.nn.relu6(x)


def leaky_relu(x: Any) -> Any:
    """``max(x, 0.2 x)``."""
    return kd.tf.nn.leaky_relu(x, alpha=0.2)


def log_sigmoid(x: Any) -> Any:
    """``log(sigmoid(x))``."""
    return kd.tf.math.log_sigmoid(x)


def log_softmax(x: Any) -> Any:
    """``log(softmax(x))`` over the last axis."""
    return kd.tf.nn.log_softmax(x)


def celu(x: Any) -> Any:
    """``max(x, 0) + min(exp(x) - 1, 0)``."""
    return kd.tf.nn.elu(x)


def hard_tanh(x: Any) -> Any:
    """``clip(x, -1, 1)``."""
    return kd.tf.clip_by_value(x, -1.0, 1.0)


def tanh_shrink(x: Any) -> Any:
    """``x - tanh(x)``."""
    return x - kd.tf.math.tanh(x)


def soft_shrink(x: Any) -> Any:
    """``sign(x) * max(|x| - 0.5, 0)``."""
    return x - kd.tf.clip_by_value(x, -0.5, 0.5)


def hard_shrink(x: Any) -> Any:
    """`x` where ``|x| > 0.5``, else 0."""
    return kd.tf.where(kd.tf.abs(x) > 0.5, x, kd.tf.zeros_like(x))


def squareplus(x: Any) -> Any:
    """``(x + sqrt(x**2 + 4)) / 2``."""
    return (x + kd.tf.sqrt(kd.tf.square(x) + 4.0)) / 2.0


def sparse_sigmoid(x: Any) -> Any:
    """``clip((x + 1) / 2, 0, 1)``."""
    return kd.tf.clip_by_value(0.5 * x + 0.5, 0.0, 1.0)


_OWN: dict[str, Callable[[Any], Any]] = {
    function.__name__: function
    for function in (
        hard_sigmoid,
        hard_silu,
        relu6,
        leaky_relu,
        log_sigmoid,
        log_softmax,
        celu,
        hard_tanh,
        tanh_shrink,
        soft_shrink,
        hard_shrink,
        squareplus,
        sparse_sigmoid,
    )
}
_SAME = {"silu": "swish"} | {
    name: name
    for name in (
        *("elu", "exponential", "gelu", "linear", "mish", "relu", "selu"),
        *("sigmoid", "softmax", "softplus", "softsign", "tanh"),
    )
}
"""The name in Keras 3 -> the name in tf_keras, of activations that are equal."""


def register() -> None:
    """Make the functions of this module known to tf_keras' loaders."""
    for function in _OWN.values():
        kd.keras.utils.register_keras_serializable(package=_PACKAGE)(function)


def named(name: str) -> Callable[[Any], Any] | None:
    """The tf_keras activation that computes what Keras 3 calls `name`; None when there is none."""
    if name in _SAME:
        return kd.keras.activations.get(_SAME[name])
    if name in _OWN:
        register()
        return _OWN[name]
    return None
