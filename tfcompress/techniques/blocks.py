"""Depth pruning: whole residual blocks are taken out of a model, which becomes a shallower plain one."""

from __future__ import annotations

from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tfcompress import keras_door as kd
from tfcompress.models.blocks import ResidualBlocks
from tfcompress.models.loading import clone
from tfcompress.techniques._block_choice import Score, cheapest, cheapest_within
from tfcompress.techniques._block_scores import Importance, score_of
from tfcompress.techniques._target import Target, counted
from tfcompress.techniques._timed import Timed
from tfcompress.techniques.base import (
    IN_NESTED_MODEL,
    NO,
    NOTHING,
    YES,
    StepPlan,
    Technique,
    Verdict,
    refuse_nested,
)
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.state import State

Names = Annotated[list[str], Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]


class Blocks(Technique):
    """Take residual blocks out of the model, which become their shortcuts, and train what is left.

    A residual network does not depend strongly on any one of its blocks: Veit et al., "Residual Networks Behave Like
    Ensembles of Relatively Shallow Networks" (2016), deleted them at test time. What is gained is gained in full, for
    layers do not run in parallel: Wang et al., "DBP: Discrimination Based Block-Level Pruning for Deep Model
    Acceleration" (2019). Blocks go by the name of the layer that sums: `tfcompress.models.blocks`. One whose shortcut
    projects becomes that projection.

    Example:
        >>> Blocks(target={"macs": 0.7}, importance="loss", fit={"epochs": 4}).name
        'blocks'
    """

    stage: ClassVar[str] = "graph"

    technique: Literal["blocks"] = "blocks"
    remove: Count | Names | None = None
    """Names of blocks, or shell-style patterns of them, or how many: those that cost least. Defaults to 1 where there
    is no `target`."""
    target: Target | None = None
    """In place of `remove`: the blocks that cost least for what they gain, until one figure is down to a share of it,
    e.g. `{macs: 0.7}`."""
    importance: Importance = "output_change"
    """What tells the cost of blocks, on the calibration samples without them, one after the other: the rise of the
    `loss`, the `output_change`, relative to the outputs, or `random`, as a control. Defaults to `output_change`."""

    @model_validator(mode="after")
    def _one_aim(self) -> Blocks:
        if self.remove is not None and self.target is not None:
            raise ValueError("remove and target exclude one another. Remedy: give one of them")
        return self

    def verdicts(self, model: Any) -> tuple[Verdict, ...]:
        """Which layers belong to blocks that can be removed, and why other sums close none."""
        blocks = ResidualBlocks(model)
        removable = {name for block in blocks for name in block.layers}
        return tuple(_verdict(layer, removable, blocks.refused) for layer in model.layers)

    def check(self, state: State) -> None:
        """Refuse models without a block, names that match none, more than there are, and targets out of reach."""
        blocks = self._blocks(state.model)
        blocks.without(self._foreseen(blocks))

    def foreseen(self, state: State) -> State:
        """The shallower model; where measurement decides, without the first blocks that would do, or any for time."""
        blocks = self._blocks(state.model)
        return _without(state, blocks, self._foreseen(blocks))

    def prepare(self, state: State, plan: StepPlan) -> State:
        """The shallower model.

        Raises:
            RecipeError: see `check`; or the importance asked for cannot be told of this model.
        """
        blocks = self._blocks(state.model)
        if isinstance(self.remove, list):
            return _without(state, blocks, self._named(blocks, self.remove))

        def chosen() -> list[str]:
            score = score_of(self.importance, blocks, plan, where=self.name)
            return list(self._chosen(blocks, score, plan))

        # Another measurement would find other blocks, and an interrupted run go on with another model.
        return _without(state, blocks, plan.once(chosen))

    def finish(self, state: State) -> State:
        """The trained model."""
        return state.evolve(model=clone(state.model))

    def _blocks(self, model: Any) -> ResidualBlocks:
        """The blocks to remove from."""
        refuse_nested(model, self.name)
        blocks = ResidualBlocks(model)
        if not blocks.sums:
            reasons = "".join(f"; {name}: {reason}" for name, reason in blocks.refused.items())
            raise RecipeError(
                f"{self.name}: this model has no residual block, a sum of which one term is a shortcut past the layers "
                f"of the others{reasons}. Remedy: leave the step out."
            )
        return blocks

    def _foreseen(self, blocks: ResidualBlocks) -> Collection[str]:
        """The blocks that will be removed; where measurement decides, as many, as if each cost the same."""
        if isinstance(self.remove, list):
            return self._named(blocks, self.remove)
        return self._chosen(blocks, len, None)

    def _named(self, blocks: ResidualBlocks, patterns: Collection[str]) -> list[str]:
        unmatched = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in blocks.sums)]
        if unmatched:
            raise RecipeError(
                f"{self.name}.remove: every name must be that of a block, or a pattern that matches some. No block is "
                f"called {', '.join(unmatched)}. {_listed(blocks)}"
            )
        return [name for name in blocks.sums if any(fnmatchcase(name, pattern) for pattern in patterns)]

    def _chosen(self, blocks: ResidualBlocks, score: Score, plan: StepPlan | None) -> Collection[str]:
        """The blocks that cost least; none for a time that is yet to be measured."""
        if self.target is not None:
            return self._for_target(self.target, blocks, score, plan)
        count = 1 if self.remove is None else self.remove
        removed = cheapest(count, blocks.left, score)
        if len(removed) < count:
            raise RecipeError(
                f"{self.name}.remove: at most as many blocks can be removed as there are. Received: {count}. "
                f"{_listed(blocks)}"
            )
        return removed

    def _for_target(
        self, target: Target, blocks: ResidualBlocks, score: Score, plan: StepPlan | None
    ) -> Collection[str]:
        figure = self._figure(target, blocks, plan)
        if figure is None:
            return ()
        gains = {name: 1 - figure([name]) for name in blocks.sums}
        removed = cheapest_within(target.bound, blocks.left, score, figure, gains)
        if removed is None:
            gaining = [name for name, gain in gains.items() if gain > 0]
            raise RecipeError(
                f"{self.name}: target.{target.figure} must be within reach. Received: {target.bound:g}; the nearest "
                f"that can be met is {figure(gaining):.4g}. {_listed(blocks)}"
            )
        return removed

    def _figure(
        self, target: Target, blocks: ResidualBlocks, plan: StepPlan | None
    ) -> Callable[[Collection[str]], float] | None:
        """The share of the figure of `target` that is left without some blocks; None where it is yet to be timed."""
        if target.figure != "latency":
            count = {"macs": blocks.macs, "parameters": blocks.parameters}[target.figure]
            whole = counted(lambda: count(()), target.figure, self.name)
            return lambda removed: count(removed) / whole
        if plan is None:
            return None
        timed = Timed(blocks.graph.model, plan, {frozenset(): 1.0})
        return lambda removed: timed(frozenset(removed), lambda: blocks.without(removed))


def _without(state: State, blocks: ResidualBlocks, removed: Collection[str]) -> State:
    """`state` without these blocks, and without the promises about weights that went with them."""
    model = blocks.without(removed)
    layers = {layer.name for layer in model.layers}
    kept = (p for p in state.promises if state.lineage.place(p.weight).rpartition("/")[0] in layers)
    return state.evolve(model=model, promises=tuple(kept))


def _listed(blocks: ResidualBlocks) -> str:
    """The blocks, a line each."""
    return "The blocks:" + "".join(f"\n  {block}" for block in blocks)


def _verdict(layer: Any, removable: Collection[str], refused: dict[str, str]) -> Verdict:
    if isinstance(layer, kd.keras.Model):
        return Verdict(layer.name, NO, *IN_NESTED_MODEL)
    if layer.name in refused:
        return Verdict(layer.name, NO, f"it closes no residual block: {refused[layer.name]}", "leave it as it is")
    return Verdict(layer.name, YES if layer.name in removable else NOTHING)
