"""Layers that do nothing in inference and stand in the way of training in integers, left out."""

from __future__ import annotations

from collections.abc import Iterator

from tfcompress import keras_door as kd
from tfcompress.models.rewrites._graph import Graph, same
from tfcompress.models.rewrites.base import Edit, Rewrite


class DropInferenceNoOps(Rewrite):
    """Leave out GaussianNoise, GaussianDropout, AlphaDropout and Activation("linear").

    Dropout and ActivityRegularization stay: training needs them and quantization-aware training takes them.
    """

    name = "drop_inference_no_ops"
    purpose = "enabling"
    after = ("flatten_models",)

    def edits(self, graph: Graph) -> Iterator[Edit]:
        """One edit for each such layer."""
        layers = kd.keras.layers
        noises = (layers.GaussianNoise, layers.GaussianDropout, layers.AlphaDropout)
        for call in graph.of(*noises, layers.Activation):
            is_noise = type(call.layer) in noises and not call.node.call_kwargs.get("training")
            if is_noise or getattr(getattr(call.layer, "activation", None), "__name__", "") == "linear":
                yield Edit(
                    became={call.layer.name: ()},
                    reason="it does nothing in inference",
                    builders={called: same for called in graph.calls_of(call.layer)},
                )
