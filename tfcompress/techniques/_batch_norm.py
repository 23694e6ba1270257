"""Folding of BatchNormalization into layers whose weights are trained with one scale."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import numpy as np
from tensorflow_model_optimization.python.core.quantization.keras.graph_transformations import (
    model_transformer,
    transforms,
)


def fold_where_scales_are_shared(model: Any) -> Any:
    """`model` made anew, with every BatchNormalization right behind a linear Dense or Conv2DTranspose folded into it.

    The converter would fold a Dense's, and so quantize the trained weights again with other scales; a transposed
    convolution's it leaves as two operators. A convolution's changes only the scales of its channels, and stays.

    Args:
        model: a Sequential or Functional model of Keras' own layers, from now on the new one's: tfmot marks it.

    Returns:
        A new model with the same outputs in inference; a folded layer keeps its name.
    """
    return model_transformer.ModelTransformer(model, [_Fold()]).transform()[0]


class _Fold(transforms.Transform):
    """Jacob et al. 2018, section 3.2, equation 14: ``w * gamma / sqrt(variance + epsilon)``, and the bias likewise."""

    def pattern(self) -> Any:
        """A linear layer of one scale, and BatchNormalization behind it."""
        linear = transforms.LayerPattern("Dense|Conv2DTranspose", {"activation": "linear"})
        return transforms.LayerPattern("BatchNormalization", inputs=[linear])

    def replacement(self, match_layer: Any) -> Any:
        """The layer alone, with a bias."""
        source = match_layer.input_layers[0]
        norm, weights = _by_name(match_layer.weights), _by_name(source.weights)
        factor = norm.get("gamma", 1.0) / np.sqrt(norm["moving_variance"] + match_layer.layer["config"]["epsilon"])
        shift = norm.get("beta", 0.0) + (weights.get("bias", 0.0) - norm["moving_mean"]) * factor
        layer = copy.deepcopy(source.layer)
        layer["config"]["use_bias"] = True
        # The kernel of a transposed convolution has its outputs in the axis before the last.
        by_output = factor[:, None] if layer["class_name"] == "Conv2DTranspose" else factor
        folded = OrderedDict({"kernel:0": weights["kernel"] * by_output, "bias:0": shift})
        return transforms.LayerNode(layer, folded)


def _by_name(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.partition(":")[0]: value for name, value in weights.items()}
