import os

import numpy as np
import pytest
from fixtures.models import conv_bn, dense, inputs_for

from tfcompress import keras_door as kd
from tfcompress.convert.converter import float_tflite, quantized_tflite, with_preprocessing
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.settings import ConversionSettings
from tfcompress.convert.strip import strip_names
from tfcompress.evaluate.prediction import io_types, predict
from tfcompress.models.loading import fingerprint
from tfcompress.vocabulary.errors import ConversionError


def test_the_float_file_is_the_model(network):
    model, inputs = network
    content = float_tflite(model)
    assert (io_types(content).input.dtype, io_types(content).output.dtype) == ("float32", "float32")
    np.testing.assert_allclose(predict(content, inputs), model.predict(inputs, verbose=0), rtol=1e-4, atol=1e-5)


def test_conversion_changes_nothing_of_the_model():
    model = conv_bn()
    before = fingerprint(model)
    float_tflite(model)
    quantized_tflite(model, "int8", ConversionSettings(), inputs_for(model, 4))
    assert fingerprint(model) == before


def test_the_integer_file_computes_the_model(network, int8_file):
    model, inputs = network
    difference = np.abs(predict(int8_file, inputs) - model.predict(inputs, verbose=0))
    assert difference.mean() <= 2 * io_types(int8_file).output.scale


def test_ranges_come_from_the_calibration():
    model = dense()
    samples = np.random.default_rng(0).uniform(-1, 3, (50, 8)).astype(np.float32)
    kind = io_types(quantized_tflite(model, "int8", ConversionSettings(), samples)).input
    assert kind.scale == pytest.approx((samples.max() - samples.min()) / 255, rel=1e-4)


@pytest.mark.parametrize(("fed", "given_back"), [("uint8", "uint8"), ("float32", "float32"), ("uint8", "float32")])
def test_the_ends_have_the_types_asked_for(network, int8_file, fed, given_back):
    model, inputs = network
    content = quantized_tflite(model, "int8", ConversionSettings(input_type=fed, output_type=given_back), inputs)
    types = io_types(content)
    assert (types.input.dtype, types.output.dtype) == (fed, given_back)
    # The same numbers inside: only the ends differ.
    np.testing.assert_allclose(predict(content, inputs), predict(int8_file, inputs), atol=1e-5)


def test_a_file_with_a_float_island_runs_and_is_right(island, island_file):
    model, inputs = island
    difference = np.abs(predict(island_file, inputs) - model.predict(inputs, verbose=0))
    assert difference.mean() <= 2 * io_types(island_file).output.scale


@pytest.mark.parametrize(
    ("scale", "offset"),
    [(np.float32(1 / 127.5), np.float32(-1)), (np.array([0.1, 0.2, 0.3, 0.4]), np.array([1.0, 2, -1, 0])), (0.5, 0.0)],
)
def test_preprocessing_in_the_graph_is_preprocessing_before_it(network, scale, offset):
    model, _ = network
    raw = np.random.default_rng(0).uniform(0, 10, (20, 6, 6, 4)).astype(np.float32)
    inside = with_preprocessing(model, scale, offset)
    prepared = (raw * scale + offset).astype(np.float32)
    np.testing.assert_allclose(inside.predict(raw, verbose=0), model.predict(prepared, verbose=0), rtol=1e-4, atol=1e-4)


def test_a_quantized_file_with_preprocessing_agrees_with_one_without(network):
    model, _ = network
    raw = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 4)).astype(np.float32)
    scale, offset = np.float32(1 / 127.5), np.float32(-1)
    prepared = raw * scale + offset
    settings = ConversionSettings()
    inside = quantized_tflite(with_preprocessing(model, scale, offset), "int8", settings, raw)
    outside = quantized_tflite(model, "int8", settings, prepared)
    difference = np.abs(predict(inside, raw) - predict(outside, prepared)) / io_types(outside).output.scale
    assert difference.mean() <= 2


def test_an_operator_that_tflite_lacks_is_named_with_its_layer():
    inputs = kd.keras.Input((4, 4))
    x = kd.keras.layers.Lambda(lambda value: kd.tf.linalg.svd(value)[0], name="singular")(inputs)
    model = kd.keras.Model(inputs, x, name="net")
    for convert in (float_tflite, lambda m: quantized_tflite(m, "int8", ConversionSettings(), np.ones((2, 4, 4)))):
        with pytest.raises(ConversionError) as failure:
            convert(model)
        lines = str(failure.value).splitlines()
        assert lines[1].strip() == "Svd at net/singular/Svd: .tflite has no such operator"
        assert len(lines) == 3
        assert "Remedy: replace the layers" in lines[2]


def test_every_operator_that_tflite_lacks_is_named():
    tf, layers = kd.tf, kd.keras.layers
    inputs = layers.Input((4,))
    x = layers.Lambda(lambda v: tf.ensure_shape(tf.py_function(lambda u: u, [v], tf.float32), (None, 4)), name="own")(
        inputs
    )
    with pytest.raises(ConversionError, match=r"EagerPyFunc at net/own(.|\n)*EnsureShape at net/own"):
        float_tflite(kd.keras.Model(inputs, layers.Dense(2)(x), name="net"))


def test_other_refusals_carry_the_converters_own_words():
    model = dense()
    with pytest.raises(ConversionError) as failure:
        quantized_tflite(model, "int8", ConversionSettings(), np.zeros((3, 7), np.float32))
    assert "refused the model" in str(failure.value)
    assert "dimension 1 of tensor 0 with value 8 to 7" in str(failure.value)


