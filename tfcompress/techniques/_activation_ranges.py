"""Ranges of activations in quantization-aware training: observed, or learned by gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorflow_model_optimization.python.core.quantization.keras import quantizers

from tfcompress import keras_door as kd
from tfcompress.convert.converter import is_for_file
from tfcompress.techniques._ranges import Extremes, Histogram

_ASIDE = 1e-3
"""Of a step; averages of less than 500 integers that are no halves lie farther from one."""
_NARROWEST = 1e-6
"""What is left of a range whose learned ends would meet."""


class ActivationQuantizer(quantizers.MovingAverageQuantizer):
    """tfmot's moving-average 8-bit quantizer that can first observe calibration data.

    While there are `observers`, values pass unchanged, and the observer of their range is shown them.
    """

    def __init__(self) -> None:
        super().__init__(num_bits=8, per_axis=False, symmetric=False, narrow_range=False)
        self.observers: Mapping[Any, Extremes | Histogram] | None = None
        """By the reference of a range's lower variable; None (the default) to quantize."""
        self.moves = True
        """Whether the range moves with what it sees in training. Defaults to True."""

    def __call__(self, inputs: Any, training: bool, weights: dict[str, Any], **kwargs: Any) -> Any:
        del kwargs
        if self.observers is None:
            return self.rounded(inputs, training, weights)
        observer = self.observers.get(weights["min_var"].ref())
        if observer is not None:
            observer.observe(inputs.numpy())
        return inputs

    def rounded(self, inputs: Any, training: bool, ranges: dict[str, Any]) -> Any:
        """`inputs` rounded within the range."""
        return super().__call__(inputs, training and self.moves, ranges)

    def get_config(self) -> dict[str, Any]:
        """Nothing to configure."""
        return {}


def step_of(ranges: Mapping[str, Any]) -> float:
    """The distance between two of the 256 steps of a range, given by its variables."""
    low, high = _ends(ranges["min_var"], ranges["max_var"])
    return float(high - low) / 255


def _ends(least: Any, most: Any) -> tuple[Any, Any]:
    """The ends of a range that holds zero and is not empty."""
    low = kd.tf.minimum(least, 0.0)
    return low, kd.tf.maximum(kd.tf.maximum(most, 0.0), low + _NARROWEST)


class BorrowedRangeQuantizer(ActivationQuantizer):
    """Rounds averages as TFLite does: in the range of what they are of, and halves away from zero.

    It neither shows the other quantizer what it rounds nor moves it.

    Args:
        lender: the other one.
    """

    def __init__(self, lender: ActivationQuantizer) -> None:
        super().__init__()
        self._lender = lender._lender if isinstance(lender, BorrowedRangeQuantizer) else lender

    def __call__(self, inputs: Any, training: bool, weights: dict[str, Any], **kwargs: Any) -> Any:
        del training, kwargs
        return inputs if self.observers is not None else self.rounded(inputs, False, weights)

    def rounded(self, inputs: Any, training: bool, ranges: dict[str, Any]) -> Any:
        """`inputs` rounded within the lender's range."""
        del training
        # The file's own operator sees to its halves.
        return self._lender.rounded(inputs if is_for_file() else away_from_zero_point(inputs, ranges), False, ranges)


def away_from_zero_point(values: Any, ranges: Mapping[str, Any]) -> Any:
    """`values` a thousandth of a step farther from the integer zero, by which a half becomes one or the other.

    The average of a few integers is often a half. TFLite's AVERAGE_POOL_2D rounds it away from the integer zero, which
    is in the middle of the 256 steps, and fake quantization always upwards: without it, averages behind a ReLU, which
    are below the middle, would come out half a step too large wherever they are halves.
    """
    tf = kd.tf
    low, high = _ends(ranges["min_var"], ranges["max_var"])
    step = (high - low) / 255
    integers = values / step + tf.round(-low / step) - 128
    # The outermost are no halves, and beyond the ends gradients stop.
    within = tf.cast(tf.abs(integers + 0.5) < 127.25, values.dtype)
    return values + tf.stop_gradient(step * _ASIDE * tf.sign(integers) * within)


class LearnedRangeQuantizer(ActivationQuantizer):
    """An 8-bit quantizer whose two ends are trained with the weights, from where calibration put them."""

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """The two ends, as variables to be trained."""
        del tensor_shape

        def end(which: str) -> Any:
            return layer.add_weight(f"{name}_{which}", shape=[], initializer="zeros", trainable=True)

        return {"min_var": end("min"), "max_var": end("max")}

    def rounded(self, inputs: Any, training: bool, ranges: dict[str, Any]) -> Any:
        """`inputs` rounded within the learned range."""
        del training
        return round_within(inputs, ranges["min_var"], ranges["max_var"])


def round_within(values: Any, least: Any, most: Any) -> Any:
    """`values` rounded to the 256 steps from `least` to `most`, one of which is zero, with gradients for both ends.

    Values beyond an end move that end, as in Choi et al., "PACT" (2018), equation 3; the rounding error of those
    within moves both, as in Bhalgat et al., "LSQ+" (2020), and Jain et al., "Trained Quantization Thresholds" (2019),
    so that a range too wide becomes narrower without PACT's penalty on it. The zero point is rounded to a whole step
    here as in the file, and left out of the gradient. An end at zero stays: what is never negative needs no steps
    below.

    Args:
        values: float `[batch, ...]`.
        least: the lower end, `[]`; taken for 0 where it is above.
        most: the upper end, `[]`; taken for 0 where it is below.
    """
    tf = kd.tf

    @tf.custom_gradient
    def rounded(x: Any, least: Any, most: Any) -> Any:
        low, high = _ends(least, most)
        result = tf.quantization.fake_quant_with_min_max_vars(x, low, high, num_bits=8)

        def gradients(upstream: Any) -> tuple[Any, Any, Any]:
            inside, below, above = tf.quantization.fake_quant_with_min_max_vars_gradient(
                upstream, x, low, high, num_bits=8
            )
            # (result - x) / step is how a value within moves with the step, of which the range has 255.
            wider = tf.reduce_sum(inside * (result - x)) / (high - low)
            return inside, tf.where(least < 0, below - wider, 0.0), tf.where(most > 0, above + wider, 0.0)

        return result, gradients

    return rounded(values, tf.convert_to_tensor(least), tf.convert_to_tensor(most))
