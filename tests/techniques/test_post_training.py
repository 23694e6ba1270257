import numpy as np
import pytest
from fixtures.models import dense, inputs_for, plan_for, run
from pydantic import ValidationError

from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.read_back import find_weight
from tfcompress.convert.settings import ConversionSettings
from tfcompress.evaluate.prediction import io_types, predict
from tfcompress.models.loading import fingerprint
from tfcompress.shipping import ship
from tfcompress.techniques.base import Technique
from tfcompress.techniques.post_training import PostTraining
from tfcompress.techniques.quantization import Quantization
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.preprocessing import Preprocessing
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import State

RAW = Preprocessing.model_validate("raw")
FORMATS = ("int8", "int16x8", "dynamic_range", "float16")


@pytest.fixture(scope="module")
def model():
    """Wide enough that the converter's dynamic range takes its first weight; half of that is zero."""
    model = dense(features=100)
    kernel = model.get_layer("hidden").kernel
    values = kernel.numpy()
    values[np.abs(values) <= np.median(np.abs(values))] = 0
    kernel.assign(values)
    return model


@pytest.fixture(scope="module")
def shipments(model):
    inputs = inputs_for(model)
    state = State(model, (Promise("hidden/kernel", "zeros", 0.5, made_by="pruning"),))
    before = fingerprint(model)
    made = {}
    for number_format in FORMATS:
        settings = ConversionSettings(strip_names=False)
        made[number_format] = ship(run(PostTraining(number_format=number_format), state, inputs), settings, RAW, inputs)
    assert fingerprint(model) == before
    return made


@pytest.mark.parametrize(
    ("number_format", "full_integer", "ends", "weight", "activation"),
    [
        ("int8", True, "int8", "INT8", "INT8"),
        ("int16x8", True, "int16", "INT8", "INT16"),
        ("dynamic_range", False, "float32", "INT8", "FLOAT32"),
        ("float16", False, "float32", "FLOAT16", "FLOAT32"),
    ],
)
def test_each_format_is_what_it_says(shipments, model, number_format, full_integer, ends, weight, activation):
    shipment = shipments[number_format]
    assert shipment.proof.full_integer == full_integer
    types = io_types(shipment.content)
    assert (types.input.dtype, types.output.dtype) == (ends, ends)
    flat = Flatbuffer(shipment.content)
    assert find_weight(flat, "hidden/kernel", model)[0].dtype == weight
    hidden = next(op for op in flat.operators if op.name == "FULLY_CONNECTED")
    assert flat.tensors[hidden.outputs[0]].dtype == activation


@pytest.mark.parametrize(("number_format", "tolerance"), zip(FORMATS, (0.05, 0.02, 0.05, 0.005), strict=True))
def test_each_format_computes_the_model(shipments, model, number_format, tolerance):
    inputs = inputs_for(model)
    expected = model.predict(inputs, verbose=0)
    difference = np.abs(predict(shipments[number_format].content, inputs) - expected)
    assert difference.mean() <= tolerance * np.abs(expected).mean()


@pytest.mark.parametrize("number_format", FORMATS)
def test_zeros_are_read_back_in_each_format(shipments, number_format):
    (found,) = shipments[number_format].promises
    assert found.found == 0.5
    assert found.kept


def test_the_step_only_chooses():
    step, state = PostTraining(number_format="float16"), State(object())
    chosen = step.finish(step.prepare(state, None))
    assert chosen.model is state.model
    assert (state.number_format, chosen.number_format) == (None, "float16")
    assert not PostTraining.trains
    with pytest.raises(ValidationError):
        PostTraining(number_format="int4")


def test_a_model_quantized_by_training_is_refused():
    model = dense()
    inputs = inputs_for(model)
    state = run(Quantization(fit={"epochs": 0}), State(model), inputs, epochs=0)
    with pytest.raises(RecipeError, match="already quantized by training"):
        PostTraining().prepare(state, plan_for(inputs))


class Shared(Technique):
    """A step that stands for one which makes shared values."""

    stage = "shared"
    technique: str = "shared"


@pytest.mark.parametrize("number_format", FORMATS)
def test_shared_values_survive_in_floats_only(number_format):
    problems = PostTraining(number_format=number_format).problems_after([Shared()])
    assert bool(problems) == (number_format != "float16")
    assert PostTraining(number_format=number_format).problems_after([]) == []
    if problems:
        assert "use the technique quantization" in problems[0]
