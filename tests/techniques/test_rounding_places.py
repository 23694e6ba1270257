"""Training rounds where the file rounds, and in the same steps: else the two are different networks."""

import numpy as np
import pytest
from fixtures.models import dense, inputs_for, run

from tfcompress import keras_door as kd
from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.settings import ConversionSettings
from tfcompress.enabling import opened
from tfcompress.evaluate.prediction import io_types, predict
from tfcompress.techniques.quantization import Quantization
from tfcompress.vocabulary.state import State


def difference_in_steps(content, model, inputs):
    return np.abs(predict(content, inputs) - model.predict(inputs, verbose=0)) / io_types(content).output.scale


def test_pixels_between_two_steps_are_the_same_integers_in_training_and_in_the_file():
    from tensorflow_model_optimization.python.core.quantization.keras.quantize_layer import QuantizeLayer

    pixels = ((np.arange(256) - 127.5) / 127.5).astype(np.float32)
    samples = np.resize(pixels, (64, 8))
    state = run(Quantization(), State(dense()), samples, epochs=20)
    kind = io_types(quantized_tflite(state.model, "int8", ConversionSettings(), samples)).input
    layer = next(layer for layer in state.model.layers if isinstance(layer, QuantizeLayer))
    trained = layer(kd.tf.constant(samples), training=False).numpy()
    np.testing.assert_allclose(kind.decode(kind.encode(samples)), trained, atol=1e-6)
    # Only the two in the middle have become one.
    assert len(np.unique(kind.encode(pixels))) == 255


def test_averages_keep_what_they_are_of_unclipped():
    # As in NASNet: averages and the largest values of the same, joined by sums.
    layers = kd.keras.layers
    x = inputs = layers.Input((8, 8, 4))
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(x))
    x = layers.ZeroPadding2D(1, name="pad")(x)
    averages = layers.AveragePooling2D(3, strides=1, name="averages")(x)
    x = layers.Add(name="sum")([averages, layers.MaxPooling2D(3, strides=1)(x)])
    model = kd.keras.Model(inputs, layers.Flatten()(x))
    samples = inputs_for(model)
    state = run(Quantization(fit={"epochs": 0}), State(model), samples, epochs=0)
    content = quantized_tflite(state.model, "int8", ConversionSettings(), samples)
    # Only where a value lies between two steps may the two round apart.
    assert difference_in_steps(content, state.model, samples).mean() < 0.05


@pytest.mark.parametrize("shift", [0.0, -0.5])
def test_halves_among_averages_are_rounded_as_in_the_file(shift):
    layers = kd.keras.layers
    kd.keras.utils.set_random_seed(0)
    inputs = layers.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, padding="same", bias_initializer=kd.keras.initializers.Constant(shift))(inputs)
    x = layers.ReLU()(x) if shift else x
    model = kd.keras.Model(inputs, layers.AveragePooling2D(2, name="averages")(x))
    samples = inputs_for(model)
    state = run(Quantization(fit={"epochs": 0}), State(model), samples, epochs=0)
    content = quantized_tflite(state.model, "int8", ConversionSettings(), samples)
    # A quarter of the averages are halves.
    assert difference_in_steps(content, state.model, samples).mean() < 0.001
    assert len(Flatbuffer(content).operators) == 2


def test_what_several_relus_take_is_rounded_once():
    layers = kd.keras.layers
    x = inputs = layers.Input((8, 8, 4))
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, use_bias=False, name="conv")(x))
    branches = [layers.Conv2D(8, 1)(relu(x)) for relu in (layers.ReLU(), layers.Activation("relu"))]
    model = kd.keras.Model(inputs, layers.Flatten()(layers.Add()(branches)))
    samples = inputs_for(model)
    state = run(Quantization(fit={"epochs": 0}), State(model), samples, epochs=0)
    content = quantized_tflite(state.model, "int8", ConversionSettings(), samples)
    assert difference_in_steps(content, state.model, samples).mean() < 0.05


