"""Both Keras come through the door, whatever the caller imported before and whatever the environment says."""

import os
import subprocess
import sys

import pytest

_BOTH = """
from tfcompress.models import load_model
import tfcompress.keras_door as kd
model = kd.keras_3.Sequential([kd.keras_3.Input((4,)), kd.keras_3.layers.Dense(3, activation="hard_silu")])
assert type(model).__module__.startswith("keras."), type(model)
translated = load_model(model)
assert type(translated).__module__.startswith("tf_keras."), type(translated)
kd.tfmot.sparsity.keras.prune_low_magnitude(kd.keras.Sequential([kd.keras.layers.Dense(2, input_shape=(3,))]))
import keras
assert kd.keras_3 is keras
"""


def _more(*values):
    """A case for the slow set: each is a process that imports everything."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("before", "legacy"),
    [
        ("", None),
        ("import keras", None),
        ("import tensorflow as tf; tf.keras.layers", "1"),
        _more("import tensorflow as tf", None),
        _more("import tf_keras", None),
        _more("import tensorflow as tf, keras; tf.keras.layers", None),
        _more("import keras, tensorflow as tf; tf.keras.layers", None),
        _more("import keras, tensorflow as tf; tf.keras.layers", "0"),
        _more("import keras, tensorflow as tf; tf.keras.layers", "1"),
    ],
)
def test_both_keras_come_in_any_order(before, legacy):
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    if legacy is not None:
        environment["TF_USE_LEGACY_KERAS"] = legacy
    after = "import os; assert os.environ.get('TF_USE_LEGACY_KERAS') == " + repr(legacy)
    result = subprocess.run(
        [sys.executable, "-c", f"{before}\n{_BOTH}\n{after}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
