"""BatchNormalization, Normalization and Rescaling that stand alone, as depthwise convolutions."""

from __future__ import annotations

from collections.abc import Iterator

from tfcompress.models.rewrites._affine import Affine
from tfcompress.models.rewrites._graph import Graph
from tfcompress.models.rewrites._per_channel import (
    factor_and_shift,
    follows_linear,
    is_trained,
    merged,
    per_channel_calls,
)
from tfcompress.models.rewrites.base import Edit, Rewrite


class NormalizationsAsConvolutions(Rewrite):
    """Make a normalization behind anything but a linear convolution or Dense a 1x1 DepthwiseConv2D with bias.

    As behind Add, Concatenate or an activation, in pre-activation ResNets and DenseNets. Training goes on with the
    factor and shift of a BatchNormalization as weights; there are no statistics of batches any more. Those of a
    Normalization or Rescaling are not trained, as before.
    """

    name = "normalizations_as_convolutions"
    purpose = "enabling"
    after = ("fold_normalizations",)

    def edits(self, graph: Graph) -> Iterator[Edit]:
        """One edit for each normalization that stands alone."""
        for call in per_channel_calls(graph):
            if not follows_linear(graph, call) and Affine.takes(call.shape):
                layer = call.layer
                affine = Affine(
                    graph,
                    layer.name,
                    call.shape,
                    *factor_and_shift(call),
                    trainable=is_trained(layer),
                    dtype=layer.dtype,
                )
                yield Edit(
                    became={layer.name: affine.names},
                    reason="quantization-aware training takes it right behind a linear convolution or Dense only",
                    builders={call: affine},
                    moves=merged(layer, f"{layer.name}/depthwise_kernel", f"{layer.name}/bias"),
                )
