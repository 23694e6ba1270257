"""A Dense on the average over an image as a Dense on all its pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.loading import copied_layer
from tfcompress.models.rewrites._graph import Builder, Call, Graph, Part, same
from tfcompress.models.rewrites.base import Edit, Rewrite
from tfcompress.models.rewrites.mean_pooling import averages_the_image
from tfcompress.vocabulary.state import Effect, Move

_BLOCKS = Effect(refused="a Dense over all pixels has other inputs than one over channels")
_EFFECTS = {"group_zeros": _BLOCKS, "codewords": _BLOCKS}


class DenseOverPixels(Rewrite):
    """Make a pooling that averages the whole image and the Dense on it one Dense on the flattened image.

    Its kernel has that of the old one for every pixel, divided by their number: ``mean(x) W = flatten(x) W'``. Trained
    further, it tells pixels apart. The kernel is as many times larger as there are pixels: of small images it costs
    bytes and hardly time, since the operator of the average goes; of large ones it outgrows the network. A regularizer
    of the kernel stays, and weighs what is left of the values' size; a Dense with a constraint on it is left alone.
    """

    name = "dense_over_pixels"
    purpose = "capacity"

    def edits(self, graph: Graph) -> Iterator[Edit]:
        """One edit for each such pooling."""
        layers = kd.keras.layers
        for pool in graph.of(layers.GlobalAveragePooling2D, layers.AveragePooling2D):
            way = _way_to_dense(graph, pool)
            if way and averages_the_image(pool) and graph.called_once(pool):
                *between, dense = way
                place = f"{dense.layer.name}/kernel"
                yield Edit(
                    became={
                        pool.layer.name: (pool.layer.name,),
                        **{call.layer.name: () for call in between},
                        dense.layer.name: (dense.layer.name,),
                    },
                    reason="training has weights for every pixel then",
                    builders={
                        pool: layers.Flatten(name=pool.layer.name, dtype=pool.layer.dtype_policy),
                        **dict.fromkeys(between, same),
                        dense: _over(dense.layer, int(np.prod(pool.inputs[0].shape[1:3]))),
                    },
                    moves={place: Move(place, _EFFECTS)},
                )


def _way_to_dense(graph: Graph, pool: Call) -> list[Call]:
    """The calls behind `pool` up to a Dense, which leave numbers as they are; none where there is no such way."""
    layers = kd.keras.layers
    way: list[Call] = []
    call: Call | None = pool
    while (call := graph.sole_user(call)) is not None and graph.called_once(call):
        way.append(call)
        if type(call.layer) is layers.Dense:
            # Behind kept axes a Dense gives images, of one pixel each.
            return way if len(call.inputs[0].shape) == 2 and call.layer.kernel_constraint is None else []
        if type(call.layer) is not layers.Flatten:
            break
    return []


def _over(dense: Any, pixels: int) -> Builder:
    kernel, *bias = dense.get_weights()
    return Part(copied_layer(dense), [np.tile(kernel, (pixels, 1)) / pixels, *bias])
