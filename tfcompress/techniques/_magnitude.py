"""The Keras half of pruning: tfmot's wrapper with exact masks.

tfmot rounds the number of weights it keeps and keeps ties, so that less than the asked share may be zero, and
updates at multiples of a frequency, so that a schedule may never reach its end. Here the share asked for is the
share reached, and the last update is at the schedule's end.
"""

from __future__ import annotations

from typing import Any

from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl, pruning_wrapper
from tensorflow_model_optimization.python.core.sparsity.keras.pruning_schedule import PruningSchedule

from tfcompress import keras_door as kd
from tfcompress.schedules import Schedule


class StepSchedule(PruningSchedule):
    """A plain `step -> sparsity` function as a tfmot schedule that updates at `begin`, each `frequency`, and `end`.

    Args:
        sparsity: the function.
        begin: first step at which masks are made; tfmot counts steps from 1.
        end: last such step; masks stay as they are afterwards.
        frequency: steps between updates.
    """

    def __init__(self, sparsity: Schedule, begin: int, end: int, frequency: int) -> None:
        self.sparsity, self.begin, self.end, self.frequency = sparsity, begin, end, frequency

    def __call__(self, step: Any) -> tuple[Any, Any]:
        tf = kd.tf
        inside = (step >= self.begin) & (step <= self.end)
        due = ((step - self.begin) % self.frequency == 0) | (step == self.end)
        return inside & due, tf.cast(self.sparsity(tf.cast(step, tf.float32)), tf.float32)

    def get_config(self) -> dict[str, Any]:
        """Functions have no configuration; a wrapped model is prepared anew, not loaded."""
        return {"class_name": type(self).__name__, "config": {}}


class ExactPruning(pruning_impl.Pruning):
    """Masks that zero exactly the smallest magnitudes: ``ceil(sparsity * count)`` of them."""

    def _update_mask(self, weights: Any) -> tuple[Any, Any]:
        tf = kd.tf
        sparsity = self._pruning_schedule(self._step_fn())[1]
        magnitude = tf.reshape(tf.abs(weights), [-1])
        count = tf.size(magnitude)
        # The small constant keeps 0.95 * 500, which float32 puts above 475, from costing one weight more.
        zeros = tf.cast(tf.math.ceil(sparsity * tf.cast(count, tf.float32) - 1e-3), tf.int32)
        kept = tf.math.top_k(magnitude, k=count - zeros)
        mask = tf.scatter_nd(kept.indices[:, None], tf.ones_like(kept.values), [count])
        threshold = tf.reduce_min(tf.concat([kept.values, [magnitude.dtype.max]], 0))
        return threshold, tf.reshape(mask, tf.shape(weights))

    def _update_mask_sparsity_m_by_n(self, weights: Any, m_by_n: tuple[int, int] = (2, 4)) -> Any:
        """The mask that zeroes the m smallest of every n consecutive input channels."""
        tf = kd.tf
        zeros, group = m_by_n
        axis = weights.shape.rank - 2
        order = [a for a in range(weights.shape.rank) if a != axis] + [axis]
        rows = tf.reshape(tf.transpose(tf.abs(weights), order), [-1, group])
        kept = tf.math.top_k(rows, k=group - zeros).indices
        mask = tf.reduce_sum(tf.one_hot(kept, group, dtype=weights.dtype), axis=1)
        moved = tf.reshape(mask, [weights.shape[a] for a in order])
        return tf.transpose(moved, [order.index(a) for a in range(weights.shape.rank)])


class PruneExactly(pruning_wrapper.PruneLowMagnitude):
    """tfmot's `PruneLowMagnitude` with `ExactPruning`; the same arguments."""

    def build(self, input_shape: Any) -> None:
        """Create masks, thresholds and the step counter beside the layer's own weights."""
        super().build(input_shape)
        self.pruning_obj = ExactPruning(
            training_step_fn=lambda: self.pruning_step,
            pruning_vars=self.pruning_vars,
            pruning_schedule=self.pruning_schedule,
            block_size=self.block_size,
            block_pooling_type=self.block_pooling_type,
            sparsity_m_by_n=self.sparsity_m_by_n,
        )

    def apply_mask(self) -> None:
        """Set the masked weights to zero; the optimizer's last step may have moved them."""
        for weight, mask, _ in self.pruning_vars:
            weight.assign(weight * mask)
