import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.proof import prove_integer, require_integer
from tfcompress.convert.settings import ConversionSettings
from tfcompress.models.rewrites import EXPORT, rewrite
from tfcompress.vocabulary.errors import ModelError


def _operators(model):
    samples = np.random.default_rng(0).normal(0, 1, (4, *model.input_shape[1:])).astype("float32")
    flat = Flatbuffer(quantized_tflite(model, "int8", ConversionSettings(), samples))
    require_integer(prove_integer(flat))
    return [op.name for op in flat.operators]


def test_an_average_over_the_whole_image_is_a_mean_in_the_file(layers, randomised, same_outputs):
    stack = [layers.Conv2D(4, 3), layers.AveragePooling2D(6, name="pool"), layers.Flatten(), layers.Dense(3)]
    model = randomised(kd.keras.Sequential([layers.Input((8, 8, 3)), *stack]))
    done = rewrite(model, ["mean_pooling"])
    assert same_outputs(model, done.model)
    assert "AVERAGE_POOL_2D" in _operators(model)
    assert "MEAN" in _operators(done.model)
    assert "AVERAGE_POOL_2D" not in _operators(done.model)
    assert (done.changes[0].layer, done.changes[0].became) == ("pool", ("pool",))


@pytest.mark.parametrize("config", [{"pool_size": 3}, {"pool_size": 6, "strides": 1, "padding": "same"}])
def test_another_average_stays(layers, config):
    model = kd.keras.Sequential([layers.Input((6, 6, 3)), layers.AveragePooling2D(**config)])
    assert rewrite(model, ["mean_pooling"]).changes == ()


@pytest.mark.parametrize("kind", ["GRU", "SimpleRNN", "bidirectional", "sequences"])
def test_recurrent_layers_are_unrolled_and_convert(layers, randomised, same_outputs, kind):
    layer = {
        "GRU": lambda: layers.GRU(4, name="rnn"),
        "SimpleRNN": lambda: layers.SimpleRNN(4, name="rnn"),
        "bidirectional": lambda: layers.Bidirectional(layers.GRU(4), name="rnn"),
        "sequences": lambda: layers.GRU(4, return_sequences=True, go_backwards=True, name="rnn"),
    }[kind]()
    model = randomised(kd.keras.Sequential([layers.Input((6, 3)), layer, layers.Dense(2)]))
    done = rewrite(model, EXPORT)
    assert same_outputs(model, done.model)
    assert [change.layer for change in done.changes] == ["rnn"]
    assert "WHILE" not in _operators(done.model)


def test_a_loop_of_open_length_or_with_a_lasting_state_stays(layers):
    open_length = kd.keras.Sequential([layers.Input((None, 3)), layers.GRU(4)])
    stateful = kd.keras.Sequential([layers.Input((6, 3), batch_size=4), layers.GRU(4, stateful=True)])
    assert rewrite(open_length, EXPORT).changes == rewrite(stateful, EXPORT).changes == ()


def test_a_loop_too_long_to_unroll_is_refused_with_the_remedy(layers):
    long = kd.keras.Sequential([layers.Input((5000, 3)), layers.GRU(4, name="long"), layers.Dense(2)])
    with pytest.raises(ModelError, match=r"at most 200 steps.*long has 5000.*Remedy: an LSTM"):
        rewrite(long, EXPORT)


def test_an_lstm_stays(layers):
    model = kd.keras.Sequential([layers.Input((6, 3)), layers.LSTM(4)])
    assert rewrite(model, EXPORT).changes == ()
