"""LayerScale, a trained factor for each channel, folded into the linear layer before it."""

from __future__ import annotations

from collections.abc import Iterator

from tfcompress.models.rewrites._graph import Graph
from tfcompress.models.rewrites._per_channel import folded_back, gives_linear, is_layer_scale
from tfcompress.models.rewrites.base import Edit, Rewrite


class FoldLayerScales(Rewrite):
    """Fold a LayerScale behind a linear Conv2D, DepthwiseConv2D or Dense into it, as ConvNeXt has them.

    The converter does so too, and the weight then goes by no layer's name. The factors begin near 0 to make deep
    networks trainable (Touvron et al., "Going deeper with Image Transformers", 2021, section 2); once they are trained,
    a kernel can have them as well.
    """

    name = "fold_layer_scales"
    purpose = "enabling"
    after = ("flatten_models", "drop_inference_no_ops")

    def edits(self, graph: Graph) -> Iterator[Edit]:
        """One edit for each LayerScale behind such a layer."""
        for call in graph.calls:
            if is_layer_scale(call.layer) and graph.called_once(call) and gives_linear(graph, graph.source(call)):
                yield folded_back(call, graph.source(call), "quantization-aware training does not know it")
