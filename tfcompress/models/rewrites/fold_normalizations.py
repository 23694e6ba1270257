"""BatchNormalization, Normalization and Rescaling folded into a neighbour, where training cannot do it later."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.rewrites._graph import Call, Graph, Part, same
from tfcompress.models.rewrites._per_channel import (
    SCALED,
    factor_and_shift,
    folded_back,
    follows_linear,
    merged,
    per_channel_calls,
)
from tfcompress.models.rewrites.base import Edit, Rewrite
from tfcompress.vocabulary.state import Move


class FoldNormalizations(Rewrite):
    """Fold a normalization behind a transposed convolution, or before a layer where that is exact.

    A BatchNormalization behind a linear Conv2D, DepthwiseConv2D or Dense stays: quantization-aware training takes
    it there, and the converter folds it after training. Before a Conv2D or DepthwiseConv2D a normalization is
    folded when that is unpadded or nothing is shifted, because the border that is padded with zeros would miss the
    shift; before a Dense always.

    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
    (2018), section 3.2, equation 14.
    """

    name = "fold_normalizations"
    purpose = "enabling"
    after = ("flatten_models", "one_dimension", "separable_convolutions", "drop_inference_no_ops")

    def edits(self, graph: Graph) -> Iterator[Edit]:
        """One edit for each normalization that can be folded."""
        for call in per_channel_calls(graph):
            source, user = graph.source(call), graph.sole_user(call)
            if _takes_from_behind(graph, source):
                yield folded_back(call, source, "quantization-aware training cannot take it behind this layer")
            elif user is not None and not follows_linear(graph, call) and _takes_from_before(graph, call, user):
                yield _folded_ahead(call, user)


def _is_linear(layer: Any) -> bool:
    return getattr(layer.activation, "__name__", "") == "linear"


def _takes_from_behind(graph: Graph, source: Call) -> bool:
    transposed = type(source.layer) is kd.keras.layers.Conv2DTranspose
    return transposed and _is_linear(source.layer) and graph.called_once(source) and graph.sole_user(source) is not None


def _takes_from_before(graph: Graph, norm: Call, user: Call) -> bool:
    layers = kd.keras.layers
    if not graph.called_once(user):
        return False
    if type(user.layer) is layers.Dense:
        return True
    is_convolution = type(user.layer) in (layers.Conv2D, layers.DepthwiseConv2D)
    if not is_convolution or user.layer.data_format != "channels_last":
        return False
    return user.layer.padding == "valid" or not factor_and_shift(norm)[1].any()


def _folded_ahead(call: Call, user: Call) -> Edit:
    layer, norm = user.layer, call.layer
    factor, shift = factor_and_shift(call)
    attribute = "depthwise_kernel" if hasattr(layer, "depthwise_kernel") else "kernel"
    kernel = getattr(layer, attribute).numpy().astype(np.float64)
    bias = (layer.bias.numpy() if layer.use_bias else 0.0) + _response(layer, kernel, shift)
    # The input channels of a group are in the axis before the last; the groups, in the last.
    groups = getattr(layer, "groups", 1)
    by_input = np.repeat(factor.reshape(groups, -1), kernel.shape[-1] // groups, axis=0).T
    scaled = kernel * (factor[:, None] if attribute == "depthwise_kernel" else by_input)
    part = Part(Part.copy(layer, use_bias=True).layer, {attribute: scaled, "bias": bias})
    own = f"{layer.name}/{attribute}"
    return Edit(
        became={norm.name: (layer.name,)},
        reason="quantization-aware training takes it right behind a linear convolution or Dense only",
        builders={call: same, user: part},
        moves={own: Move(own, SCALED), **merged(norm, own, f"{layer.name}/bias")},
    )


def _response(layer: Any, kernel: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """What `layer` makes of an input that is `shift` everywhere, `[output channels]`."""
    if hasattr(layer, "depthwise_kernel"):
        return (kernel.sum(axis=(0, 1)) * shift[:, None]).reshape(-1)
    taps = kernel.sum(axis=(0, 1)) if kernel.ndim == 4 else kernel
    groups = getattr(layer, "groups", 1)
    by_input = np.repeat(shift.reshape(groups, -1), taps.shape[-1] // groups, axis=0).T
    return (taps * by_input).sum(axis=0)
