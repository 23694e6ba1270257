"""What it costs a model when some of its residual blocks are their shortcuts, on calibration samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.blocks import ResidualBlocks
from tfcompress.models.rewrites._graph import Builder, Call, Replay
from tfcompress.techniques._block_choice import Score
from tfcompress.techniques._loss_gradients import batches, loss_of
from tfcompress.techniques.base import StepPlan

Importance = Literal["loss", "output_change", "random"]


def score_of(method: Importance, blocks: ResidualBlocks, plan: StepPlan, *, where: str) -> Score:
    """The score of a model without some of its blocks; the higher, the more they matter.

    Args:
        method: ``loss``, the mean of the task's loss; ``output_change``, the norm of the change of the outputs, in
            units of that of the outputs themselves; ``random``, a number by block from the step's seed.
        blocks: of the model, whose layers are called.
        plan: of the step; its calibration samples, with their targets and the loss for `loss`.
        where: the step's name, for messages.

    Raises:
        RecipeError: the data does not have what `method` needs.
    """
    if method == "random":
        drawn = dict(zip(blocks.sums, np.random.default_rng(plan.seed).random(len(blocks.sums)), strict=True))
        return lambda removed: sum(drawn[name] for name in removed)
    outputs = _outputs(blocks)
    if method == "loss":
        loss = loss_of(plan, where, "importance loss", "another importance, such as output_change")
        return lambda removed: _mean_loss(loss, outputs, plan, removed)
    whole = [outputs(inputs, ()).numpy() for inputs, _ in batches(plan)]
    size = np.sqrt(sum(float((values**2).sum()) for values in whole)) or 1.0

    def change(removed: frozenset[str]) -> float:
        apart = sum(
            float(((outputs(inputs, removed).numpy() - values) ** 2).sum())
            for (inputs, _), values in zip(batches(plan), whole, strict=True)
        )
        return float(np.sqrt(apart)) / size

    return change


def _mean_loss(loss: Callable[..., Any], outputs: Callable[..., Any], plan: StepPlan, removed: frozenset[str]) -> float:
    total = 0.0
    for inputs, targets in batches(plan):
        total += float(kd.tf.reduce_mean(loss(targets, outputs(inputs, removed)))) * len(inputs)
    return total / len(plan.calibration)


def _outputs(blocks: ResidualBlocks) -> Callable[..., Any]:
    """A function of inputs and the names of blocks: the model's output without these.

    Branches are multiplied by 1 or 0 where they are added, so that one traced function serves every choice.
    """
    tf, graph = kd.tf, blocks.graph
    layers: Mapping[int, Any] = {id(call.layer): call.layer for call in graph.calls}

    @tf.function(reduce_retracing=True)
    def run(inputs: Any, factors: Any) -> Any:
        builders: dict[Call, Builder] = {
            call: _gated(blocks.shortcut(name), factors[index])
            for index, (name, call) in enumerate(blocks.sums.items())
        }
        return tf.nest.flatten(Replay(dict(layers), builders).run(graph, [inputs], training=False))[0]

    return lambda inputs, removed: run(inputs, tf.constant([float(name not in removed) for name in blocks.sums]))


def _gated(shortcut: int, factor: Any) -> Builder:
    def total(*terms: Any) -> Any:
        branches = kd.tf.add_n([term for index, term in enumerate(terms) if index != shortcut])
        return terms[shortcut] + kd.tf.cast(factor, branches.dtype) * branches

    return total
