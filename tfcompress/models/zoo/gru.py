"""A gated recurrent unit (Cho et al. 2014, arXiv:1406.1078) for sound (Zhang et al. 2017, arXiv:1711.07128)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tfcompress import keras_door as kd
from tfcompress.models.zoo.layers import LayerMaker
from tfcompress.models.zoo.registry import register
from tfcompress.vocabulary.schema import Schema


class GruAudioOptions(Schema):
    """What may follow ``gru_audio:``."""

    units: int = Field(default=154, ge=1, le=4096)
    """Units of the GRU. Defaults to 154, the small network of Zhang et al."""


@register(smallest=(2, 1), options=GruAudioOptions)
def gru_audio(inputs: Any, classes: int, make: LayerMaker, units: int) -> Any:
    """The last output of a GRU, softmax; 78,552 parameters at 10 bins, 12 classes (Zhang et al., table 5: 78.8 KB).

    The input is a spectrogram `[frames, bins, 1]`. The GRU is unrolled, because as a loop it does not convert to
    integers: the file grows with the frames, so that few long hops (`data.audio.hop_ms` of 40) are better.
    """
    x = kd.keras.layers.Reshape((inputs.shape[1], inputs.shape[2] * inputs.shape[3]), name="frames")(inputs)
    x = make.recurrent("GRU", x, units, "gru", unroll=True)
    x = make.dropout(x, 0.3, "dropout")
    return make.classifier(x, classes)
