"""A layer's outputs at some places, each with the part of the input that it is computed from.

Neighbouring pixels say nearly the same. To learn from few places of many samples, instead of from all of a few, costs
a tenth and less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.techniques._lockstep import BATCH, Counterparts, linear_part

_MOST_ROWS, _MOST_NUMBERS = 2**15, 2**26
"""What is kept of all samples together: 256 megabytes."""
_BATCH_OF_ROWS, _BATCH_OF_IMAGES = 512, 32


@dataclass(frozen=True)
class LayerRows:
    """What a quantized layer and the float one it was made of are fed, by the row.

    Args:
        quantized, floats: the inputs of both models at the same places, float32 `[rows, ...]`.
        response: what the layer makes of rows `[n, ...]` with a kernel, before bias and activation,
            `[n, ..., channels]`.
        batch: how many rows make a sensible step of training.
    """

    quantized: Any
    floats: Any
    response: Callable[[Any, Any], Any]
    batch: int


def layer_rows(pair: Counterparts, seed: int) -> LayerRows:
    """Rows of a layer from all its samples: as many places of each, drawn by `seed`, as memory allows.

    A row is a patch for a Conv2D or DepthwiseConv2D, and a vector for a Dense. A transposed convolution has whole
    images for rows, for its outputs are computed from different parts of its kernel.
    """
    layer = pair.layer
    if isinstance(layer, kd.keras.layers.Conv2DTranspose):
        inputs = (kd.tf.constant(fed) for fed in (pair.quantized_inputs, pair.float_inputs))
        return LayerRows(*inputs, linear_part(layer), _BATCH_OF_IMAGES)
    few = pair.quantized_inputs[:1]
    places, width = _rows(layer, few).shape[1:]
    samples = len(pair.quantized_inputs)
    kept = min(places, max(1, min(_MOST_ROWS, _MOST_NUMBERS // width) // samples))
    drawn = np.random.default_rng(seed).random((samples, places)).argsort(axis=1)[:, :kept]
    quantized, floats = (_drawn(layer, fed, drawn) for fed in (pair.quantized_inputs, pair.float_inputs))
    return LayerRows(quantized, floats, _response(layer), min(_BATCH_OF_ROWS, samples * kept))


def _drawn(layer: Any, inputs: np.ndarray, drawn: np.ndarray) -> Any:
    """The rows of `inputs` at the places `drawn` of each sample, `[rows, width]`."""
    parts = [
        kd.tf.gather(_rows(layer, inputs[start : start + BATCH]), drawn[start : start + BATCH], batch_dims=1)
        for start in range(0, len(inputs), BATCH)
    ]
    return kd.tf.concat([kd.tf.reshape(part, (-1, part.shape[-1])) for part in parts], axis=0)


def _rows(layer: Any, inputs: np.ndarray) -> Any:
    """All rows of some samples, `[samples, places, width]`."""
    if isinstance(layer, kd.keras.layers.Dense):
        return kd.tf.reshape(inputs, (len(inputs), -1, inputs.shape[-1]))
    by_axis = [(1, *pair, 1) for pair in (layer.kernel_size, layer.strides, layer.dilation_rate)]
    patches = kd.tf.image.extract_patches(inputs, *by_axis, padding=layer.padding.upper())
    return kd.tf.reshape(patches, (len(inputs), -1, patches.shape[-1]))


def _response(layer: Any) -> Callable[[Any, Any], Any]:
    if isinstance(layer, kd.keras.layers.DepthwiseConv2D):
        return _depthwise
    return partial(_grouped, layer.groups) if getattr(layer, "groups", 1) > 1 else _product


def _product(rows: Any, kernel: Any) -> Any:
    return rows @ kd.tf.reshape(kernel, (-1, kernel.shape[-1]))


def _depthwise(rows: Any, kernel: Any) -> Any:
    """Of patches `[n, taps * channels]` and a kernel `[height, width, channels, multiplier]`."""
    tf = kd.tf
    channels, multiplier = kernel.shape[2:]
    by_channel = tf.reshape(rows, (-1, rows.shape[-1] // channels, channels, 1))
    outputs = tf.reduce_sum(by_channel * tf.reshape(kernel, (-1, channels, multiplier)), axis=1)
    return tf.reshape(outputs, (-1, channels * multiplier))


def _grouped(groups: int, rows: Any, kernel: Any) -> Any:
    """Of patches `[n, taps * channels]` and a kernel `[height, width, channels / groups, filters]`."""
    tf = kd.tf
    *taps, inputs, filters = kernel.shape
    by_group = tf.reshape(rows, (-1, np.prod(taps), groups, inputs))
    kernels = tf.reshape(kernel, (-1, inputs, groups, filters // groups))
    return tf.reshape(tf.einsum("ntgi,tigo->ngo", by_group, kernels), (-1, filters))
