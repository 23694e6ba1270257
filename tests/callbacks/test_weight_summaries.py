import subprocess
import sys

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tfcompress import keras_door as kd
from tfcompress.callbacks import WeightSummaries
from tfcompress.callbacks._effective_weights import effective_weights
from tfcompress.techniques.base import StepPlan
from tfcompress.techniques.clustering import Clustering
from tfcompress.techniques.pruning import Pruning
from tfcompress.techniques.quantization import Quantization
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import State


class Events:
    """The event files of a folder, read back."""

    def __init__(self, folder):
        self._read = EventAccumulator(str(folder), size_guidance={"tensors": 0})
        self._read.Reload()
        self.tags = set(self._read.Tags()["tensors"])

    def series(self, tag):
        """Step to value."""
        return {e.step: kd.tf.make_ndarray(e.tensor_proto) for e in self._read.Tensors(tag)}

    def last(self, tag):
        return max(self.series(tag).items())[1].item()


def zeros(values):
    return np.count_nonzero(values == 0) / values.size


def plan(data, epochs=2):
    return StepPlan(steps_per_epoch=3, epochs=epochs, calibration=data[0][:32], seed=0)


def expect(events, weights):
    for name, values in weights.items():
        assert events.last(f"sparsity/{name}") == pytest.approx(zeros(values))
        assert events.last(f"distinct_values/{name}") == np.unique(values).size
    share = sum(np.count_nonzero(v == 0) for v in weights.values()) / sum(v.size for v in weights.values())
    return pytest.approx(share)


def test_a_plain_model(tmp_path, fresh_model, train):
    model = fresh_model()
    history = train(model, WeightSummaries(tmp_path), epochs=2)
    weights = {name: model.get_layer(name).kernel.numpy() for name in ("conv", "fc")}
    events = Events(tmp_path)
    assert events.tags == {f"{kind}/{n}" for kind in ("sparsity", "distinct_values", "weights") for n in weights}
    assert history["sparsity"][-1] == expect(events, weights)
    assert sorted(events.series("sparsity/fc")) == [0, 1]
    # Buckets of (left, right, count); the histogram holds every value.
    buckets = events.series("weights/fc")[1]
    assert buckets[:, 2].sum() == weights["fc"].size
    assert buckets[0, 0] == pytest.approx(weights["fc"].min())


def test_masked_weights_under_tfmots_pruning(tmp_path, fresh_model, train):
    sparsity = kd.tfmot.sparsity.keras
    schedule = sparsity.ConstantSparsity(0.75, begin_step=1, frequency=1)
    model = sparsity.prune_low_magnitude(fresh_model(), pruning_schedule=schedule)
    # The summaries come before the callback that masks the weights, which then have moved away from zero.
    history = train(model, WeightSummaries(tmp_path), sparsity.UpdatePruningStep())
    stripped = sparsity.strip_pruning(model)
    weights = {name: stripped.get_layer(name).kernel.numpy() for name in ("conv", "fc")}
    assert history["sparsity"][-1] == expect(Events(tmp_path), weights)
    assert zeros(weights["fc"]) == pytest.approx(0.75, abs=0.01)


def test_masked_weights_under_pruning(tmp_path, data, fresh_model, train):
    technique = Pruning(final_sparsity=0.8, schedule="constant", fit={"epochs": 2})
    state = technique.prepare(State(fresh_model()), plan(data))
    history = train(state.model, WeightSummaries(tmp_path), *technique.callbacks(state))
    assert history["sparsity"][-1] >= 0.8
    finished = technique.finish(state).model
    expect(Events(tmp_path), {name: finished.get_layer(name).kernel.numpy() for name in ("conv", "fc")})


@pytest.mark.parametrize("preserve_sparsity", [False, True])
def test_centroids_under_tfmots_clustering(tmp_path, fresh_model, train, preserve_sparsity):
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster

    source = fresh_model()
    kernel = source.get_layer("fc").kernel
    kernel.assign(np.where(np.arange(kernel.shape[0])[:, None] % 2, kernel, 0))
    model = cluster.cluster_weights(
        source,
        number_of_clusters=5,
        cluster_centroids_init=kd.tfmot.clustering.keras.CentroidInitialization.LINEAR,
        preserve_sparsity=preserve_sparsity,
    )
    history = train(model, WeightSummaries(tmp_path))
    before = [variable.numpy() for variable in model.weights]
    list(effective_weights(model))
    assert all(np.array_equal(b, v.numpy()) for b, v in zip(before, model.weights, strict=True))
    stripped = kd.tfmot.clustering.keras.strip_clustering(model)
    weights = {name: stripped.get_layer(name).kernel.numpy() for name in ("conv", "fc")}
    assert history["sparsity"][-1] == expect(Events(tmp_path), weights)
    assert np.unique(weights["fc"]).size <= 5
    assert not preserve_sparsity or zeros(weights["fc"]) >= 0.5


