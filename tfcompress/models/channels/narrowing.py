"""A model made anew with fewer channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.channels.groups import ChannelGroup, Place, remaining
from tfcompress.models.graph import output_axis
from tfcompress.models.loading import copied_layer
from tfcompress.models.rewrites._graph import Graph, Part, attribute_of, rebuilt


def narrowed(model: Any, groups: Sequence[ChannelGroup], kept: Mapping[str, np.ndarray]) -> Any:
    """`model` with only some of its channels, and the weights that belong to them.

    Where everything that makes or carries the cut channels is zero, or everything that takes them, the outputs are
    the same.

    Args:
        model: a Sequential or Functional tf_keras model; it is not touched.
        groups: its `channel_groups`.
        kept: by the name of a group, the indices of its channels that stay; groups not listed stay whole.

    Returns:
        A Functional, uncompiled model of plain layers with the same names.

    Raises:
        ModelError: see `remaining`; or a layer cannot be made again from its config.

    Example:
        >>> groups = channel_groups(model)  # doctest: +SKIP
        >>> narrowed(model, groups, {"stem": range(12)}).get_layer("stem").filters  # doctest: +SKIP
        12
    """
    masks: dict[str, dict[Place, np.ndarray]] = {}
    for place, mask in remaining(groups, kept).items():
        if not mask.all():
            masks.setdefault(place[0], {})[place] = mask
    copies = {id(layer): _narrowed_layer(layer, masks[layer.name]) for layer in model.layers if layer.name in masks}
    return rebuilt(Graph(model), {}, copies)


def _narrowed_layer(layer: Any, masks: Mapping[Place, np.ndarray]) -> Part:
    changes = {}
    weights = {attribute_of(weight): weight.numpy() for weight in layer.weights}
    for (_, weight, axis), mask in masks.items():
        if weight == "target_shape":
            *others, last = layer.target_shape
            changes[weight] = (*others, last if last == -1 else int(mask.sum()))
        else:
            weights[weight] = np.compress(mask, weights[weight], axis)
    return Part(copied_layer(layer, **changes, **_size(layer, weights)), list(weights.values()))


def _size(layer: Any, weights: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The argument that tells `layer` how many channels to make, for these weights; none where it makes none."""
    layers = kd.keras.layers
    if isinstance(layer, layers.Dense):
        return {"units": weights["kernel"].shape[-1]}
    if isinstance(layer, layers.Embedding):
        return {"output_dim": weights["embeddings"].shape[-1]}
    if isinstance(layer, (layers.SeparableConv1D, layers.SeparableConv2D)):
        return {"filters": weights["pointwise_kernel"].shape[-1]}
    return {"filters": weights["kernel"].shape[output_axis(layer)]} if "kernel" in weights else {}
