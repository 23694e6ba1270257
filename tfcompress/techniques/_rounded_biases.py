"""Biases of a quantized model as its file holds them: integers in steps of input times weight."""

from __future__ import annotations

from typing import Any

import numpy as np
from tensorflow_model_optimization.python.core.quantization.keras.quantize_wrapper import QuantizeWrapper

from tfcompress import keras_door as kd
from tfcompress.models.graph import consumers
from tfcompress.techniques._activation_ranges import step_of
from tfcompress.techniques._fake_quant import range_taken, weight_quantizers


def round_biases(model: Any) -> None:
    """Round every bias to a multiple of the step of its layer's input times that of its weight.

    tfmot trains biases as real numbers, and the converter rounds them to these steps (Jacob et al. 2018, section 2.4,
    equation 11). Those are small, but a sum that lies within half of one between two outputs may come out on the other
    side, about one of a thousand does, and the difference grows with the depth of the network. The file stays as it
    would be; the model becomes the one that it holds.

    A BatchNormalization behind the layer is folded into it: there the moving mean takes up what is rounded off.

    Args:
        model: an `integer_form` whose weights are settled, changed in place. A layer keeps its bias where the step of
            its input is not known here (`range_taken`).
    """
    for wrapper, weight, quantizer in weight_quantizers(model):
        taken = range_taken(model, wrapper)
        if taken is None:
            continue
        steps = step_of(taken[1]) * quantizer.steps(weight).astype(np.float64)
        bias, norm = getattr(wrapper.layer, "bias", None), _norm_behind(model, wrapper)
        if norm is not None:
            _round_folded(norm, 0.0 if bias is None else bias.numpy(), steps)
        elif bias is not None:
            bias.assign(_rounded(bias.numpy(), steps))


def _norm_behind(model: Any, wrapper: Any) -> Any | None:
    """The BatchNormalization that the converter folds into the layer of `wrapper`; None where there is none."""
    takers = consumers(model, wrapper)
    found = takers[0].layer if len(takers) == 1 and isinstance(takers[0], QuantizeWrapper) else None
    if not isinstance(found, kd.keras.layers.BatchNormalization):
        return None
    return found if list(found.axis) == [len(wrapper.output_shape) - 1] else None


def _round_folded(norm: Any, bias: np.ndarray | float, steps: np.ndarray) -> None:
    """Move the means of `norm` so that the bias that folding makes is a multiple of the folded steps."""
    gamma, beta = (1.0 if norm.gamma is None else norm.gamma.numpy(), 0.0 if norm.beta is None else norm.beta.numpy())
    mean = norm.moving_mean.numpy().astype(np.float64)
    factor = gamma / np.sqrt(norm.moving_variance.numpy().astype(np.float64) + norm.epsilon)
    # A channel whose factor is zero gives its bias alone, and has no step.
    alive = factor != 0
    factor = np.where(alive, factor, 1.0)
    folded = (bias - mean) * factor + beta
    norm.moving_mean.assign(mean - np.where(alive, (_rounded(folded, steps * np.abs(factor)) - folded) / factor, 0.0))


def _rounded(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    return np.round(values / steps) * steps
