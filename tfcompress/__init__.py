"""tfcompress: from a trained Keras model to one verified, full-integer TFLite file, with the evidence.

Importing this package brings in no TensorFlow; the first use of a name below does.
"""

from __future__ import annotations

from tfcompress.lazy_names import lazy_names

_HOMES = {
    "compress": "tfcompress.pipeline",
    "train": "tfcompress.pipeline",
    "Result": "tfcompress.pipeline",
    "Recipe": "tfcompress.recipe",
    "preflight": "tfcompress.feasibility",
    "search": "tfcompress.tuning.search",
    "SearchResult": "tfcompress.tuning.search",
    "sensitivity": "tfcompress.tuning.sensitivity",
    "SensitivityResult": "tfcompress.tuning.sensitivity",
    "load_recipe": "tfcompress.recipe",
    "load_model": "tfcompress.models.loading",
    "load_data": "tfcompress.data",
    "TfcompressError": "tfcompress.vocabulary.errors",
}

__all__, __getattr__, __dir__ = lazy_names(__name__, _HOMES)
