"""Layers over one dimension as their two-dimensional forms, on images one pixel high."""

from __future__ import annotations

from collections.abc import Iterator

from tfcompress.models.rewrites._graph import Builder, Call, Graph
from tfcompress.models.rewrites._images import Images, can_join, needs_images, takes_both, two_dimensional
from tfcompress.models.rewrites.base import Edit, Rewrite


class OneDimension(Rewrite):
    """Make `[batch, steps, channels]` an image `[batch, 1, steps, channels]` where layers need it.

    Conv1D, DepthwiseConv1D, SeparableConv1D, Conv1DTranspose, MaxPooling1D and UpSampling1D become their 2-D forms,
    and with them what stands behind them and works on images as well. A Reshape leads into such a stretch and one
    out of it. Causal padding becomes a ZeroPadding2D. Layers and weights keep their names; a kernel gets a first
    axis of 1.
    """

    name = "one_dimension"
    purpose = "enabling"
    after = ("flatten_models", "drop_inference_no_ops")

    def edits(self, graph: Graph) -> Iterator[Edit]:
        """One edit for each stretch of such layers."""
        for stretch in _stretches(graph):
            images = Images(graph, stretch)
            became: dict[str, tuple[str, ...]] = {}
            forms: dict[int, Builder] = {}
            builders: dict[Call, Builder] = {}
            for call in stretch:
                layer = call.layer
                if id(layer) not in forms:
                    names, forms[id(layer)] = two_dimensional(graph, layer)
                    if not takes_both(layer):
                        became[layer.name] = names
                builders[call] = images.through(call, forms[id(layer)])
            first, last = next(iter(became)), next(reversed(became))
            became[first] = (*images.entrances, *became[first])
            became[last] = (*became[last], *images.exits)
            yield Edit(became, "quantization-aware training takes the two-dimensional form only", builders)


def _stretches(graph: Graph) -> list[list[Call]]:
    """The calls that are to work on images, those connected with one another together."""
    stretches: list[list[Call]] = []
    for call in graph.calls:
        sources = set(graph.sources(call))
        touched = [
            stretch
            for stretch in stretches
            if sources & set(stretch) or any(other.layer is call.layer for other in stretch)
        ]
        if needs_images(call) or (touched and can_join(graph, call)):
            stretches = [stretch for stretch in stretches if stretch not in touched]
            stretches.append([*(other for stretch in touched for other in stretch), call])
    return stretches
