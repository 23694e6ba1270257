"""Masks made between the steps of the training: by any importance, of any layers together, with regrowth.

Scores come from the weights and from gradients of the task's loss on the calibration samples, outside training, so that
they depend on nothing but the model's variables; what is gathered while it trains is a variable too. An interrupted
training goes on with the same masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.schedules import Schedule
from tfcompress.techniques._loss_gradients import BATCH, LossGradients
from tfcompress.techniques._magnitude import PruneExactly, StepSchedule
from tfcompress.techniques._masks import (
    Importance,
    Regrow,
    best_mask,
    expanded,
    fewest_zeros,
    group_mask,
    lamp,
    one_threshold,
    pooled,
)
from tfcompress.techniques.base import StepPlan
from tfcompress.vocabulary.errors import RecipeError


@dataclass(frozen=True)
class Pool:
    """Wrapped layers that share one sparsity.

    Args:
        wrappers: of the layers.
        schedule: the sparsity of them together, and when masks are made.
        least: what each of them keeps at least, in weights or blocks.
    """

    wrappers: tuple[PruneExactly, ...]
    schedule: StepSchedule
    least: tuple[int, ...]


@dataclass(frozen=True)
class MaskRule:
    """How masks are chosen.

    Args:
        importance: what tells which weights stay.
        by_lamp: whether magnitudes are made comparable between layers by the LAMP score.
        regrow: what tells which weights come back.
        regrow_share: optimizer step to the share of a layer's kept weights that makes way for others.
        block_size: of zeros that come together, `(inputs, outputs)`.
        n_of_m: `(zeros, group)`, in place of the sparsity of pools; such masks are made once.
    """

    importance: Importance
    by_lamp: bool
    regrow: Regrow
    regrow_share: Schedule
    block_size: tuple[int, int]
    n_of_m: tuple[int, int] | None


class MaskUpdates:
    """Makes the masks of one step.

    Args:
        model: the model of the wrappers.
        pools: the layers to be pruned.
        rule: how masks are chosen.
        plan: of the step.
        where: the step's name, for messages.

    Raises:
        RecipeError: gradients are needed, and the data has no labels.
    """

    def __init__(self, model: Any, pools: Sequence[Pool], rule: MaskRule, plan: StepPlan, *, where: str) -> None:
        self._pools, self._rule, self._where = tuple(pools), rule, where
        self._wrappers = [wrapper for pool in pools for wrapper in pool.wrappers]
        self._gradients: LossGradients | None = None
        if rule.importance in ("gradient", "fisher") or rule.regrow == "gradient":
            by_importance = rule.importance in ("gradient", "fisher")
            self._gradients = LossGradients(
                model,
                [wrapper.weight for wrapper in self._wrappers],
                plan,
                where=where,
                what=f"importance {rule.importance}" if by_importance else "regrow gradient",
                instead="importance magnitude" if by_importance else "regrow momentum",
            )
        rng = np.random.default_rng(plan.seed)
        self._chances = [rng.random(w.weight.shape) for w in self._wrappers] if rule.importance == "random" else None

    def callback(self) -> Any:
        """The Keras callback that makes the masks when they are due."""
        return _MakesMasks(self)

    def due(self, step: int) -> bool:
        """Whether masks are made before the optimizer step `step`, from 1."""
        return step == 1 if self._rule.n_of_m else bool(self._pools[0].schedule(kd.tf.constant(step, kd.tf.int64))[0])

    @property
    def step(self) -> int:
        """The optimizer steps done."""
        return max(0, int(self._wrappers[0].pruning_step.numpy()))

    def make(self, step: int, optimizer: Any = None) -> None:
        """Make the masks of `step`.

        Args:
            step: of the optimizer, from 1.
            optimizer: that trains the model; its momentum is needed to regrow by it.
        """
        for wrapper in self._wrappers:
            wrapper.apply_mask()
        scores = dict(zip(self._wrappers, self._scores(), strict=True))
        if self._rule.n_of_m:
            for wrapper, own in scores.items():
                wrapper.renew(group_mask(own, *self._rule.n_of_m))
            return
        block = self._rule.block_size
        pooled_scores = {wrapper: pooled(own, block) for wrapper, own in scores.items()}
        share = float(self._rule.regrow_share(step))
        growth = dict(zip(self._wrappers, self._growth(optimizer), strict=True)) if share > 0 else {}
        for pool in self._pools:
            for wrapper, kept in self._counts(pool, pooled_scores, step).items():
                zeros_now = np.count_nonzero(pooled(wrapper.mask.numpy(), block) == 0)
                # Weights that were never masked have nothing to come back from.
                regrown = min(int(share * kept), zeros_now)
                grown = pooled(growth[wrapper], block) if regrown else None
                wrapper.renew(expanded(best_mask(pooled_scores[wrapper], kept, grown, regrown), block))

    def _counts(self, pool: Pool, scores: dict[Any, np.ndarray], step: int) -> dict[Any, int]:
        """How many weights or blocks each wrapper of `pool` keeps at `step`."""
        sizes = [scores[wrapper].size for wrapper in pool.wrappers]
        sparsity = pool.schedule.values[int(pool.schedule.update_at(step))]
        kept = sum(sizes) - int(fewest_zeros(sparsity, sum(sizes)))
        if len(pool.wrappers) == 1:
            return {pool.wrappers[0]: kept}
        competing = [lamp(scores[w]) if self._rule.by_lamp else scores[w] for w in pool.wrappers]
        return dict(zip(pool.wrappers, one_threshold(competing, kept, pool.least), strict=True))

    def _scores(self) -> list[np.ndarray]:
        """How much each weight matters, float64 in its shape."""
        weights = [wrapper.weight.numpy().astype(np.float64) for wrapper in self._wrappers]
        found = _SCORES[self._rule.importance](self, weights)
        if self._rule.regrow == "none" or self._rule.importance == "magnitude":
            return found
        # Weights come back by the measure for that alone; zeros have no magnitude anyway.
        active = [wrapper.mask.numpy() != 0 for wrapper in self._wrappers]
        return [np.where(mask, own, -np.inf) for mask, own in zip(active, found, strict=True)]

    def _growth(self, optimizer: Any) -> list[np.ndarray]:
        if self._rule.regrow == "momentum":
            return [np.abs(momentum_of(optimizer, w.weight, self._where)) for w in self._wrappers]
        return [np.abs(gradient) for gradient in self._gradients.mean(kd.tf.identity)]

    def _by_magnitude(self, weights: list[np.ndarray]) -> list[np.ndarray]:
        return [np.abs(weight) for weight in weights]

    def _by_gradient(self, weights: list[np.ndarray]) -> list[np.ndarray]:
        return [np.abs(w) * g for w, g in zip(weights, self._gradients.mean(kd.tf.abs, BATCH), strict=True)]

    def _by_fisher(self, weights: list[np.ndarray]) -> list[np.ndarray]:
        return [w**2 * g for w, g in zip(weights, self._gradients.mean(kd.tf.square, 1), strict=True)]

    def _by_movement(self, _: list[np.ndarray]) -> list[np.ndarray]:
        return [wrapper.movement.numpy().astype(np.float64) for wrapper in self._wrappers]

    def _by_chance(self, _: list[np.ndarray]) -> list[np.ndarray]:
        return self._chances


_SCORES: dict[str, Callable[[MaskUpdates, list[np.ndarray]], list[np.ndarray]]] = {
    "magnitude": MaskUpdates._by_magnitude,
    "gradient": MaskUpdates._by_gradient,
    "fisher": MaskUpdates._by_fisher,
    "movement": MaskUpdates._by_movement,
    "random": MaskUpdates._by_chance,
}


class _MakesMasks(kd.keras.callbacks.Callback):
    """Asks before every step whether masks are due."""

    def __init__(self, updates: MaskUpdates) -> None:
        super().__init__()
        self._updates = updates

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Make the masks of the step that comes."""
        del batch, logs
        step = self._updates.step + 1
        if self._updates.due(step):
            self._updates.make(step, self.model.optimizer)


def momentum_of(optimizer: Any, variable: Any, where: str) -> np.ndarray:
    """The moving mean of a variable's gradients that an optimizer keeps.

    Raises:
        RecipeError: it keeps none.
    """
    # Loss scaling is around the optimizer that moves weights.
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    momentums = getattr(optimizer, "_momentums", None) or getattr(optimizer, "momentums", None)
    if not momentums:
        raise RecipeError(
            f"{where}: regrow momentum needs an optimizer that keeps one. Received: {type(optimizer).__name__}. "
            "Remedy: fit.optimizer adam, adamw or sgd, or regrow gradient."
        )
    return momentums[optimizer._index_dict[optimizer._var_key(variable)]].numpy()
