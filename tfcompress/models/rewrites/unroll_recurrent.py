"""Recurrent layers without their loops, for the converter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfcompress import keras_door as kd
from tfcompress.models.rewrites._graph import Graph, Part
from tfcompress.models.rewrites.base import Edit, Rewrite


class UnrollRecurrent(Rewrite):
    """Unroll GRU and SimpleRNN, Bidirectional ones too: as loops, both crash the converter's calibration.

    Only over a number of steps that the model knows, and only where no state stays from batch to batch. Weights
    keep their names.
    """

    name = "unroll_recurrent"
    purpose = "export"

    def edits(self, graph: Graph) -> Iterator[Edit]:
        """One edit for each such layer."""
        for call in {id(call.layer): call for call in graph.calls}.values():
            config = _config(call.layer)
            if config and not config["unroll"] and not config["stateful"] and call.inputs[0].shape[1] is not None:
                part = Part.copy(call.layer, **_unrolled(call.layer))
                reason = "the converter's calibration crashes on it as a loop"
                yield Edit({call.layer.name: (call.layer.name,)}, reason, {}, copies={id(call.layer): part})


def _config(layer: Any) -> dict[str, Any] | None:
    """The config of the recurrent layer in `layer`; None where it is of another kind."""
    layers = kd.keras.layers
    recurrent = layer.forward_layer if isinstance(layer, layers.Bidirectional) else layer
    return recurrent.get_config() if type(recurrent) in (layers.GRU, layers.SimpleRNN) else None


def _unrolled(layer: Any) -> dict[str, Any]:
    if not isinstance(layer, kd.keras.layers.Bidirectional):
        return {"unroll": True}
    config = layer.get_config()
    parts = (key for key in ("layer", "backward_layer") if config.get(key))
    return {key: {**config[key], "config": {**config[key]["config"], "unroll": True}} for key in parts}
