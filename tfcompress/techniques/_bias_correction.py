"""Biases that take back what the rounding of weights shifts the mean of each output channel by.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), section 4.2: rounding
errors of weights do not cancel where the inputs have a mean, as they have behind a ReLU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.techniques._lockstep import BATCH, Counterparts, counterparts, linear_part

BiasCorrection = Literal["empirical", "analytic"]


def correct_biases(quantized: Any, model: Any, samples: np.ndarray, method: BiasCorrection) -> Mapping[str, float]:
    """Give every quantized layer the bias with which its mean output, by channel, is the float layer's.

    The bias is set, not added to: doing it again changes nothing more.

    Args:
        quantized: a tfmot-quantized model, its activation ranges calibrated; its biases are changed in place.
        model: the float model that it was made of, with the same names of layers, BatchNormalization folded.
        samples: preprocessed inputs, float32 `[n, ...]`.
        method: ``empirical`` - the difference of mean outputs before the activation, of the quantized model, corrected
            as far as this layer, and of the float one, each with its own inputs (Nagel et al. 2019, appendix D);
            ``analytic`` - the response of the weights' rounding error alone to the float layer's mean input,
            ``E[eps x] = eps E[x]`` (their section 4.2). They take E[x] from the statistics of a BatchNormalization,
            of which nothing is left where it is folded; here it is the mean over the samples, at every pixel.

    Returns:
        By the name of each quantized layer, the mean size of what its bias has changed by; 0 for one without a bias,
        which is left as it is.

    Example:
        >>> correct_biases(quantized, model, samples, "empirical")  # doctest: +SKIP
        {'conv1': 0.0113, 'classifier': 0.0008}
    """
    changed = {}
    for pair in counterparts(quantized, model, samples):
        layer = pair.wrapper.layer
        before = layer.bias.numpy() if layer.use_bias else np.zeros(1)
        if layer.use_bias:
            layer.bias.assign(pair.layer.bias.numpy() - _SHIFTS[method](pair))
        after = layer.bias.numpy() if layer.use_bias else before
        changed[pair.name] = float(np.abs(after - before).mean())
    return changed


def _empirical(pair: Counterparts) -> np.ndarray:
    """How far the mean outputs are apart without biases, `[channels]`."""
    quantized = _mean_response(pair, pair.quantized_inputs, pair.quantized_kernel)
    return quantized - _mean_response(pair, pair.float_inputs, pair.float_kernel)


def _analytic(pair: Counterparts) -> np.ndarray:
    """The mean response to the rounding error, `[channels]`; being linear, it is that to the mean input."""
    mean = pair.float_inputs.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
    return _mean_response(pair, mean, pair.quantized_kernel - pair.float_kernel)


_SHIFTS = {"empirical": _empirical, "analytic": _analytic}


def _mean_response(pair: Counterparts, inputs: np.ndarray, kernel: Any) -> np.ndarray:
    """The mean over samples and pixels of what the layer makes of `inputs` with `kernel`, float64 `[channels]`."""
    response = linear_part(pair.layer)
    total, count = 0.0, 0
    for start in range(0, len(inputs), BATCH):
        outputs = response(kd.tf.constant(inputs[start : start + BATCH]), kernel).numpy()
        rows = outputs.reshape(-1, outputs.shape[-1])
        total, count = total + rows.sum(axis=0, dtype=np.float64), count + len(rows)
    return total / count
