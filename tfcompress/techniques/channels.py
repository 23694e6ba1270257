"""Structured pruning: whole channels are cut out of a model, which becomes a smaller plain one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from tfcompress import keras_door as kd
from tfcompress.models.channels import OUTPUT, ChannelGroup, channel_groups, narrowed
from tfcompress.models.graph import calls, has_kernel
from tfcompress.models.loading import clone
from tfcompress.techniques._figures import Figure, figure
from tfcompress.techniques._importance import Importance, importances
from tfcompress.techniques._selection import (
    Kept,
    Rounding,
    global_counts,
    most_important,
    smallest_share,
    uniform_counts,
)
from tfcompress.techniques._target import Target
from tfcompress.techniques.base import (
    IN_NESTED_MODEL,
    NO,
    NOTHING,
    YES,
    StepPlan,
    Technique,
    Verdict,
    refuse_nested,
    select_layers,
    value_for,
)
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import State

Share = Annotated[float, Field(ge=0, lt=1)]
_DEFAULT_SHARE = 0.25
_FINEST_COUNTED, _FINEST_TIMED = 1 / 1024, 1 / 64
"""How finely a share is searched for a target: each one that is timed takes seconds."""


class Channels(Technique):
    """Cut the least important channels out of the model, and train what is left.

    Li et al., "Pruning Filters for Efficient ConvNets" (2017), over the groups of channels that must go together, as
    in Fang et al., "DepGraph" (2023): `tfcompress.models.channels`. Groups go by the name of the first layer that
    makes their channels. Iterative pruning is this step given several times, each under a name of its own: what one
    leaves, the next cuts, after the fine-tuning between them.

    Example:
        >>> Channels(target={"macs": 0.5}, importance="l1", fit={"epochs": 4}).name
        'channels'
    """

    stage: ClassVar[str] = "graph"

    technique: Literal["channels"] = "channels"
    remove: Share | None = None
    """Share of the channels to cut. Defaults to 0.25 where there is no `target`."""
    target: Target | None = None
    """In place of `remove`: as few channels as bring one figure down to a share of it, e.g. `{macs: 0.5}`."""
    scope: Literal["uniform", "global", "timed"] = "uniform"
    """Whether every group loses the same share (the default), or the least important channels of all go; `timed`, for
    a `target` of latency, those that are least important for the time they take, measured group by group."""
    per_layer: dict[str, Share] = Field(default={})
    """Other shares for groups by pattern of their names, e.g. `{conv1: 0}`; these do not compete with others."""
    multiple_of: int = Field(default=8, ge=1, le=1024)
    """Numbers of channels are rounded to the nearest multiple, or a group stays whole. Defaults to 8."""
    at_least: int = Field(default=1, ge=1)
    """Channels that every layer keeps. Defaults to 1."""
    importance: Importance = "l2"
    """What tells which channels matter: the `l1` or `l2` norm of the weights that make them (Li et al. 2017), the
    `bn_scale` (Liu et al. 2017), the mean `activation` (Molchanov et al. 2017), `taylor` (Molchanov et al. 2019) or
    `fisher` (Theis et al. 2018) on the calibration samples, or `random`, as a control. Defaults to `l2`."""

    @model_validator(mode="after")
    def _one_aim(self) -> Channels:
        if self.remove is not None and self.target is not None:
            raise ValueError("remove and target exclude one another. Remedy: give one of them")
        if self.scope == "timed" and (self.target is None or self.target.figure != "latency"):
            raise ValueError("scope: timed needs a target of latency. Remedy: target: {latency: ...}, or scope: global")
        return self

    def verdicts(self, model: Any) -> tuple[Verdict, ...]:
        """Which layers make, or have kernels for, channels that can be cut."""

        groups = channel_groups(model)
        return tuple(_verdict(layer, groups) for layer in model.layers)

    def layers_with_values(self, model: Any) -> tuple[str, ...]:
        """The names of the groups that can be cut."""
        return tuple(group.name for group in _cuttable(model))

    def check(self, state: State) -> None:
        """Refuse patterns that match no group, models without one, shares too small and targets out of reach."""
        groups = self._groups(state.model)
        kept = self._kept(state.model, groups)
        # Known later: what competes over all groups, by its importances, and what is measured.
        later = self.scope == "global" if self.target is None else self.target.figure == "latency"
        asked = [] if later else [1 - self.target.bound if self.target else self._share_to_cut]
        if any([*asked, *self.per_layer.values()]) and all(len(kept[group.name]) == group.size for group in groups):
            raise RecipeError(
                f"{self.name}: with numbers of channels that are multiples of {self.multiple_of}, nothing would be "
                f"cut. The groups have: {', '.join(f'{group.name} {group.size}' for group in groups)}. "
                "Remedy: a larger share, or a smaller multiple_of."
            )

    def promised(self, state: State) -> tuple[Promise, ...]:
        """At most as many channels as will be left, in every layer that makes channels which can be cut."""
        return self._promises(self._foreseen(state))

    def foreseen(self, state: State) -> State:
        """The smaller model; with the same share for all groups where importances decide, whole where latency does."""
        state = self._foreseen(state)
        return state.evolve(promises=(*state.promises, *self._promises(state)))

    def prepare(self, state: State, plan: StepPlan) -> State:
        """The smaller model.

        Raises:
            RecipeError: see `check`; or the importance asked for cannot be told of this model.
        """
        model = clone(state.model)
        groups = self._groups(model)
        scores = importances(self.importance, model, groups, plan, where=self.name)
        return state.evolve(model=narrowed(model, groups, self._kept(model, groups, scores, plan)))

    def finish(self, state: State) -> State:
        """The trained model, its numbers of channels promised."""
        return state.evolve(model=clone(state.model), promises=(*state.promises, *self._promises(state)))

    def _foreseen(self, state: State) -> State:
        groups = self._groups(state.model)
        return state.evolve(model=narrowed(state.model, groups, self._kept(state.model, groups)))

    def _promises(self, state: State) -> tuple[Promise, ...]:
        """Of every group that can be cut, the numbers of channels that its makers have now."""
        # A layer called twice loses its name in the file, where its weight could not be told.
        return tuple(
            Promise(
                state.lineage.origin(f"{member.layer}/{member.weight}"),
                "channels",
                len(member.channels),
                made_by=self.name,
            )
            for group in _cuttable(state.model)
            for member in group.members
            if member.role == "makes" and member.weight != "bias"
            if calls(state.model, state.model.get_layer(member.layer)) == 1
        )

    def _groups(self, model: Any) -> tuple[ChannelGroup, ...]:
        """The groups to cut from."""
        refuse_nested(model, self.name)
        groups = _cuttable(model)
        if not groups:
            raise RecipeError(
                f"{self.name}: no layer of this model makes channels that can be cut. Remedy: leave the step out; "
                "tfcompress check says of each layer why."
            )
        for pattern in self.per_layer:
            select_layers([group.name for group in groups], [pattern], where=f"{self.name}.per_layer")
        return groups

    @property
    def _share_to_cut(self) -> float:
        return _DEFAULT_SHARE if self.remove is None else self.remove

    def _kept(
        self,
        model: Any,
        groups: Sequence[ChannelGroup],
        scores: Mapping[str, np.ndarray] | None = None,
        plan: StepPlan | None = None,
    ) -> Kept:
        """What stays of each group; before there is a plan, the first channels, by shares equal for all groups."""
        if self.target is None:
            counts = self._counts(groups, scores, self._share_to_cut)
        else:
            counts = self._counts_for(self.target, model, groups, scores, plan)
        return self._chosen(groups, scores, counts)

    def _counts_for(
        self,
        target: Target,
        model: Any,
        groups: Sequence[ChannelGroup],
        scores: Mapping[str, np.ndarray] | None,
        plan: StepPlan | None,
    ) -> dict[str, int]:
        """How many stay with the smallest share cut that brings the figure of `target` down to its bound; all of them
        where it is yet to be timed."""
        of = figure(target.figure, model, groups, plan, where=self.name)
        if of is None:
            return self._counts(groups, scores, 0.0)
        timed = plan is not None and target.figure == "latency"

        def find() -> dict[str, int]:
            prices = self._prices(groups, of) if self.scope == "timed" else None

            def left(share: float) -> float:
                return of(self._chosen(groups, scores, self._counts(groups, scores, share, prices)))

            share = smallest_share(left, target.bound, _FINEST_TIMED if timed else _FINEST_COUNTED)
            if share is None:
                raise RecipeError(
                    f"{self.name}: target.{target.figure} must be within reach. Received: {target.bound:g}; the "
                    f"nearest that can be met is {left(1.0):.4g}, with multiple_of {self.multiple_of}, at_least "
                    f"{self.at_least} and per_layer as they are."
                )
            return self._counts(groups, scores, share, prices)

        # Another measurement would find other numbers, and an interrupted run go on with another model.
        return plan.once(find) if timed else find()

    def _prices(self, groups: Sequence[ChannelGroup], of: Figure) -> dict[str, float]:
        """The share of the time that a channel of each group takes: what about half of it alone gains, by channel.

        Measured over many channels, for kernels take them in blocks, and one alone gains nothing.
        """
        whole: Kept = {group.name: np.arange(group.size) for group in groups}
        prices = {}
        for group in self._competing(groups):
            half = self._rounding.of(group.size, group.size / 2)
            gained = 1 - of({**whole, group.name: most_important(group, np.zeros(group.size), half, self.at_least)})
            prices[group.name] = max(gained, 0.0) / max(group.size - half, 1)
        return prices

    def _competing(self, groups: Sequence[ChannelGroup]) -> list[ChannelGroup]:
        """The groups without a share of their own."""
        return [group for group in groups if value_for(group.name, None, self.per_layer) is None]

    @property
    def _rounding(self) -> Rounding:
        return Rounding(self.multiple_of, self.at_least)

    def _counts(
        self,
        groups: Sequence[ChannelGroup],
        scores: Mapping[str, np.ndarray] | None,
        share: float,
        prices: Mapping[str, float] | None = None,
    ) -> dict[str, int]:
        """How many channels of each group stay when `share` is cut, where groups compete at these `prices`, if any."""
        shares = {group.name: value_for(group.name, share, self.per_layer) for group in groups}
        counts = uniform_counts(groups, shares, self._rounding)
        if self.scope != "uniform" and scores is not None:
            compared = scores if prices is None else {name: _per(scores[name], prices[name]) for name in prices}
            counts |= global_counts(self._competing(groups), compared, share, self._rounding)
        return counts

    def _chosen(
        self, groups: Sequence[ChannelGroup], scores: Mapping[str, np.ndarray] | None, counts: Mapping[str, int]
    ) -> Kept:
        """The channels of each group that stay, the most important ones."""
        return {
            group.name: most_important(
                group, np.zeros(group.size) if scores is None else scores[group.name], counts[group.name], self.at_least
            )
            for group in groups
        }


def _per(scores: np.ndarray, price: float) -> np.ndarray:
    """`scores` by `price`; without a gain, none is worth to be cut."""
    return scores / price if price > 0 else np.full(len(scores), np.inf)


def _cuttable(model: Any) -> tuple[ChannelGroup, ...]:
    return tuple(group for group in channel_groups(model) if not group.frozen)


def _verdict(layer: Any, groups: Sequence[ChannelGroup]) -> Verdict:
    if isinstance(layer, kd.keras.Model):
        return Verdict(layer.name, NO, *IN_NESTED_MODEL)
    own = [group for group in groups if layer.name in (*group.layers("makes"), *group.layers("carries"))]
    if not has_kernel(layer) or any(OUTPUT in group.frozen for group in own):
        return Verdict(layer.name, NOTHING)
    if any(not group.frozen for group in own):
        return Verdict(layer.name, YES)
    reasons = dict.fromkeys(reason for group in own for reason in group.frozen)
    return Verdict(
        layer.name,
        NO,
        f"its channels cannot be cut: {'; '.join(reasons) or 'no layer that channels can be cut from makes them'}",
        "leave them, or replace what ties them by layers that keep channels apart",
    )
