"""The one place that brings in TensorFlow, both Keras, tfmot, KerasTuner, TFDS and LiteRT, each when first needed.

Other modules write ``from tfcompress import keras_door as kd`` and then ``kd.tf``, ``kd.keras``,
``kd.tfmot``, ``kd.tfds`` or ``kd.litert``. Importing this module costs nothing; the first use of a name costs its
import.

``kd.keras`` is tf_keras (Keras 2), which tfmot's wrappers need, whichever Keras the caller imported before.
``kd.keras_3`` is Keras 3, the package `keras` whatever TF_USE_LEGACY_KERAS says; only a Keras 3 model needs it.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import Any

from tfcompress.native_output import captured_stderr

_MODULES = {
    "tf": "tensorflow",
    "keras": "tf_keras",
    "keras_3": "keras",
    "keras_tuner": "keras_tuner",
    "tfmot": "tensorflow_model_optimization",
    "litert": "ai_edge_litert.interpreter",
    "tfds": "tensorflow_datasets",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # The banners of native code would drown the messages meant for a person.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    legacy = os.environ.get("TF_USE_LEGACY_KERAS")
    with captured_stderr():
        if name != "litert":
            # TensorFlow first: tf_keras, tfmot and TFDS bind to the copy that is already loaded.
            importlib.import_module("tensorflow")
        module = importlib.import_module(_MODULES[name])
    # tfmot sets it for the whole process; the caller's own tf.keras is not ours to replace.
    if legacy is None:
        os.environ.pop("TF_USE_LEGACY_KERAS", None)
    else:
        os.environ["TF_USE_LEGACY_KERAS"] = legacy
    globals()[name] = module
    return module
