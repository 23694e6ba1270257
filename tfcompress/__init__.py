"""tfcompress: from a trained Keras model to one verified, full-integer TFLite file, with the evidence.

Importing this package brings in no TensorFlow; the first use of a name below does.
"""

from __future__ import annotations

import importlib
from typing import Any

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

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
