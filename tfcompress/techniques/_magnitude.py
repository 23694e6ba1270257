"""The Keras half of pruning: tfmot's wrapper with exact masks.

tfmot rounds the number of weights it keeps and keeps ties, so that less than the asked share may be zero, and
updates at multiples of a frequency, so that a schedule may never reach its end. Here the share asked for is the
share reached, and the last update is at the schedule's end. Masks by the magnitudes of one layer are made within the
training step, as tfmot's; a wrapper without a schedule has them made between the steps (`_mask_updates`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl, pruning_wrapper
from tensorflow_model_optimization.python.core.sparsity.keras.pruning_schedule import PruningSchedule

from tfcompress import keras_door as kd
from tfcompress.schedules import Schedule
from tfcompress.techniques._masks import fewest_zeros


class StepSchedule(PruningSchedule):
    """A plain `step -> sparsity` function as a tfmot schedule that updates at `begin`, each `frequency`, and `end`.

    The function is asked beforehand, once for each update, so that it may be any Python.

    Args:
        sparsity: the function; `values` are what it gave, float64.
        begin: first step at which masks are made; tfmot counts steps from 1.
        end: last such step; masks stay as they are afterwards.
        frequency: steps between updates.
    """

    def __init__(self, sparsity: Schedule, begin: int, end: int, frequency: int) -> None:
        self.begin, self.end, self.frequency = begin, end, frequency
        self.values = np.array([sparsity(step) for step in (*range(begin, end, frequency), end)], np.float64)

    def __call__(self, step: Any) -> tuple[Any, Any]:
        tf = kd.tf
        inside = (step >= self.begin) & (step <= self.end)
        due = ((step - self.begin) % self.frequency == 0) | (step == self.end)
        return inside & due, tf.gather(self.values, self.update_at(step))

    def update_at(self, step: Any) -> Any:
        """The index in `values` of the update at `step`, or of the nearest."""
        update = (step - self.begin + self.frequency - 1) // self.frequency
        return kd.tf.clip_by_value(update, 0, len(self.values) - 1)

    def get_config(self) -> dict[str, Any]:
        """Functions have no configuration; a wrapped model is prepared anew, not loaded."""
        return {"class_name": type(self).__name__, "config": {}}


class ExactPruning(pruning_impl.Pruning):
    """Masks that zero the smallest magnitudes: as few as make their share at least the sparsity asked for.

    Of equal magnitudes the later ones in the flattened weight go first.
    """

    def _update_mask(self, weights: Any) -> tuple[Any, Any]:
        tf = kd.tf
        magnitude = tf.reshape(tf.abs(weights), [-1])
        count = weights.shape.num_elements()
        zeros = tf.gather(
            fewest_zeros(self._pruning_schedule.values, count), self._pruning_schedule.update_at(self._step_fn())
        )
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


class GivenMasks(pruning_impl.Pruning):
    """Masks that are made outside the training step, and applied in it."""

    def conditional_mask_update(self) -> Any:
        """No mask is made here."""
        return kd.tf.no_op()


class PruneExactly(pruning_wrapper.PruneLowMagnitude):
    """tfmot's `PruneLowMagnitude` of one weight with `ExactPruning`; its arguments, and two more.

    Args:
        layer: to be pruned.
        pruning_schedule: when masks are made in the training step; None where they are made by `renew` alone.
        gathers_movement: whether `movement` is gathered as the layer trains.
        **arguments: tfmot's.
    """

    def __init__(
        self, layer: Any, *, pruning_schedule: Any = None, gathers_movement: bool = False, **arguments: Any
    ) -> None:
        # tfmot's wrapper needs some schedule.
        super().__init__(layer, **arguments, **({"pruning_schedule": pruning_schedule} if pruning_schedule else {}))
        self.movement = None
        self._masks_are_given, self._gathers_movement = pruning_schedule is None, gathers_movement

    def build(self, input_shape: Any) -> None:
        """Create masks, thresholds and the step counter beside the layer's own weights."""
        super().build(input_shape)
        self.pruning_obj = (GivenMasks if self._masks_are_given else ExactPruning)(
            training_step_fn=lambda: self.pruning_step,
            pruning_vars=self.pruning_vars,
            pruning_schedule=self.pruning_schedule,
            block_size=self.block_size,
            block_pooling_type=self.block_pooling_type,
            sparsity_m_by_n=self.sparsity_m_by_n,
        )
        if self._gathers_movement:
            self.movement = self.add_weight(
                "movement",
                shape=self.weight.shape,
                initializer="zeros",
                trainable=False,
                aggregation=kd.tf.VariableAggregation.MEAN,
            )

    def call(self, inputs: Any, training: Any = None, **kwargs: Any) -> Any:
        """The layer's own output."""
        if self.movement is None or training is not True:
            return super().call(inputs, training=training, **kwargs)
        # What the layer reads stands in its dictionary; its attributes are tracked, and the variable must stay so.
        attributes, weight = vars(self.layer), self.weight
        name = next(name for name, value in attributes.items() if value is weight)
        attributes[name] = self._watched(weight)
        try:
            return super().call(inputs, training=training, **kwargs)
        finally:
            attributes[name] = weight

    def _watched(self, weight: Any) -> Any:
        """The masked weight, whose gradients add to `movement` on their way to the weight."""
        mask = kd.tf.convert_to_tensor(self.mask)

        @kd.tf.custom_gradient
        def watched(values: Any) -> tuple[Any, Any]:
            masked = values * mask

            def gathered(gradient: Any) -> Any:
                with kd.tf.control_dependencies([self.movement.assign_sub(masked * gradient)]):
                    # Not masked, as without this: optimizers know what weights that are zero would gain.
                    return kd.tf.identity(gradient)

            return masked, gathered

        return watched(kd.tf.convert_to_tensor(weight))

    @property
    def weight(self) -> Any:
        """The variable that is pruned."""
        return self.pruning_vars[0][0]

    @property
    def mask(self) -> Any:
        """The variable that says what of it stays, 1, and what does not, 0."""
        return self.pruning_vars[0][1]

    def make_masks(self) -> None:
        """Make the masks of the first step now, of a layer that is not going to be trained."""
        self.pruning_step.assign(1)
        self.pruning_obj.conditional_mask_update()

    def renew(self, mask: np.ndarray) -> None:
        """Take `mask`, in the shape of the weight; what was zero by the last one begins at zero."""
        self.apply_mask()
        self.mask.assign(mask)
        self.apply_mask()

    def apply_mask(self) -> None:
        """Set the masked weights to zero; the optimizer's last step may have moved them."""
        for weight, mask, _ in self.pruning_vars:
            weight.assign(weight * mask)