def test_what_the_native_compiler_prints_does_not_reach_the_terminal(capfd):
    inputs = kd.keras.Input((4, 4))
    x = kd.keras.layers.Lambda(lambda value: kd.tf.linalg.svd(value)[0])(inputs)
    with pytest.raises(ConversionError):
        float_tflite(kd.keras.Model(inputs, x))
    os.write(2, b"visible again\n")
    assert capfd.readouterr().err.strip() == "visible again"


def test_token_ids_stay_integers():
    layers = kd.keras.layers
    ids = layers.Input((6,), dtype="int32")
    x = layers.Flatten()(layers.Embedding(20, 3)(ids))
    model = kd.keras.Model(ids, layers.Dense(2)(x))
    samples = np.random.default_rng(0).integers(0, 20, (16, 6))
    content = quantized_tflite(model, "int8", ConversionSettings(), samples.astype(np.float32))
    assert io_types(content).input.dtype == "int32"
    difference = np.abs(predict(content, samples) - model.predict(samples, verbose=0))
    assert difference.max() <= 3 * io_types(content).output.scale


def loops_of_a_cell():
    """A network whose calibration ends its process, at a fixed batch: others are refused before."""
    keras = kd.keras
    series = keras.Input((5, 2), batch_size=1)
    return keras.Model(series, keras.layers.Dense(2)(keras.layers.RNN(keras.layers.GRUCell(4))(series)), name="loops")


def test_a_crash_of_the_converter_is_a_conversion_error(network):
    samples = np.random.default_rng(0).normal(size=(4, 5, 2)).astype(np.float32)
    with pytest.raises(ConversionError) as failure:
        quantized_tflite(loops_of_a_cell(), "int8", ConversionSettings(), samples)
    assert str(failure.value).startswith("Converting loops to int8 (calibrating): native code ended its process by")
    assert "by a GRU, SimpleRNN or LSTM" in str(failure.value)
    assert float_tflite(network[0]), "the next conversion works"


@pytest.mark.parametrize(
    ("limits", "words"), [({"time_limit_s": 0.01}, r"limit of 0\.01 s"), ({"memory_limit_mb": 50}, "limit of 50 MiB")]
)
def test_a_conversion_keeps_to_its_limits(limits, words):
    with pytest.raises(ConversionError, match=f"Converting net to int8.*{words}"):
        quantized_tflite(dense(), "int8", ConversionSettings(**limits), inputs_for(dense()))
    assert float_tflite(dense(), ConversionSettings(time_limit_s=300, memory_limit_mb=20_000))


@pytest.mark.parametrize("limits", [{"time_limit_s": 0}, {"memory_limit_mb": -1}])
def test_limits_are_above_zero(limits):
    with pytest.raises(ValueError, match="greater than 0"):
        ConversionSettings(**limits)


def test_layers_of_the_callers_own_need_not_be_known_elsewhere():
    class Doubling(kd.keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    inputs = kd.keras.Input((8,))
    model = kd.keras.Model(inputs, Doubling()(inputs))
    samples = inputs_for(model, 4)
    np.testing.assert_allclose(predict(float_tflite(model), samples), 2 * samples)


def test_a_model_that_tensorflow_cannot_save_is_converted_by_its_computation():
    hidden = [kd.tf.Variable(2.0)]
    inputs = kd.keras.Input((8,), name="features")
    model = kd.keras.Model(inputs, kd.keras.layers.Lambda(lambda x: x * hidden[0])(inputs), name="net")
    samples = np.random.default_rng(0).uniform(-1, 1, (20, 8)).astype(np.float32)
    np.testing.assert_allclose(predict(float_tflite(model), samples), 2 * samples, rtol=1e-6)
    content = quantized_tflite(model, "int8", ConversionSettings(), samples)
    step = io_types(content).output.scale
    assert np.abs(predict(content, samples) - 2 * samples).max() <= 2 * step


def test_a_model_that_cannot_be_computed_says_why():
    broken = []

    def compute(x):
        if broken:
            raise ValueError("no longer")
        return x

    inputs = kd.keras.Input((8,))
    model = kd.keras.Model(inputs, kd.keras.layers.Lambda(compute)(inputs), name="net")
    broken.append(True)
    with pytest.raises(ConversionError, match=r"net: (.|\n)*no longer(.|\n)*Remedy: keep the variables"):
        float_tflite(model)


def test_a_full_disk_is_not_the_models_fault(monkeypatch):
    def full(*_, **__):
        raise kd.tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(kd.tf.saved_model, "save", full)
    with pytest.raises(ConversionError, match=r"Cannot write the model .*No space left(.|\n)*TMPDIR"):
        float_tflite(dense())


def test_the_file_is_that_of_the_converters_own_way(network):
    model, inputs = network
    tf = kd.tf
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([sample[None]] for sample in inputs)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    direct, contained = converter.convert(), quantized_tflite(model, "int8", ConversionSettings(), inputs)
    assert strip_names(contained) == strip_names(direct)
    assert [t.name for t in Flatbuffer(contained).tensors] == [t.name for t in Flatbuffer(direct).tensors]
    assert [kd.litert.Interpreter(model_content=c).get_signature_list() for c in (contained, direct)] == [
        {"serving_default": {"inputs": model.input_names, "outputs": model.output_names}}
    ] * 2
