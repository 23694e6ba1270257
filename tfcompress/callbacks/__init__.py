"""Keras callbacks for any `model.fit` of a tf_keras model.

Importing this package brings in no TensorFlow; the first use of a callback does.

Example:
    >>> from tfcompress.callbacks import WeightSummaries
    >>> model.fit(x, y, callbacks=[WeightSummaries("logs")])  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "TFLiteEvaluation": "tfcompress.callbacks.tflite_evaluation",
    "TFLiteRecord": "tfcompress.callbacks.tflite_evaluation",
    "WeightSummaries": "tfcompress.callbacks.weight_summaries",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