@pytest.mark.parametrize("relus", [1, 2])
def test_what_is_joined_is_rounded_in_one_range(relus):
    # As in NASNet: one input of the Concatenate is taken elsewhere too, and several ReLUs take the whole.
    layers = kd.keras.layers
    kd.keras.utils.set_random_seed(0)
    inputs = layers.Input((8, 8, 4))
    wide = layers.BatchNormalization(gamma_initializer=kd.keras.initializers.Constant(3.0))(layers.Conv2D(8, 3)(inputs))
    sums = [layers.Add()([layers.Conv2D(8, 1)(wide), layers.Conv2D(8, 1)(wide)]) for _ in range(2)]
    joined = layers.Concatenate()([wide, *sums])
    branches = [layers.Conv2D(8, 1)(layers.ReLU()(joined)) for _ in range(relus)]
    model = kd.keras.Model(inputs, layers.Flatten()(layers.Add()(branches) if relus > 1 else branches[0]))
    samples = inputs_for(model)
    state = run(Quantization(fit={"epochs": 0}), State(model), samples, epochs=0)
    content = quantized_tflite(state.model, "int8", ConversionSettings(), samples)
    # What is taken elsewhere too is put in the common range by a QUANTIZE, whose factor XNNPACK rounds to 1/256.
    assert difference_in_steps(content, state.model, samples).mean() < 0.1


def test_sums_of_many_are_rounded_two_at_a_time():
    layers = kd.keras.layers
    kd.keras.utils.set_random_seed(0)
    inputs = layers.Input((8, 8, 4))
    total = layers.Add()([layers.Conv2D(8, 3)(inputs) for _ in range(4)])
    model = kd.keras.Model(inputs, layers.Flatten()(total))
    samples = inputs_for(model)
    state = run(Quantization(fit={"epochs": 0}), opened(State(model)).state, samples, epochs=0)
    content = quantized_tflite(state.model, "int8", ConversionSettings(), samples)
    assert difference_in_steps(content, state.model, samples).mean() < 0.05


def test_averages_of_what_is_not_trained_as_integers_borrow_no_range_from_before_it():
    layers = kd.keras.layers
    x = inputs = layers.Input((8, 8, 4))
    x = layers.LayerNormalization(gamma_initializer=kd.keras.initializers.Constant(50.0))(layers.Conv2D(8, 3)(x))
    model = kd.keras.Model(inputs, layers.Flatten()(layers.AveragePooling2D(2, name="averages")(x)))
    samples = inputs_for(model)
    state = run(Quantization(fit={"epochs": 0}), State(model), samples, epochs=0)
    expected = model.predict(samples, verbose=0)
    assert np.abs(state.model.predict(samples, verbose=0) - expected).max() < 0.1 * np.abs(expected).max()


def test_averages_in_a_range_learned_to_nothing_are_numbers():
    from tfcompress.techniques._activation_ranges import BorrowedRangeQuantizer, LearnedRangeQuantizer, step_of

    ranges = {"min_var": kd.tf.Variable(0.0), "max_var": kd.tf.Variable(-0.5)}
    averages = BorrowedRangeQuantizer(LearnedRangeQuantizer())(kd.tf.constant([0.0, 1.0]), True, ranges)
    assert np.isfinite(averages.numpy()).all()
    assert step_of(ranges) > 0


def test_averages_of_averages_borrow_once():
    from tfcompress.techniques._activation_ranges import ActivationQuantizer, BorrowedRangeQuantizer

    lender = ActivationQuantizer()
    assert BorrowedRangeQuantizer(BorrowedRangeQuantizer(lender))._lender is lender


@pytest.mark.parametrize(("least", "most"), [(0.0, 2.55), (-1.28, 1.27)])
def test_what_is_at_an_end_of_its_range_is_trained(least, most):
    from tfcompress.techniques._activation_ranges import ActivationQuantizer, BorrowedRangeQuantizer

    quantizer = BorrowedRangeQuantizer(ActivationQuantizer())
    ranges = {"min_var": kd.tf.Variable(least), "max_var": kd.tf.Variable(most)}
    values = kd.tf.Variable([least, 0.005, most])
    with kd.tf.GradientTape() as tape:
        total = kd.tf.reduce_sum(quantizer(values, True, ranges))
    assert tape.gradient(total, values).numpy().tolist() == [1.0, 1.0, 1.0]
