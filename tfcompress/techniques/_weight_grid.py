"""Weights on a grid while they are trained: which levels, how far apart, and what must be kept meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from tensorflow_model_optimization.python.core.quantization.keras import quantizers

from tfcompress import keras_door as kd
from tfcompress.techniques._levels import Levels, magnitudes

_TERNARY_THRESHOLD = 0.7


@dataclass(frozen=True)
class WeightGrid:
    """How one weight is quantized in training, and what it must keep meanwhile.

    Args:
        bits: width of the grid, 1...8.
        container_bits: width of the stored integers, 4 or 8; the scale is laid out for it.
        channel_axes: how many of the last axes number the channels, each with a scale of its own; 0 for one scale.
        shared_range: every channel gets the range of the whole tensor, so that equal values become equal integers.
        levels: which integers the grid has, see `tfcompress.techniques._levels`.
        learned_step: the distance between levels is a variable that is trained, instead of following from the values.
        settled: the values are on the grid already, and only its scale is told.
        zero_mask: 1 where the weight may move, 0 where it stays zero; the weight's shape.
        cluster_index: which cluster each value belongs to, int32 in the weight's shape.
    """

    bits: int = 8
    container_bits: int = 8
    channel_axes: int = 0
    shared_range: bool = False
    levels: Levels = "uniform"
    learned_step: bool = False
    settled: bool = False
    zero_mask: np.ndarray | None = None
    cluster_index: np.ndarray | None = None

    @cached_property
    def magnitudes(self) -> tuple[int, ...]:
        """The sizes of its integers, in order."""
        return magnitudes(self.levels, self.bits)

    @property
    def top(self) -> int:
        """Its largest integer."""
        return self.magnitudes[-1]


class WeightQuantizer(quantizers.Quantizer):
    """Symmetric fake quantization of a weight on a `WeightGrid`.

    The grid reaches to the largest magnitude of the channel (Jacob et al. 2018, section 3.1, with a zero point of 0),
    unless its step is learned or its levels have a rule of their own. It is emulated inside the integer container that
    will hold it: an outer range of scale * (2**(container_bits - 1) - 1) makes the converter store exactly these levels
    at every width. While `resting`, values pass unchanged.
    """

    def __init__(self, grid: WeightGrid) -> None:
        self.grid = grid
        self.resting = False
        self.log_step: Any = None
        """The logarithm of each learned step, `[]` or `[channels]`; None where it is not learned."""

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """The learned step; no variables where it is that of the current values."""
        if not self.grid.learned_step:
            return {}
        axes = self.grid.channel_axes
        shape = [int(np.prod(tensor_shape[-axes:]))] if axes and not self.grid.shared_range else []
        self.log_step = layer.add_weight(f"{name}_log_step", shape=shape, initializer="zeros", trainable=True)
        return {"log_step": self.log_step}

    def __call__(self, inputs: Any, training: bool, weights: dict[str, Any], **kwargs: Any) -> Any:
        del training, weights, kwargs
        return inputs if self.resting else fake_quantize(constrain(inputs, self.grid), self.grid, self.log_step)

    def start(self, weight: Any) -> None:
        """Give the learned step the value to start from, for what `weight` holds."""
        if self.grid.learned_step:
            self.log_step.assign(kd.tf.math.log(first_step(constrain(weight, self.grid), self.grid)))

    def settle(self, weight: Any) -> None:
        """Write what training kept into `weight` itself; afterwards only its scale is told, and uniform ranges round.

        The converter sees then no more than the operation that it knows.
        """
        grid, values = self.grid, constrain(weight, self.grid)
        on_grid = grid.learned_step or grid.levels != "uniform"
        weight.assign(fake_quantize(values, grid, self.log_step) if on_grid else values)
        self.grid = replace(grid, zero_mask=None, cluster_index=None, settled=True)

    def steps(self, weight: Any) -> np.ndarray:
        """The distance between two levels of `weight`, `[1]`, or `[channels]` in the order of the layer's outputs."""
        step = level_size(weight, self.grid) if self.log_step is None else kd.tf.exp(self.log_step)
        return np.ravel(step.numpy())

    def get_config(self) -> dict[str, Any]:
        """The grid without the arrays, which belong to the training and not to the layer."""
        grid = self.grid
        return {
            "bits": grid.bits,
            "container_bits": grid.container_bits,
            "channel_axes": grid.channel_axes,
            "shared_range": grid.shared_range,
            "levels": grid.levels,
            "learned_step": grid.learned_step,
            "settled": grid.settled,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WeightQuantizer:
        """The inverse of `get_config`."""
        return cls(WeightGrid(**config))


def constrain(weight: Any, grid: WeightGrid) -> Any:
    """`weight` with the zeros and shared values that `grid` asks to keep.

    Each shared value is the mean of its cluster, so its members receive the mean gradient: they move together
    under any element-wise optimizer, and stay equal.
    """
    tf = kd.tf
    if grid.cluster_index is not None:
        index = tf.constant(grid.cluster_index.ravel())
        clusters = int(grid.cluster_index.max()) + 1
        centroids = tf.math.unsorted_segment_mean(tf.reshape(weight, [-1]), index, clusters)
        weight = tf.reshape(tf.gather(centroids, index), tf.shape(weight))
    if grid.zero_mask is not None:
        weight = weight * tf.constant(grid.zero_mask, weight.dtype)
    return weight


def fake_quantize(weight: Any, grid: WeightGrid, log_step: Any = None) -> Any:
    """`weight` rounded to the levels of `grid`; same shape.

    Gradients pass straight through to the weight. Where the step is learned, they end beyond the largest level, and
    the step gets its own (Esser et al., "Learned Step Size Quantization", 2020, equations 3 and 5).

    Args:
        weight: float, in the layout of Keras.
        grid: its levels.
        log_step: the logarithm of the learned step, `[]` or `[channels]`; None where it is not learned.
    """
    tf = kd.tf
    weight = tf.convert_to_tensor(weight)
    by_channel = _channels_last(weight, grid)
    if log_step is None:
        step = _step(by_channel, grid)
    else:
        step = _learned(log_step, grid, weight.shape.num_elements() // max(1, log_step.shape.num_elements()))
    if not grid.settled:
        if log_step is not None:
            ratio = tf.clip_by_value(by_channel / step, -grid.top, grid.top)
            by_channel = step * (ratio + tf.stop_gradient(_nearest(ratio, grid) - ratio))
        elif grid.levels == "ternary":
            by_channel += tf.stop_gradient(_ternary(by_channel, step, grid) - by_channel)
        elif grid.levels != "uniform":
            by_channel += tf.stop_gradient(step * _nearest(by_channel / step, grid) - by_channel)
    return tf.reshape(_in_container(by_channel, step, grid), weight.shape)


def rounded_as_trained(values: np.ndarray, grid: WeightGrid) -> np.ndarray:
    """`values` rounded to `grid` as its training would begin, a step that is learned at its first."""
    tf = kd.tf
    weight = constrain(tf.constant(values), grid)
    log_step = tf.math.log(first_step(weight, grid)) if grid.learned_step else None
    return fake_quantize(weight, grid, log_step).numpy()


def first_step(weight: Any, grid: WeightGrid) -> Any:
    """The step that a learned one starts from, `[]` or `[channels]`.

    ``2 * mean(|w|) / sqrt(Q_P)`` as Esser et al. 2020, section 2.1, but never more than the largest magnitude needs,
    which at 8 bits is less; three and two levels start from their own rule. Zeros that are to stay have no part in it.
    """
    tf = kd.tf
    by_channel = _channels_last(weight, grid)
    fitted = _step(by_channel, grid)
    if grid.shared_range and grid.channel_axes:
        fitted = fitted[0]
    if grid.levels in ("ternary", "binary"):
        return fitted
    magnitude = tf.abs(by_channel)
    axes = None if fitted.shape.rank == 0 else list(range(by_channel.shape.rank - 1))
    typical = 2 * _mean_of_nonzero(magnitude, axes) / grid.top**0.5
    return tf.where(typical > 0, tf.minimum(typical, fitted), fitted)


def level_size(weight: Any, grid: WeightGrid) -> Any:
    """The distance between neighbouring levels of `grid` that follows from the values of `weight`, without gradients.

    One number, or one for each channel, in the shape of the weight's last `channel_axes`.
    """
    weight = kd.tf.convert_to_tensor(weight)
    by_channel = _channels_last(weight, grid)
    return kd.tf.reshape(_step(by_channel, grid), weight.shape[weight.shape.rank - grid.channel_axes :])


def _channels_last(weight: Any, grid: WeightGrid) -> Any:
    """`weight` with all channels in one last axis, as the operation wants them; as it is where there is one scale."""
    return kd.tf.reshape(weight, [*weight.shape[: -grid.channel_axes], -1]) if grid.channel_axes else weight


def _step(weight: Any, grid: WeightGrid) -> Any:
    """The distance between levels that follows from the values of `weight`, channels last; `[]` or `[channels]`."""
    tf = kd.tf
    magnitude = tf.stop_gradient(tf.abs(weight))
    whole = _fitted(magnitude, None, grid)
    # A channel or tensor of zeros has no range of its own; any positive one represents it exactly.
    whole = tf.where(whole > 0, whole, 1.0)
    if grid.channel_axes == 0:
        return whole
    own = _fitted(magnitude, list(range(weight.shape.rank - 1)), grid)
    return tf.fill(tf.shape(own), whole) if grid.shared_range else tf.where(own > 0, own, whole)


def _fitted(magnitude: Any, axes: list[int] | None, grid: WeightGrid) -> Any:
    """The best scale of three levels (Li and Liu, "Ternary Weight Networks", 2016) or of two
    (Rastegari et al., "XNOR-Net", 2016, equation 6), else that in which the largest value is the largest level."""
    tf = kd.tf
    if grid.settled:
        # The largest is the largest level by now. The rules below the converter computes for small weights only.
        return tf.reduce_max(magnitude, axes) / grid.top
    if grid.levels == "ternary":
        threshold = _TERNARY_THRESHOLD * _mean_of_nonzero(magnitude, axes, keepdims=True)
        return _mean_of_nonzero(tf.where(magnitude > threshold, magnitude, 0.0), axes)
    if grid.levels == "binary":
        return tf.reduce_mean(magnitude, axes)
    return tf.reduce_max(magnitude, axes) / grid.top


def _mean_of_nonzero(magnitude: Any, axes: list[int] | None, keepdims: bool = False) -> Any:
    tf = kd.tf
    counted = tf.math.count_nonzero(magnitude, axes, keepdims=keepdims, dtype=magnitude.dtype)
    return tf.reduce_sum(magnitude, axes, keepdims=keepdims) / tf.maximum(counted, 1)


def _ternary(weight: Any, step: Any, grid: WeightGrid) -> Any:
    """Values beyond the threshold of Li and Liu 2016 as `step` with their sign, the others as zero."""
    tf = kd.tf
    axes = list(range(weight.shape.rank - 1)) if grid.channel_axes and not grid.shared_range else None
    threshold = _TERNARY_THRESHOLD * _mean_of_nonzero(tf.abs(weight), axes, keepdims=True)
    return step * tf.sign(weight) * tf.cast(tf.abs(weight) > threshold, weight.dtype)


def _nearest(ratio: Any, grid: WeightGrid) -> Any:
    """The nearest integer of the grid to each value of `ratio`."""
    tf = kd.tf
    if grid.levels == "uniform":
        return tf.round(ratio)
    sign = tf.where(ratio < 0, -1.0, 1.0)
    sizes = np.asarray(grid.magnitudes, np.float32)
    between = (sizes[1:] + sizes[:-1]) / 2
    places = tf.searchsorted(tf.constant(between), tf.reshape(tf.abs(ratio), [-1]))
    return sign * tf.reshape(tf.gather(tf.constant(sizes), places), tf.shape(ratio))


def _learned(log_step: Any, grid: WeightGrid, values: int) -> Any:
    """The learned step, whose gradient is scaled by ``1 / sqrt(N_W * Q_P)`` (Esser et al. 2020, section 2.2).

    It is trained by its logarithm, as Jain et al., "Trained Quantization Thresholds" (2019), do: it stays
    positive, and Adam, which makes steps of the rate whatever the gradient's size, changes it in proportion. The
    gradient of the logarithm is that by which plain gradient descent would change the step as in the paper, to first
    order: that of the step, divided by the step.
    """
    tf = kd.tf

    @tf.custom_gradient
    def step(logarithm: Any) -> Any:
        value = tf.exp(logarithm)
        return value, lambda upstream: upstream / value / (values * grid.top) ** 0.5

    return step(tf.convert_to_tensor(log_step))


def _in_container(weight: Any, step: Any, grid: WeightGrid) -> Any:
    """`weight`, channels last, rounded to multiples of `step` by the operation that the converter takes it from."""
    tf = kd.tf
    outer = step * (2 ** (grid.container_bits - 1) - 1)
    kinds = {"num_bits": grid.container_bits, "narrow_range": True}
    if grid.channel_axes:
        outer = tf.broadcast_to(outer, weight.shape[-1:])
        operation = tf.quantization.fake_quant_with_min_max_vars_per_channel
    else:
        operation = tf.quantization.fake_quant_with_min_max_vars
    if not grid.learned_step:
        return operation(weight, -outer, outer, **kinds)
    # What it would count as beyond its range, by a rounding of its own, is on the largest level.
    outer = tf.stop_gradient(outer)
    return tf.grad_pass_through(lambda values: operation(values, -outer, outer, **kinds))(weight)
