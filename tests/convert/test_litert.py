"""Files of the LiteRT quantizer, an extra; without it, that it is missed at once."""

import numpy as np
import pytest
from fixtures.models import conv_bn, depthwise, inputs_for, run
from pydantic import ValidationError

from tfcompress import keras_door as kd
from tfcompress.convert import litert
from tfcompress.convert.converter import float_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.read_back import find_weight
from tfcompress.convert.settings import ConversionSettings
from tfcompress.evaluate.prediction import io_types, predict
from tfcompress.shipping import ship
from tfcompress.techniques.post_training import PostTraining
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.preprocessing import Preprocessing
from tfcompress.vocabulary.state import State

RAW = Preprocessing.model_validate("raw")
installed = pytest.mark.skipif(not litert.is_installed(), reason="the extra litert is not installed")


def shipped(model, inputs, **values):
    step = PostTraining(backend="litert", **values)
    step.check(State(model))
    state = run(step, State(model), inputs)
    return state, ship(state, ConversionSettings(strip_names=False), RAW, inputs)


@installed
@pytest.mark.parametrize("algorithm", ["min_max", "octav", "mse"])
def test_a_file_of_four_bits_is_integer_throughout_and_near_the_model(algorithm):
    model = depthwise()
    inputs = inputs_for(model, 48)
    state, shipment = shipped(model, inputs, weight_bits=4, algorithm=algorithm)
    assert shipment.proof.full_integer
    flat = Flatbuffer(shipment.content)
    types = {layer: find_weight(flat, f"{layer}/kernel", state.model)[0].dtype for layer in ("dw", "point", "out")}
    assert types == {"dw": "INT8", "point": "INT4", "out": "INT4"}
    assert {p.promise.weight for p in shipment.promises} == {"point/kernel", "out/kernel"}
    expected = model.predict(inputs, verbose=0)
    assert np.abs(predict(shipment.content, inputs) - expected).mean() <= 0.2 * np.abs(expected).mean()


@installed
def test_a_layer_of_sixteen_bits_stands_among_others_of_eight():
    model = conv_bn()
    inputs = inputs_for(model, 48)
    expected, errors = model.predict(inputs, verbose=0), []
    for layers in ([], ["c1_1"]):
        _, shipment = shipped(model, inputs, sixteen_bit_layers=layers)
        assert shipment.proof.full_integer
        assert io_types(shipment.content).input.dtype == "int8"
        flat = Flatbuffer(shipment.content)
        convolutions = [op for op in flat.operators if op.name == "CONV_2D"]
        given = [flat.tensors[op.outputs[0]].dtype for op in convolutions]
        assert given == ["INT8", "INT16" if layers else "INT8"]
        assert flat.tensors[convolutions[1].inputs[0]].dtype == given[1]
        errors.append(np.abs(predict(shipment.content, inputs) - expected).mean())
    assert errors[1] < errors[0]


@installed
def test_the_layers_of_sixteen_bits_are_those_that_a_bound_needs():
    model = conv_bn()
    inputs = inputs_for(model, 48)
    reference = model.predict(inputs, verbose=0)

    def rise(**values):
        outputs = predict(shipped(model, inputs, **values)[1].content, inputs)
        return np.mean((outputs - reference) ** 2) / reference.var()

    at_eight, at_sixteen = rise(), rise(sixteen_bit_layers=["c1", "c1_1"])
    state, _ = shipped(model, inputs, sixteen_bit_layers={"loss_increase": 2 * at_eight})
    assert state.litert.sixteen_bit == ()
    bound = (at_eight + 2 * at_sixteen) / 3
    state, shipment = shipped(model, inputs, sixteen_bit_layers={"loss_increase": bound})
    wide = [place.partition("/")[0] for place in state.litert.sixteen_bit]
    assert wide in (["c1"], ["c1_1"], ["c1", "c1_1"])
    assert rise(sixteen_bit_layers=wide) <= bound
    assert shipment.proof.full_integer
    with pytest.raises(RecipeError, match=r"sixteen_bit_layers\.loss_increase must be within reach"):
        shipped(model, inputs, sixteen_bit_layers={"loss_increase": at_sixteen / 10})


@installed
def test_a_layer_of_sixteen_bits_has_eight_bits_in_its_weight_among_those_of_four():
    model = conv_bn()
    _, shipment = shipped(model, inputs_for(model, 48), weight_bits=4, sixteen_bit_layers=["c1_1"])
    assert {p.promise.weight for p in shipment.promises} == {"c1/kernel", "out/kernel"}
    assert all(promise.kept for promise in shipment.promises)


def test_a_layer_that_cannot_be_told_in_the_file_keeps_eight_bits():
    layers = kd.keras.layers
    inputs = layers.Input((6, 6, 4))
    x = layers.Conv2D(4, 3, groups=2, activation="relu", name="grouped")(inputs)
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    model = kd.keras.Model(inputs, layers.Dense(3, name="out")(layers.Flatten()(x)))
    places = ["grouped/kernel", "conv/kernel", "out/kernel"]
    assert litert.within(float_tflite(model), places, model) == ["conv/kernel"]


def test_without_the_package_it_is_refused_before_anything_runs(monkeypatch):
    monkeypatch.setattr(litert, "is_installed", lambda: False)
    with pytest.raises(RecipeError, match=r"needs the package ai-edge-quantizer.*tfcompress\[litert\]"):
        PostTraining(backend="litert").check(State(conv_bn()))


def test_a_pattern_for_sixteen_bits_must_match_a_layer():
    with pytest.raises(RecipeError, match=r"sixteen_bit_layers.*No match for: conv9"):
        PostTraining(backend="litert", sixteen_bit_layers=["conv9"]).check(State(conv_bn()))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"backend": "litert", "ranges": "mse"}, "ranges: for backend: converter alone"),
        ({"backend": "litert", "weight_bits": 5}, "weight_bits must be 4 or 8"),
        ({"backend": "litert", "number_format": "float16"}, "backend can be chosen for number_format int8 alone"),
        ({"algorithm": "octav", "sixteen_bit_layers": ["c1"]}, "algorithm, sixteen_bit_layers: for backend: litert"),
    ],
)
def test_what_a_backend_does_not_have_is_refused(values, said):
    with pytest.raises(ValidationError, match=said):
        PostTraining(**values)
