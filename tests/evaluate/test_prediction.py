from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress import keras_door as kd
from tfcompress.evaluate import TensorType, io_types, open_interpreter, output_step, predict
from tfcompress.vocabulary.errors import EvaluationError


def _by_hand(path, inputs):
    """Outputs of an int8 file, one sample at a time, with the file's own numbers."""
    interpreter = open_interpreter(path, kernels="xnnpack")
    source, sink = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    outputs = []
    for sample in inputs:
        (scale, zero), (out_scale, out_zero) = source["quantization"], sink["quantization"]
        stored = np.clip(np.round(sample / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(source["index"], stored[None])
        interpreter.invoke()
        outputs.append((interpreter.get_tensor(sink["index"])[0].astype(float) - out_zero) * out_scale)
    return np.array(outputs, np.float32)


@pytest.mark.parametrize("batch_size", [1, 7, 50, 64])
def test_a_batch_gives_what_single_samples_give(tiny_net, batch_size):
    expected = _by_hand(tiny_net.int8, tiny_net.samples)
    actual = predict(tiny_net.int8, tiny_net.samples, batch_size=batch_size)
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual, expected)


def test_float_files_give_what_keras_gives(tiny_net):
    expected = tiny_net.keras.predict(tiny_net.samples, verbose=0)
    np.testing.assert_allclose(predict(tiny_net.float, tiny_net.samples), expected, atol=1e-5)


def test_int8_files_are_near_what_keras_gives(tiny_net):
    expected = tiny_net.keras.predict(tiny_net.samples, verbose=0)
    assert np.abs(predict(tiny_net.int8, tiny_net.samples) - expected).max() < 0.05


def test_types_are_those_of_the_file(tiny_net):
    types = io_types(tiny_net.int8)
    assert (types.input.dtype, types.input.shape) == ("int8", (1, 8, 8, 1))
    # A softmax's int8 output is fixed by TFLite's specification: scale 1/256, zero point -128.
    assert types.output == TensorType("int8", (1, 3), 1 / 256, -128)
    assert output_step(tiny_net.int8) == 1 / 256
    assert output_step(tiny_net.float) == 0
    assert not io_types(tiny_net.float).input.is_quantized


@given(
    st.floats(-300, 300, width=32),
    st.sampled_from([0.5, 0.25, 2.0, 0.0039215688593685627]),
    st.integers(-128, 127),
)
def test_quantizing_rounds_halves_away_from_zero_and_saturates(value, scale, zero_point):
    steps = Fraction(float(np.float32(value) / np.float32(scale)))
    away = int(abs(steps) + Fraction(1, 2)) * (1 if steps >= 0 else -1)
    expected = min(max(away + zero_point, -128), 127)
    assert TensorType("int8", (1,), scale, zero_point).encode(np.array([value]))[0] == expected


def test_the_largest_number_below_a_half_rounds_to_zero():
    below = np.nextafter(np.float32(0.5), np.float32(0))
    assert TensorType("int8", (1,), 1.0, 0).encode(np.array([below, -below])).tolist() == [0, 0]


@given(st.lists(st.integers(-128, 127), min_size=1), st.integers(-128, 127))
def test_decoding_then_encoding_changes_nothing(stored, zero_point):
    kind = TensorType("int8", (1,), 0.0123, zero_point)
    stored = np.array(stored, np.int8)
    np.testing.assert_array_equal(kind.encode(kind.decode(stored)), stored)


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda x: kd.tf.reshape(x, [1, 12]) * 2.0, id="refuses another batch"),
        pytest.param(lambda x: kd.tf.reshape(x, [1, -1]) * 2.0, id="mixes the samples of a batch"),
    ],
)
def test_a_graph_with_a_fixed_batch_runs_at_its_own(function, convert_function):
    path = convert_function(function, [1, 3, 4])
    inputs = np.random.default_rng(0).normal(size=(9, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(predict(path, inputs, batch_size=4), inputs.reshape(9, 12) * 2)


def test_the_last_batch_of_a_fixed_graph_is_filled_up(convert_function):
    path = convert_function(lambda x: kd.tf.reshape(x, [4, 3, 1]) + 1.0, [4, 3])
    inputs = np.arange(18, dtype=np.float32).reshape(6, 3)
    np.testing.assert_array_equal(predict(path, inputs), inputs[..., None] + 1)


@pytest.mark.parametrize("kernels", ["xnnpack", "builtin"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_state_of_an_lstm_does_not_leak_into_the_next_run(lstm_file, batch_size, kernels):
    path, model = lstm_file
    inputs = np.random.default_rng(0).normal(size=(6, 5, 2)).astype(np.float32)
    expected = np.concatenate([model(sample[None]) for sample in inputs])
    np.testing.assert_allclose(predict(path, inputs, batch_size=batch_size, kernels=kernels), expected, atol=1e-5)


def test_token_ids_keep_their_value(embedding_file):
    path, model = embedding_file
    ids = np.random.default_rng(0).integers(0, 20, (7, 6))
    np.testing.assert_allclose(predict(path, ids, batch_size=3), model(ids), atol=1e-6)
    with pytest.raises(EvaluationError, match="whole numbers"):
        predict(path, ids + 0.5)
    with pytest.raises(EvaluationError, match="within int32"):
        predict(path, np.full((1, 6), 2**40))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (np.zeros((2, 8, 8, 3)), r"\(8, 8, 1\), and came with \(8, 8, 3\)"),
        (np.zeros((2, 64)), r"came with \(64,\)"),
        (np.zeros((0, 8, 8, 1)), "at least one"),
        (np.full((1, 8, 8, 1), np.nan), "finite"),
        (np.array(0.0), "at least one"),
        (np.array([["a"]]), "numbers"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(tiny_net, inputs, words):
    with pytest.raises(EvaluationError, match=words):
        predict(tiny_net.int8, inputs)


def test_all_that_is_wrong_with_inputs_is_said_at_once(tiny_net):
    with pytest.raises(EvaluationError, match=r"\(8, 8, 1\).*finite"):
        predict(tiny_net.int8, np.full((2, 3), np.inf))


def test_a_graph_with_two_outputs_is_refused(convert_function):
    path = convert_function(lambda x: (x + 1.0, x * 2.0), [1, 3])
    with pytest.raises(EvaluationError, match="2 outputs"):
        predict(path, np.zeros((1, 3)))


def test_a_graph_that_runs_at_no_batch_says_why(convert_function):
    # The gather reads beyond its table whatever the batch.
    path = convert_function(lambda x: kd.tf.gather(kd.tf.constant([1.0, 2.0]), x), [1, 2], "int32")
    with pytest.raises(EvaluationError, match=r"at batch 3.*at batch 1"):
        predict(path, np.full((3, 2), 1000), kernels="builtin")
