"""BatchNormalization folded into the linear layer before it, for rounding the weights that the file will hold."""

from __future__ import annotations

from collections.abc import Iterator

from tfcompress.models.rewrites._graph import Graph
from tfcompress.models.rewrites._per_channel import folded_back, follows_linear, per_channel_calls
from tfcompress.models.rewrites.base import Edit, Rewrite


class FoldBehindLinear(Rewrite):
    """Fold a BatchNormalization behind a linear Conv2D, DepthwiseConv2D or Dense into it.

    The converter does the same later; what is computed from the weights that it then quantizes, their scales,
    rounding and bias, needs it done before.

    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
    (2018), section 3.2, equation 14.
    """

    name = "fold_behind_linear"
    purpose = "calibrating"

    def edits(self, graph: Graph) -> Iterator[Edit]:
        """One edit for each BatchNormalization that can be folded."""
        for call in per_channel_calls(graph):
            if follows_linear(graph, call):
                yield folded_back(call, graph.source(call), "weights are rounded as they will be in the file")
