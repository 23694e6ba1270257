"""Keras callbacks for any `model.fit` of a tf_keras model.

Importing this package brings in no TensorFlow; the first use of a callback does.

Example:
    >>> from tfcompress.callbacks import WeightSummaries
    >>> model.fit(x, y, callbacks=[WeightSummaries("logs")])  # doctest: +SKIP
"""

from __future__ import annotations

from tfcompress.lazy_names import lazy_names

_HOMES = {
    "TFLiteEvaluation": "tfcompress.callbacks.tflite_evaluation",
    "TFLiteRecord": "tfcompress.callbacks.tflite_evaluation",
    "WeightSummaries": "tfcompress.callbacks.weight_summaries",
}

__all__, __getattr__, __dir__ = lazy_names(__name__, _HOMES)
