"""The channel groups of a model."""

from __future__ import annotations

from typing import Any

from tfcompress.models.channels.groups import ChannelGroup
from tfcompress.models.channels.rules import NotFollowedError, rule_for
from tfcompress.models.channels.tracking import Channels, Tracker
from tfcompress.models.rewrites._graph import Call, Graph, TensorKey, key_of

OUTPUT = "they are the model's output"
"""Why the channels that a model gives back are never cut."""


def channel_groups(model: Any) -> tuple[ChannelGroup, ...]:
    """Which channels of a model can only be cut together, from which weights, and which cannot be at all.

    Fang et al., "DepGraph: Towards Any Structural Pruning" (2023), here by following every single channel through the
    graph: what is added, multiplied or otherwise joined becomes one channel, a Concatenate sets channels side by
    side, a Flatten repeats them for every pixel, and the calls of a shared layer make and take the same ones.
    Channels are the last axis. Whatever a layer without a rule takes or gives stays as it is, with the reason.

    Args:
        model: a Sequential or Functional tf_keras model; it is not touched.

    Returns:
        Every group in the order in which the model makes them, frozen ones too.

    Example:
        >>> for group in channel_groups(model):  # doctest: +SKIP
        ...     print(group)
    """
    graph, tracker = Graph(model), Tracker()
    known: dict[TensorKey, Channels] = {}
    for call in graph.calls:
        if call.node.is_input:
            outputs = _kept_whole(tracker, call, "the model's input")
        else:
            outputs = _outputs(tracker, call, [known[key_of(tensor)] for tensor in call.inputs])
        known.update(zip(map(key_of, call.outputs), outputs, strict=True))
    for tensor in model.outputs:
        tracker.freeze(known[key_of(tensor)], OUTPUT)
    return tracker.groups()


def _outputs(tracker: Tracker, call: Call, inputs: list[Channels]) -> list[Channels]:
    """The channels of each output of `call`."""
    layer = call.layer
    what = f"{layer.name} ({type(layer).__name__})"
    rule = rule_for(layer)
    try:
        if rule is None:
            raise NotFollowedError("what it does with channels is not known")
        if call.masked or any(getattr(tensor, "_keras_mask", None) is not None for tensor in call.outputs):
            raise NotFollowedError("a mask comes with them")
        if not all(map(len, inputs)):
            raise NotFollowedError("the number of its channels is open")
        return [rule(tracker, call, inputs)]
    except NotFollowedError as error:
        reason = f"{what}: {error}"
    for channels in inputs:
        tracker.freeze(channels, reason)
    return _kept_whole(tracker, call, reason)


def _kept_whole(tracker: Tracker, call: Call, reason: str) -> list[Channels]:
    """Channels for the outputs of `call` that nothing is known of, frozen."""
    made = []
    for tensor in call.outputs:
        width = (tensor.shape[-1] or 0) if tensor.shape.rank > 1 else 0
        # By tensor, for the calls of one layer may give different widths.
        made.append(tracker.made(str(key_of(tensor)), width))
        tracker.freeze(made[-1], reason)
    return made
