"""BatchNormalization that stands alone, as a depthwise convolution."""

from __future__ import annotations

from collections.abc import Iterator

from tfcompress.models.rewrites._affine import Affine
from tfcompress.models.rewrites._batch_norm import batch_norms, factor_and_shift, follows_linear, merged
from tfcompress.models.rewrites._graph import Graph
from tfcompress.models.rewrites.base import Edit, Rewrite


class BatchNormAsConvolution(Rewrite):
    """Make a BatchNormalization behind anything but a linear convolution or Dense a 1x1 DepthwiseConv2D with bias.

    As behind Add, Concatenate or an activation, in pre-activation ResNets and DenseNets. Training goes on with its
    factor and shift as weights; there are no statistics of batches any more.
    """

    name = "batch_norm_as_convolution"
    purpose = "enabling"
    after = ("fold_batch_norm",)

    def edits(self, graph: Graph) -> Iterator[Edit]:
        """One edit for each BatchNormalization that stands alone."""
        for call in batch_norms(graph):
            if not follows_linear(graph, call) and Affine.takes(call.shape):
                layer = call.layer
                affine = Affine(
                    graph,
                    layer.name,
                    call.shape,
                    *factor_and_shift(layer),
                    trainable=layer.trainable,
                    dtype=layer.dtype,
                )
                yield Edit(
                    layer=layer.name,
                    became=affine.names,
                    reason="quantization-aware training takes it right behind a linear convolution or Dense only",
                    builders={call: affine},
                    moves=merged(layer, f"{layer.name}/depthwise_kernel", f"{layer.name}/bias"),
                )
