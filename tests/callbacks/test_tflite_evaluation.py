import random
import threading

import numpy as np
import pytest
from tf_keras.src import backend

from tfcompress import keras_door as kd
from tfcompress.callbacks import TFLiteEvaluation, WeightSummaries
from tfcompress.callbacks._inference_model import randomness_kept
from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.settings import ConversionSettings
from tfcompress.evaluate import predict
from tfcompress.techniques.base import StepPlan
from tfcompress.techniques.clustering import Clustering
from tfcompress.techniques.quantization import Quantization
from tfcompress.vocabulary.errors import ConversionError, DataError, ModelError, RecipeError
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import State
from tfcompress.vocabulary.training import Task


def plain(model, data):
    return State(model), [], lambda state: state.model


def tfmot_pruned(model, data):
    sparsity = kd.tfmot.sparsity.keras
    wrapped = sparsity.prune_low_magnitude(model, sparsity.ConstantSparsity(0.5, begin_step=1, frequency=1))
    return State(wrapped), [sparsity.UpdatePruningStep()], lambda state: sparsity.strip_pruning(state.model)


def tfmot_quantized(model, data):
    return State(kd.tfmot.quantization.keras.quantize_model(model)), [], lambda state: state.model


def technique(step, *promises):
    def prepare(model, data):
        plan = StepPlan(steps_per_epoch=3, epochs=1, calibration=data[0][:32], seed=0)
        state = step.prepare(State(model, promises=promises), plan)
        return state, step.callbacks(state), lambda state: step.finish(state).model

    return prepare


WAYS = {
    "plain": plain,
    "tfmot_pruned": tfmot_pruned,
    "tfmot_quantized": tfmot_quantized,
    "clustered": technique(Clustering(clusters=4)),
    # The promise makes the quantizer carry a mask while it trains, which `finish` settles into the weight.
    "quantized": technique(Quantization(per_layer={"fc": 4}), Promise("fc/kernel", "zeros", 0.0)),
}


def values(variables):
    return [variable.numpy() for variable in variables]


def drawn():
    """What the generators give next, the one that layers are initialized from first."""
    layer = kd.keras.layers.Dense(3)
    layer.build((None, 2))
    return [layer.kernel.numpy(), random.random(), np.random.random(), float(kd.tf.random.uniform(()))]


@pytest.mark.parametrize("way", WAYS)
def test_training_is_undisturbed_and_its_model_evaluated(way, data, tmp_path, fresh_model, train):
    def trained(*extra):
        state, needed, finish = WAYS[way](fresh_model(), data)
        # The evaluation comes before the callbacks that put pruned weights where the forward pass has them.
        train(state.model, *extra, *needed, epochs=1)
        seeds = [layer._random_generator._seed for layer in state.model.submodules if layer.name == "drop"]
        everything = [*values(state.model.weights), *values(state.model.optimizer.variables), *drawn(), seeds]
        # At the end biases are rounded as in the file, which until then alone has them so.
        outputs = state.model.predict(data[0], verbose=0)
        return everything, outputs, finish(state)

    evaluation = TFLiteEvaluation(data[0][:16], data, Task(metric="sparse_categorical_crossentropy"))
    undisturbed, outputs, model = trained()
    observed, *_ = trained(evaluation, WeightSummaries(tmp_path))
    assert len(undisturbed) == len(observed)
    assert all(np.array_equal(u, o) for u, o in zip(undisturbed, observed, strict=True))

    def crossentropy(outputs):
        return -np.log((outputs / outputs.sum(axis=1, keepdims=True))[np.arange(96), data[1]]).mean()

    content = quantized_tflite(model, "int8", ConversionSettings(), data[0][:16])
    [record] = evaluation.history
    assert record.epoch == 1
    assert record.float_metric == pytest.approx(crossentropy(outputs), rel=1e-5)
    assert record.tflite_metric == pytest.approx(crossentropy(predict(content, data[0])), rel=1e-5)
    assert record.float_metric != record.tflite_metric
    # Names of tensors differ by the wrappers' prefixes.
    assert record.bytes == pytest.approx(len(content), abs=600)


def test_a_second_training_draws_what_it_would_have_drawn(data, dense_model, train):
    def trained_twice(*extra):
        model = dense_model()
        train(model, *extra, epochs=1)
        # Compiling again makes Dropout, which has a seed of its own, be traced again.
        train(model, epochs=1)
        return values(model.weights)

    undisturbed, observed = trained_twice(), trained_twice(TFLiteEvaluation(data[0][:16], data))
    assert all(np.array_equal(u, o) for u, o in zip(undisturbed, observed, strict=True))


@pytest.mark.parametrize("seeded", [False, True])
def test_seeds_come_back_to_whichever_generator_gave_them(seeded, dense_model, monkeypatch):
    # Keras draws from a generator of its own in a thread that has called set_random_seed, else from Python's.
    model = dense_model()
    if not seeded:
        monkeypatch.setattr(backend, "_SEED_GENERATOR", threading.local())
    state = random.getstate()
    with randomness_kept(model):
        first = drawn()[0]
    assert random.getstate() == state
    assert np.array_equal(drawn()[0], first)


def test_the_logs_hold_both_metrics_and_early_stopping_can_watch_them(data, dense_model, train, capfd):
    evaluation = TFLiteEvaluation(data[0][:16], data)
    # No epoch can gain that much, so that the second one is the last.
    stopping = kd.keras.callbacks.EarlyStopping("tflite_accuracy", patience=1, min_delta=9, mode="max")
    model = dense_model()
    history = train(model, evaluation, stopping, epochs=4)
    assert [record.epoch for record in evaluation.history] == [1, 2]
    assert [record.metric for record in evaluation.history] == ["accuracy"] * 2
    assert history["tflite_accuracy"] == [record.tflite_metric for record in evaluation.history]
    assert history["float_accuracy"] == [record.float_metric for record in evaluation.history]
    accuracy = np.mean(model.predict(data[0], verbose=0).argmax(axis=1) == data[1])
    assert history["float_accuracy"][-1] == pytest.approx(accuracy)
    assert capfd.readouterr().out == ""


