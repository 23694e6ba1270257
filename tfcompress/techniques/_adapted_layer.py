"""The Keras half of adapters: a layer whose kernel stays, and whose change is a product of two small matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.techniques._substitution import Substitution

tf = kd.tf


class AdaptedLayer(Substitution):
    """A layer with the kernel ``W + alpha / rank * (A B) * mask``, of which A and B are trained.

    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2022), section 4.1: B begins as zeros, so that the
    layer begins as it was. Of a convolution A is a kernel that gives `rank` channels, and B what stands behind it for
    every pixel.

    Args:
        layer: a Keras layer that is built, with a `kernel` `[..., inputs, outputs]`.
        rank: columns of A and rows of B.
        alpha: see the formula.
        keep_zeros: leave zero what is zero in the kernel now (the mask); else there is no mask.
    """

    def __init__(self, layer: Any, *, rank: int, alpha: float, keep_zeros: bool) -> None:
        super().__init__(layer, "kernel", "adapted")
        self.rank = rank
        self.alpha = alpha
        self.mask = tf.cast(self.variable != 0, self.variable.dtype) if keep_zeros else None

    def build(self, input_shape: Any) -> None:
        """Create A and B, all zero."""
        super().build(input_shape)
        *inputs, outputs = self.variable.shape
        self.down = self.add_weight(name="down", shape=(*inputs, self.rank), initializer="zeros")
        self.up = self.add_weight(name="up", shape=(self.rank, outputs), initializer="zeros")

    def start(self, rng: np.random.Generator) -> None:
        """Draw A from a normal distribution that keeps the size of what passes."""
        inputs = np.prod(self.down.shape[:-1])
        self.down.assign(rng.normal(0, 1 / np.sqrt(inputs), self.down.shape))

    def effective(self) -> Any:
        """The kernel with its change, differentiable in A and B."""
        change = tf.tensordot(self.down, self.up, 1) * (self.alpha / self.rank)
        kernel = tf.convert_to_tensor(self.variable)
        return kernel + (change if self.mask is None else change * self.mask)
