import numpy as np
import pytest
from fixtures.models import conv_bn, inputs_for

from tfcompress import keras_door as kd
from tfcompress.convert.converter import float_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.settings import ConversionSettings
from tfcompress.evaluate.prediction import io_types, predict
from tfcompress.shipping import ship
from tfcompress.vocabulary.errors import ConversionError, PromiseError, RecipeError
from tfcompress.vocabulary.preprocessing import Preprocessing
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import State

RAW = Preprocessing.model_validate("raw")


@pytest.fixture(scope="module")
def model():
    return conv_bn()


def elu():
    layers = kd.keras.layers
    inputs = layers.Input((8,))
    return kd.keras.Model(inputs, layers.Dense(3, name="out")(layers.ELU(name="elu")(layers.Dense(6)(inputs))))


def test_the_shipped_file_is_stripped_but_proven_with_its_names(model):
    inputs = inputs_for(model)
    promise = Promise("c1/kernel", "levels", 255)
    state = State(model, (promise,), number_format="int8")
    stripped, named = (ship(state, ConversionSettings(strip_names=s), RAW, inputs) for s in (True, False))
    assert stripped.proof.full_integer
    assert [found.promise for found in stripped.promises] == [promise]
    assert len(stripped.content) < len(named.content)
    assert {t.name for t in Flatbuffer(stripped.content).tensors} == {""}
    assert any(t.name.startswith("net/") for t in Flatbuffer(named.content).tensors)
    np.testing.assert_array_equal(predict(stripped.content, inputs), predict(named.content, inputs))


def test_without_a_number_format_nothing_ships(model):
    with pytest.raises(RecipeError, match=r"No step has chosen .*Remedy: add quantization"):
        ship(State(model), ConversionSettings(), RAW, inputs_for(model))


def test_a_broken_promise_does_not_ship(model):
    state = State(model, (Promise("c1/kernel", "zeros", 0.5, made_by="pruning"),), number_format="int8")
    with pytest.raises(PromiseError, match=r"c1/kernel: pruning promised zeros 0\.5, the file has 0"):
        ship(state, ConversionSettings(), RAW, inputs_for(model))


def test_float_operators_ship_only_when_allowed():
    model = elu()
    inputs, state = inputs_for(model), State(model, number_format="int8")
    with pytest.raises(ConversionError, match="ELU from elu"):
        ship(state, ConversionSettings(), RAW, inputs)
    shipment = ship(state, ConversionSettings(allow_float=True), RAW, inputs)
    assert {finding.operator for finding in shipment.proof.findings} == {"DEQUANTIZE", "ELU", "QUANTIZE"}
    difference = np.abs(predict(shipment.content, inputs) - model.predict(inputs, verbose=0))
    assert difference.mean() <= 2 * io_types(shipment.content).output.scale


@pytest.mark.parametrize("number_format", ["dynamic_range", "float16"])
def test_formats_that_are_float_need_no_permission(number_format):
    shipment = ship(State(elu(), number_format=number_format), ConversionSettings(), RAW, inputs_for(elu()))
    assert not shipment.proof.full_integer


def test_calibration_is_preprocessed_like_the_inputs(model):
    raw = np.random.default_rng(0).uniform(0, 255, (40, 6, 6, 4))
    shipment = ship(State(model, number_format="int8"), ConversionSettings(), Preprocessing.model_validate("unit"), raw)
    assert io_types(shipment.content).input.scale == pytest.approx(1 / 255, rel=0.01)


@pytest.mark.parametrize("preprocessing", ["unit", "signed", {"mean": [1.0, 2, 3, 4], "std": [5.0, 6, 7, 8]}])
def test_a_file_with_its_preprocessing_takes_bytes_as_they_are(model, preprocessing):
    preprocessing = Preprocessing.model_validate(preprocessing)
    # Bytes that happen to reach neither 0 nor 255.
    raw = np.random.default_rng(0).integers(3, 230, (40, 6, 6, 4)).astype(np.uint8)
    settings = ConversionSettings(input_type="uint8", preprocessing_in_graph=True)
    shipment = ship(State(model, number_format="int8"), settings, preprocessing, raw)
    types = io_types(shipment.content)
    assert (types.input.dtype, types.input.scale, types.input.zero_point) == ("uint8", 1.0, 0)
    assert shipment.proof.full_integer

    outputs = predict(shipment.content, raw)
    expected = model.predict(preprocessing.apply(raw), verbose=0)
    assert np.abs(outputs - expected).mean() <= 3 * types.output.scale


def test_token_ids_and_indices_are_fed_and_given_back_as_they_are():
    layers = kd.keras.layers
    ids = layers.Input((6,), dtype="int32")
    x = layers.Dense(4)(layers.Flatten()(layers.Embedding(20, 3)(ids)))
    samples = np.random.default_rng(0).integers(0, 20, (16, 6))
    for outputs, dtype in ((x, "int8"), (layers.Lambda(lambda v: kd.tf.argmax(v, -1, kd.tf.int32))(x), "int32")):
        state = State(kd.keras.Model(ids, outputs), number_format="int8")
        types = io_types(ship(state, ConversionSettings(), RAW, samples).content)
        assert (types.input.dtype, types.output.dtype) == ("int32", dtype)


@pytest.mark.parametrize("kind", ["GRU", "nested"])
def test_a_recurrent_layer_ships_without_its_loop_beside_a_promise(kind):
    layers = kd.keras.layers
    kd.keras.utils.set_random_seed(0)
    x = series = layers.Input((9, 4))
    if kind == "nested":
        x = kd.keras.Sequential([layers.Input((9, 4)), layers.SimpleRNN(6, return_sequences=True)], name="inner")(x)
    x = layers.Dense(8, activation="relu", name="front")(layers.GRU(6, name="gru")(x))
    model = kd.keras.Model(series, layers.Dense(3, name="out")(x))
    inputs = np.random.default_rng(0).normal(size=(64, 9, 4)).astype(np.float32)
    model.get_layer("front").kernel.assign(np.where(np.arange(48).reshape(6, 8) % 2, 0.3, 0))
    state = State(model, (Promise("front/kernel", "zeros", 0.5, made_by="pruning"),), number_format="int8")
    settings = ConversionSettings(preprocessing_in_graph=True)
    shipment = ship(state, settings, Preprocessing.model_validate({"mean": [0.1] * 4, "std": [2.0] * 4}), inputs)
    assert shipment.proof.full_integer
    assert [found.kept for found in shipment.promises] == [True]
    assert "WHILE" not in {op.name for op in Flatbuffer(shipment.content).operators}
    expected = model.predict((inputs - 0.1) / 2, verbose=0)
    step = io_types(shipment.content).output.scale
    assert np.abs(predict(shipment.content, inputs) - expected).mean() < 2 * step
    np.testing.assert_allclose(predict(float_tflite(model), (inputs - 0.1) / 2), expected, atol=1e-5)
    assert not model.get_layer("gru").unroll