def test_centroids_under_clustering(tmp_path, data, fresh_model, train):
    technique = Clustering(clusters=6, per_layer={"conv": 3})
    promised = Promise("fc/kernel", "zeros", 0.5)
    source = fresh_model()
    kernel = source.get_layer("fc").kernel
    kernel.assign(np.where(np.arange(kernel.shape[0])[:, None] % 2, kernel, 0))
    state = technique.prepare(State(source, promises=(promised,)), plan(data))
    train(state.model, WeightSummaries(tmp_path))
    finished = technique.finish(state).model
    events = Events(tmp_path)
    expect(events, {name: finished.get_layer(name).kernel.numpy() for name in ("conv", "fc")})
    assert events.last("distinct_values/conv") == 3
    assert events.last("sparsity/fc") >= 0.5


def test_rounded_weights_and_bits_under_quantization(tmp_path, data, fresh_model, train):
    technique = Quantization(weight_bits=8, per_layer={"fc": 3})
    state = technique.prepare(State(fresh_model()), plan(data))
    train(state.model, WeightSummaries(tmp_path))
    events = Events(tmp_path)
    assert (events.last("bits/conv"), events.last("bits/fc")) == (8, 3)
    assert not any("norm" in tag for tag in events.tags)
    trained = {w.name.split("/")[-2].removeprefix("quant_"): w for w in state.model.weights if "kernel:0" in w.name}
    kernel = trained["fc"].numpy()
    step = np.abs(kernel).max() / 3
    levels = np.round(kernel / step)
    assert events.last("distinct_values/fc") == np.unique(levels).size <= 7
    assert events.last("sparsity/fc") == pytest.approx(zeros(levels), abs=1 / kernel.size)


def test_rounded_weights_and_bits_under_tfmots_quantization(tmp_path, fresh_model, train):
    model = kd.tfmot.quantization.keras.quantize_model(fresh_model())
    train(model, WeightSummaries(tmp_path))
    events = Events(tmp_path)
    assert (events.last("bits/conv"), events.last("bits/fc")) == (8, 8)
    wrapper = next(layer for layer in model.layers if layer.name == "quant_fc")
    variables = {w.name.split("/")[-1]: w.numpy() for w in wrapper.weights}
    # In inference the range is the one that the last training step stored, not that of today's values.
    step = 2 * variables["kernel_max:0"] / 254
    levels = np.clip(np.round(variables["kernel:0"] / step), -127, 127)
    assert events.last("sparsity/fc") == pytest.approx(zeros(levels), abs=1 / levels.size)
    assert events.last("distinct_values/fc") == pytest.approx(np.unique(levels).size, abs=2)


def test_several_weights_of_a_layer_and_nested_models(tmp_path):
    layers = kd.keras.layers
    kd.keras.utils.set_random_seed(0)
    inner = kd.keras.Sequential([layers.LSTM(2, input_shape=(4, 3), name="lstm")], name="encoder")
    model = kd.keras.Sequential([inner, layers.Dense(2, name="fc")])
    model.compile("sgd", "mse")
    inputs, targets = np.zeros((8, 4, 3), np.float32), np.zeros((8, 2), np.float32)
    history = model.fit(inputs, targets, verbose=0, callbacks=[WeightSummaries(tmp_path)]).history
    tags = {tag.removeprefix("sparsity/") for tag in Events(tmp_path).tags if tag.startswith("sparsity/")}
    assert tags == {"encoder/lstm/lstm_cell/kernel", "encoder/lstm/lstm_cell/recurrent_kernel", "fc"}
    assert history["sparsity"] == [0.0]


def test_every_second_epoch_into_one_file(tmp_path, data, fresh_model, train):
    model, callback = fresh_model(), WeightSummaries(tmp_path, frequency_epochs=2)
    history = train(model, callback, epochs=3)
    assert len(history["sparsity"]) == 1
    model.fit(*data, initial_epoch=3, epochs=4, verbose=0, callbacks=[callback])
    assert sorted(Events(tmp_path).series("sparsity/fc")) == [1, 3]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_model_without_weights_logs_nothing(tmp_path):
    model = kd.keras.Sequential([kd.keras.layers.BatchNormalization(input_shape=(2,))])
    model.compile("sgd", "mse")
    ones = np.ones((4, 2), np.float32)
    assert "sparsity" not in model.fit(ones, ones, verbose=0, callbacks=[WeightSummaries(tmp_path)]).history


def test_frequency_must_be_positive(tmp_path):
    with pytest.raises(RecipeError, match=r"at least 1\. Received: 0"):
        WeightSummaries(tmp_path, frequency_epochs=0)


def test_the_package_needs_no_tensorflow_until_used():
    program = "import sys, tfcompress.callbacks as c; dir(c); sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
