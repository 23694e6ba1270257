"""Activations of a quantized model as TFLite computes them: with 8 bits also where no quantizer of tfmot stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tensorflow_model_optimization.python.core.quantization.keras.quantize_wrapper import QuantizeWrapper

from tfcompress import keras_door as kd

_GATE = (0.0, 255 / 256)
"""The range of LOGISTIC's int8 output, whose scale of 1/256 and offset of -128 TFLite fixes."""


def round_inner_activations(model: Any) -> None:
    """Have swish round its gate, and a sigmoid or tanh within the model its values, to the grid that the file has.

    tfmot rounds what comes out of a swish, but TFLite computes it by two operators: LOGISTIC, to 8 bits, and MUL. An
    output of the model is left as it is: the loss needs the gradient of probabilities that round to 0 or 1.

    Args:
        model: quantized by tfmot, changed in place; its weights and their order stay.
    """
    given_back = {id(tensor) for tensor in model.outputs}
    for wrapper in model.layers:
        if isinstance(wrapper, QuantizeWrapper) and not given_back & {id(wrapper.output)}:
            for holder in _holders(wrapper):
                rounded = _ROUNDED.get(getattr(holder.activation, "__name__", ""))
                if rounded is not None:
                    holder.activation = rounded


def _holders(wrapper: QuantizeWrapper) -> Iterator[Any]:
    """What has the activation of the wrapped layer as an attribute."""
    if isinstance(wrapper.layer, kd.keras.layers.Activation):
        yield wrapper.layer
    # The layer itself has these for its activation, once it is called.
    yield from wrapper._quantize_activations


def swish(x: Any) -> Any:
    """``x * sigmoid(x)``, the sigmoid in steps of 1/256."""
    return x * sigmoid(x)


def sigmoid(x: Any) -> Any:
    """The sigmoid in steps of 1/256."""
    return _rounded(kd.tf.nn.sigmoid(x), *_GATE)


def tanh(x: Any) -> Any:
    """The hyperbolic tangent in steps of 1/128."""
    return _rounded(kd.tf.nn.tanh(x), -1.0, 127 / 128)


def _rounded(values: Any, least: float, most: float) -> Any:
    return kd.tf.quantization.fake_quant_with_min_max_args(values, least, most, num_bits=8)


# Under their own names: tfmot asks for these, to see where it is to quantize.
_ROUNDED: dict[str, Callable[[Any], Any]] = {function.__name__: function for function in (swish, sigmoid, tanh)}
