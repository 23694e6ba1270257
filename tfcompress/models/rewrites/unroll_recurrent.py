"""Recurrent layers without their loops, for the converter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfcompress import keras_door as kd
from tfcompress.models.rewrites._graph import Call, Graph, Part
from tfcompress.models.rewrites.base import Edit, Rewrite
from tfcompress.vocabulary.errors import ModelError

_MOST_STEPS = 200
"""Beyond it a conversion takes minutes: 12, 15 and 57 s to int8 at 50, 100 and 200 steps of 32 units, on two cores."""


class UnrollRecurrent(Rewrite):
    """Unroll GRU and SimpleRNN, Bidirectional ones too: as loops, both crash the converter's calibration.

    Only over a number of steps that the model knows, and only where no state stays from batch to batch. Weights
    keep their names.
    """

    name = "unroll_recurrent"
    purpose = "export"

    def edits(self, graph: Graph) -> Iterator[Edit]:
        """One edit for each such layer.

        Raises:
            ModelError: layers have too many steps to be converted in a sensible time, all named.
        """
        calls = [call for call in {id(call.layer): call for call in graph.calls}.values() if _is_loop(call)]
        steps = {call.layer.name: call.inputs[0].shape[1] for call in calls}
        long = [f"{name} has {count}" for name, count in steps.items() if count > _MOST_STEPS]
        if long:
            raise ModelError(
                f"A GRU or SimpleRNN is unrolled to be converted, and can have at most {_MOST_STEPS} steps: the time "
                f"of the conversion grows faster than their number. {'; '.join(long)}. Remedy: an LSTM, for which "
                ".tflite has an operator, or shorter sequences, as by a strided convolution or a pooling in front."
            )
        for call in calls:
            part = Part.copy(call.layer, **_unrolled(call.layer))
            reason = "the converter's calibration crashes on it as a loop"
            yield Edit({call.layer.name: (call.layer.name,)}, reason, {}, copies={id(call.layer): part})


def _is_loop(call: Call) -> bool:
    config = _config(call.layer)
    return bool(config) and not config["unroll"] and not config["stateful"] and call.inputs[0].shape[1] is not None


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