def test_every_second_epoch_and_the_last(data, dense_model, train):
    evaluation = TFLiteEvaluation(data[0][:16], data, every=2)
    history = train(dense_model(), evaluation, epochs=3)
    assert [record.epoch for record in evaluation.history] == [2, 3]
    assert len(history["tflite_accuracy"]) == 2


class StopAt(kd.keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch + 1 == self.epoch


@pytest.mark.parametrize("behind", [False, True])
def test_the_last_epoch_of_a_training_that_is_stopped(behind, data, dense_model, train):
    evaluation = TFLiteEvaluation(data[0][:16], data, every=4)
    callbacks = [StopAt(2), evaluation]
    history = train(dense_model(), *(reversed(callbacks) if behind else callbacks), epochs=9)
    assert [record.epoch for record in evaluation.history] == [2]
    assert ("tflite_accuracy" in history) != behind


def test_a_sequential_model_that_is_built_by_fit(data, train):
    layers = kd.keras.layers
    model = kd.keras.Sequential([layers.Flatten(), layers.Dense(3, activation="softmax")])
    evaluation = TFLiteEvaluation(data[0][:16], data, Task(metric=kd.keras.metrics.SparseCategoricalAccuracy()))
    history = train(model, evaluation, epochs=1)
    assert history["tflite_sparse_categorical_accuracy"] == [evaluation.history[0].tflite_metric]


def test_another_number_format(data, dense_model, train):
    evaluation = TFLiteEvaluation(data[0][:16], data, number_format="float16")
    train(dense_model(), evaluation, epochs=1)
    assert evaluation.history[0].tflite_metric == pytest.approx(evaluation.history[0].float_metric, abs=0.02)


def test_a_regression(train):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(64, 4)).astype(np.float32)
    targets = inputs.sum(axis=1)
    model = kd.keras.Sequential([kd.keras.layers.Dense(1, input_shape=(4,))])
    model.compile("adam", "mse")
    evaluation = TFLiteEvaluation(inputs, (inputs, targets), Task(loss="mse", metric="mean_absolute_error"))
    model.fit(inputs, targets, verbose=0, callbacks=[evaluation])
    expected = np.abs(model.predict(inputs, verbose=0)[:, 0] - targets).mean()
    assert evaluation.history[0].float_metric == pytest.approx(expected, rel=1e-5)
    assert evaluation.history[0].tflite_metric == pytest.approx(expected, rel=0.05)


def refused_before_training(model, data, evaluation):
    model.compile("adam", "sparse_categorical_crossentropy")
    before = model.get_weights()
    with pytest.raises((ConversionError, ModelError)) as failure:
        model.fit(*data, verbose=0, callbacks=[evaluation])
    assert all(np.array_equal(b, a) for b, a in zip(before, model.get_weights(), strict=True))
    return str(failure.value)


def test_a_model_that_stays_float_is_refused_before_training(data):
    layers = kd.keras.layers
    model = kd.keras.Sequential(
        [layers.Flatten(input_shape=(8, 8, 1)), layers.Dense(4, activation="elu", name="bent"), layers.Dense(3)]
    )
    assert "ELU" in refused_before_training(model, data, TFLiteEvaluation(data[0][:16], data))


def test_a_subclassed_model_is_refused_before_training(data):
    class Own(kd.keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = kd.keras.layers.Dense(3)

        def call(self, inputs):
            return self.dense(kd.tf.reshape(inputs, [-1, 64]))

    assert "Own" in refused_before_training(Own(), data, TFLiteEvaluation(data[0][:16], data))


def test_data_that_do_not_fit_the_model_are_refused_before_training(data, dense_model):
    wrong = TFLiteEvaluation(np.zeros((4, 5), np.float32), (np.zeros((4, 5), np.float32), np.zeros(4)))
    model = dense_model()
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(DataError, match=r"\(5,\).*\(8, 8, 1\)"):
        model.fit(*data, verbose=0, callbacks=[wrong])


def test_all_wrong_arguments_are_named_at_once():
    with pytest.raises(RecipeError) as failure:
        TFLiteEvaluation(np.zeros((0, 4)), (np.zeros((3, 5)), np.zeros(2)), every=0, number_format="int7")
    message = str(failure.value)
    for part in ("every must be at least 1, and is 0", "'int7'", "3 inputs and 2 targets", "(0, 4)"):
        assert part in message


def test_a_metric_by_name_is_of_the_probabilities_of_logits(data):
    kd.keras.utils.set_random_seed(3)
    model = kd.keras.Sequential([kd.keras.layers.Flatten(input_shape=(8, 8, 1)), kd.keras.layers.Dense(1)])
    labels = (data[1] > 0).astype(int)
    model.compile("adam", kd.keras.losses.BinaryCrossentropy(from_logits=True))
    evaluation = TFLiteEvaluation(data[0][:16], (data[0], labels), Task(loss="binary_crossentropy"))
    model.fit(data[0], labels, verbose=0, callbacks=[evaluation])
    outputs = model.predict(data[0], verbose=0)[:, 0]
    [record] = evaluation.history
    assert record.float_metric == pytest.approx(np.mean((outputs > 0) == labels))
    assert record.float_metric != pytest.approx(np.mean((outputs > 0.5) == labels))
    assert record.tflite_metric == pytest.approx(record.float_metric, abs=0.05)
