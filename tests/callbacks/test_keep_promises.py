import numpy as np
import pytest
from fixtures import models

from tfcompress import keras_door as kd
from tfcompress.callbacks.keep_promises import keep_promises
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.pipeline import compress
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import State

FAST = ["evaluation.latency_seconds=0.02", "evaluation.threads=1", "data.preprocessing=raw", "data.batch_size=16"]


def fitted(model, inputs, callbacks):
    labels = np.arange(len(inputs)) % models.CLASSES
    loss = kd.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kd.keras.optimizers.Adam(0.05), loss)
    model.fit(inputs, labels, batch_size=16, callbacks=callbacks, verbose=0)


def test_zeros_stay_and_shared_values_stay_while_all_else_trains():
    model = models.dense()
    hidden, out = (model.get_layer(name).kernel for name in ("hidden", "out"))
    hidden.assign(np.where(np.abs(hidden.numpy()) > 0.2, hidden.numpy(), 0))
    out.assign(np.sign(out.numpy()))
    before = [hidden.numpy(), out.numpy(), model.get_layer("out").bias.numpy()]
    state = State(model, (Promise("hidden/kernel", "zeros", 0.1), Promise("out/kernel", "distinct", 2)))
    fitted(model, models.inputs_for(model, 64), keep_promises(state))
    np.testing.assert_array_equal(hidden.numpy() == 0, before[0] == 0)
    assert np.all((hidden.numpy() != before[0])[before[0] != 0])
    np.testing.assert_array_equal(out.numpy(), before[1])
    assert np.all(model.get_layer("out").bias.numpy() != before[2])


def test_without_promises_of_plain_layers_nothing_is_done():
    model = models.dense()
    assert keep_promises(State(model)) == []
    assert keep_promises(State(model, (Promise("wrapped/kernel", "zeros", 0.5),))) == []
    # A number of channels holds whatever the weights become.
    assert keep_promises(State(model, (Promise("hidden/kernel", "channels", 12),))) == []


@pytest.mark.parametrize("last", ["quantization", "clustering"])
def test_zeros_of_a_layer_that_a_later_step_leaves_alone_reach_the_file(last, tmp_path):
    layers = kd.keras.layers
    ids = layers.Input((8,), dtype="int32")
    x = layers.GlobalAveragePooling1D(name="pool")(layers.Embedding(30, 8, name="table")(ids))
    x = layers.Dense(8, activation="relu", name="hidden")(x)
    model = kd.keras.Model(ids, layers.Dense(models.CLASSES, name="out")(x), name="net")
    inputs = np.random.default_rng(0).integers(0, 30, (64, 8)).astype(np.int32)
    fit = {"epochs": 2, "learning_rate": 0.05}
    steps = [{"technique": "pruning", "final_sparsity": 0.5, "frequency": 1, "fit": fit}]
    steps += [{"technique": "clustering", "exclude": ["table"], "fit": fit}] if last == "clustering" else []
    steps += [{"technique": "quantization", "fit": fit}]
    result = compress(model, (inputs, inputs[:, 0] % models.CLASSES), {"steps": steps}, overrides=FAST, out=tmp_path)
    table = next(promise for promise in result.evidence.promises if promise.weight == "table/embeddings")
    assert table.kept
    assert table.found >= 0.5
    stored = Flatbuffer(result.artifact.read_bytes())
    assert any(tensor.data is not None and tensor.shape == (30, 8) for tensor in stored.tensors)
