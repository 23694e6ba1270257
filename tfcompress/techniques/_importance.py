"""How much each channel of a group matters: one number by channel, from weights or from calibration samples.

Every layer that has a say tells a number for each channel. Layers of different widths and depths are made comparable
by dividing the numbers of each by their mean, as Torch-Pruning does by default (Fang et al., "DepGraph", 2023), and
the importance of a channel is the mean over the layers in its group: of a typical channel 1, whatever its group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.channels import ChannelGroup, Member
from tfcompress.models.rewrites._graph import Graph
from tfcompress.techniques._loss_gradients import batches, gradients_of, loss_of
from tfcompress.techniques.base import StepPlan
from tfcompress.vocabulary.errors import RecipeError

Importance = Literal["l1", "l2", "bn_scale", "activation", "taylor", "fisher", "random"]
_INSTEAD = "another importance, such as activation"
Votes = Iterable[tuple[Member, np.ndarray]]
"""Members of one group, each with a number for every place of its axis."""


def importances(
    method: Importance, model: Any, groups: Sequence[ChannelGroup], plan: StepPlan, *, where: str
) -> dict[str, np.ndarray]:
    """How much each channel matters.

    Args:
        method: which measure, each with its paper:
            ``l1``, ``l2`` - the norm of the weights that make the channel (Li et al., "Pruning Filters for Efficient
            ConvNets", 2017);
            ``bn_scale`` - the size of its BatchNormalization's gamma (Liu et al., "Network Slimming", 2017);
            ``activation`` - the mean size of what the layers that take it receive (Molchanov et al., "Pruning
            Convolutional Neural Networks for Resource Efficient Inference", 2017, the criterion of activation);
            ``taylor`` - the square of what the loss would change by, to first order, without the weights that make
            it: of the sum of gradient times weight (Molchanov et al., "Importance Estimation for Neural Network
            Pruning", 2019), averaged over batches of 32;
            ``fisher`` - the mean over samples of half the square of the sum of gradient times activation (Theis et
            al., "Faster gaze prediction with dense networks and Fisher pruning", 2018);
            ``random`` - by the step's seed, as a control.
        model: whose layers the groups name; a copy that may be called.
        groups: to be told of.
        plan: of the step; its calibration samples, with their targets and the loss for `taylor` and `fisher`.
        where: the step's name, for messages.

    Returns:
        By the name of a group, float64 `[size]`; more is more important.

    Raises:
        RecipeError: the model or the data does not have what `method` needs.
    """
    if method == "random":
        rng = np.random.default_rng(plan.seed)
        return {group.name: rng.random(group.size) for group in groups}
    votes = _METHODS[method](model, groups, plan, where)
    return {group.name: combined(group.size, votes[group.name]) for group in groups}


def combined(size: int, votes: Votes) -> np.ndarray:
    """The mean, by channel, of what members say of it, each divided by its own mean.

    Args:
        size: the channels of the group.
        votes: of its members.

    Returns:
        float64 `[size]`.
    """
    total, count = np.zeros(size), np.zeros(size)
    for member, scores in votes:
        present = member.present(size)
        by_channel = member.total(scores, size)
        mean = by_channel[present].mean()
        total += by_channel / mean if mean > 0 else by_channel
        count += present
    return total / np.maximum(count, 1)


def _norms(order: int) -> Callable[..., Mapping[str, Votes]]:
    def norms(model: Any, groups: Sequence[ChannelGroup], _: StepPlan, __: str) -> Mapping[str, Votes]:
        def norm(member: Member) -> np.ndarray:
            weights = _by_place(_weight(model, member), member.axis)
            return np.linalg.norm(weights, ord=order, axis=1)

        return {group.name: [(member, norm(member)) for member in _kernels(group)] for group in groups}

    return norms


def _bn_scale(model: Any, groups: Sequence[ChannelGroup], _: StepPlan, where: str) -> Mapping[str, Votes]:
    votes = {
        group.name: [(m, np.abs(_weight(model, m))) for m in group.members if m.weight == "gamma"] for group in groups
    }
    lacking = [
        group.name
        for group in groups
        if not sum((member.present(group.size) for member, _ in votes[group.name]), np.zeros(group.size)).all()
    ]
    if lacking:
        raise RecipeError(
            f"{where}: importance bn_scale needs a BatchNormalization with a scale behind every layer that channels "
            f"are cut from. The groups {', '.join(lacking)} have none. Remedy: another importance."
        )
    return votes


def _activation(model: Any, groups: Sequence[ChannelGroup], plan: StepPlan, _: str) -> Mapping[str, Votes]:
    taken = _Taken(model, groups)
    sums = [0.0] * len(taken.tensors)
    for inputs, _targets in batches(plan):
        for index, values in enumerate(taken.values(inputs)[1]):
            # Summed over samples and pixels, for the last batch may be smaller.
            sums[index] = sums[index] + np.abs(values.numpy()).reshape(-1, values.shape[-1]).sum(axis=0)
    return taken.votes(sums)


def _taylor(model: Any, groups: Sequence[ChannelGroup], plan: StepPlan, where: str) -> Mapping[str, Votes]:
    tf, loss = kd.tf, loss_of(plan, where, "importance taylor", _INSTEAD)
    members = {group.name: _kernels(group) for group in groups}
    weights = {m.place: getattr(model.get_layer(m.layer), m.weight) for own in members.values() for m in own}
    sums: dict[Any, Any] = dict.fromkeys(weights, 0.0)
    for inputs, targets in batches(plan):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(list(weights.values()))
            # Outside training: behind a BatchNormalization that rescales by the batch, all these sums would be zero.
            value = tf.reduce_mean(loss(targets, model(inputs, training=False)))
        gradients = gradients_of(tape, value, list(weights.values()))
        for (place, weight), gradient in zip(weights.items(), gradients, strict=True):
            sums[place] = sums[place] + _by_place(gradient * weight.numpy(), place[2]).sum(axis=1) ** 2
    return {name: [(member, sums[member.place]) for member in own] for name, own in members.items()}


def _fisher(model: Any, groups: Sequence[ChannelGroup], plan: StepPlan, where: str) -> Mapping[str, Votes]:
    tf, loss = kd.tf, loss_of(plan, where, "importance fisher", _INSTEAD)
    taken = _Taken(model, groups)
    sums = [0.0] * len(taken.tensors)
    for inputs, targets in batches(plan):
        with tf.GradientTape() as tape:
            if inputs.dtype.is_floating:
                tape.watch(inputs)
            outputs, values = taken.values(inputs)
            # Outside training samples do not touch one another: these are the gradients of each sample's own loss.
            value = tf.reduce_mean(loss(targets, outputs)) * len(inputs)
        for index, gradient in enumerate(gradients_of(tape, value, values)):
            product = gradient * values[index].numpy()
            by_sample = product.reshape(len(product), -1, product.shape[-1]).sum(axis=1)
            sums[index] = sums[index] + (by_sample**2).sum(axis=0) / 2
    return taken.votes(sums)


_METHODS = {
    "l1": _norms(1),
    "l2": _norms(2),
    "bn_scale": _bn_scale,
    "activation": _activation,
    "taylor": _taylor,
    "fisher": _fisher,
}


class _Taken:
    """The tensors that layers take channels of groups from, one for each call of such a layer."""

    def __init__(self, model: Any, groups: Sequence[ChannelGroup]) -> None:
        graph = Graph(model)
        self._members = [
            (group.name, member, call.inputs[0])
            for group in groups
            for member in _takers(group)
            for call in graph.calls_of(model.get_layer(member.layer))
        ]
        self.tensors = [tensor for _, _, tensor in self._members]
        self._model = kd.keras.Model(model.inputs, [model.outputs[0], *self.tensors])

    def values(self, inputs: Any) -> tuple[Any, list[Any]]:
        """The model's output for `inputs`, and the tensors' values, `[n, ..., places]`."""
        output, *values = self._model(inputs, training=False)
        return output, values

    def votes(self, scores: Sequence[np.ndarray]) -> Mapping[str, Votes]:
        """`scores`, for each tensor a number by place, as votes of the groups' members."""
        votes: dict[str, list[tuple[Member, np.ndarray]]] = {}
        for (name, member, _), own in zip(self._members, scores, strict=True):
            votes.setdefault(name, []).append((member, own))
        return votes


def _kernels(group: ChannelGroup) -> list[Member]:
    """The kernels that make the channels of `group`."""
    return [member for member in group.members if member.role == "makes" and member.weight != "bias"]


def _takers(group: ChannelGroup) -> list[Member]:
    """One member for each layer that takes channels of `group`, of the weight that its inputs meet first."""
    takers: dict[str, Member] = {}
    for member in group.members:
        if member.role == "takes":
            takers.setdefault(member.layer, member)
    return list(takers.values())


def _weight(model: Any, member: Member) -> np.ndarray:
    return getattr(model.get_layer(member.layer), member.weight).numpy()


def _by_place(weights: np.ndarray, axis: int) -> np.ndarray:
    """`[size of axis, rest]`, float64."""
    moved = np.moveaxis(weights.astype(np.float64), axis, 0)
    return moved.reshape(len(moved), -1)
