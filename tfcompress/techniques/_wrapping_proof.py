"""The proof that a quantized model differs from the one it was made of by rounding alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tfcompress.models.rewrites._proof import TOLERANCE, difference
from tfcompress.techniques._fake_quant import activation_quantizers, weight_quantizers
from tfcompress.vocabulary.errors import ModelError


def prove_wrapped(quantized: Any, model: Any) -> None:
    """Run both on the same random input, nothing rounded: tfmot rebuilds a model, and may rebuild another one.

    Args:
        quantized: of `model`, by `_fake_quant.quantized`, with the quantizers of `use_calibrated_activations`.
        model: the model it was made of.

    Raises:
        ModelError: their outputs differ.
    """
    with _unrounded(quantized):
        found = difference(model, quantized)
    # Numbers that are not finite in either are for the calibration to refuse.
    if TOLERANCE < found < math.inf:
        raise ModelError(
            f"Quantizers must change a model by rounding alone. Received {model.name!r}, whose outputs differ by "
            f"{found:.2g} of the largest before anything is rounded: its layers were joined otherwise. "
            "Remedy: leave it to the converter (technique post_training with its defaults), and report the model."
        )


@contextmanager
def _unrounded(quantized: Any) -> Iterator[None]:
    """Meanwhile all quantizers of `quantized` let values pass."""
    of_activations = [quantizer for quantizer, _ in activation_quantizers(quantized)]
    of_weights = [quantizer for _, _, quantizer in weight_quantizers(quantized)]
    for quantizer in of_activations:
        quantizer.observers = {}
    for quantizer in of_weights:
        quantizer.resting = True
    try:
        yield
    finally:
        for quantizer in of_activations:
            quantizer.observers = None
        for quantizer in of_weights:
            quantizer.resting = False
