import numpy as np
import pytest
from fixtures.models import conv_bn, dense, depthwise, inputs_for, kernel_of, plan_for, run
from pydantic import ValidationError

from tfcompress import keras_door as kd
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.read_back import find_weight
from tfcompress.convert.settings import ConversionSettings
from tfcompress.evaluate.prediction import io_types, predict
from tfcompress.models.loading import fingerprint
from tfcompress.shipping import ship
from tfcompress.techniques._ranges import Extremes, Histogram, RangeChoice
from tfcompress.techniques.base import Technique
from tfcompress.techniques.post_training import PostTraining
from tfcompress.techniques.quantization import Quantization
from tfcompress.vocabulary.errors import ModelError, RecipeError
from tfcompress.vocabulary.preprocessing import Preprocessing
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import QuantizedWeight, State

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


RANGES = ("min_max", "percentile", "moving_average", "mse", "entropy")


def rounded(kernel, bits=8):
    """The kernel on a symmetric grid of its largest magnitude."""
    step = np.abs(kernel).max() / (2 ** (bits - 1) - 1)
    return np.round(kernel / step) * step


def chosen(method, values):
    """The range of `values` seen in batches of 32."""
    extremes, batches = Extremes(), [values[i : i + 32] for i in range(0, len(values), 32)]
    for batch in batches:
        extremes.observe(batch)
    histogram = Histogram(extremes.low, extremes.high)
    for batch in batches:
        histogram.observe(batch)
    return RangeChoice(method, 99.0 if method == "percentile" else 99.99).of(extremes, histogram)


@pytest.fixture(scope="module")
def heavy_tailed():
    """Inputs of which a few lie far out."""
    return np.random.default_rng(3).standard_t(2, (256, 8)).astype(np.float32)


@pytest.mark.parametrize("method", RANGES)
def test_the_file_has_the_scales_of_the_chosen_ranges(method, heavy_tailed):
    model = dense()
    values = {"percentile": 99.0} if method == "percentile" else {}
    # The smallest thing beside the range that keeps min_max from the converter.
    step = PostTraining(ranges=method, weight_granularity="tensor", **values)
    state = run(step, State(model), heavy_tailed)
    flat = Flatbuffer(ship(state, ConversionSettings(), RAW, heavy_tailed).content)
    kernel, bias = model.get_layer("hidden").get_weights()
    hidden = np.maximum(heavy_tailed @ rounded(kernel) + bias, 0)
    for tensor, shown in ((flat.inputs[0], heavy_tailed), (flat.tensors[flat.operators[0].outputs[0]], hidden)):
        low, high = chosen(method, shown)
        assert tensor.scales[0] == pytest.approx((high - low) / 255, rel=2e-3)
        assert tensor.zero_points[0] == pytest.approx(-128 - low / tensor.scales[0], abs=0.6)


def test_methods_differ(heavy_tailed):
    assert len({chosen(method, heavy_tailed) for method in RANGES}) == len(RANGES)


def folded(model, layer):
    """The kernel with the factors of the BatchNormalization behind it."""
    norm = model.get_layer(f"bn_{layer}")
    factor = norm.gamma.numpy() / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
    kernel = kernel_of(model, layer)
    return kernel * factor.reshape(kernel.shape[-2:]) if layer == "dw" else kernel * factor


@pytest.fixture(scope="module")
def low_bits():
    """One scale a tensor; 4 bits, 3 for the pointwise convolution; the file, and the state it came from."""
    model = depthwise()
    before, inputs = fingerprint(model), inputs_for(model)
    step = PostTraining(weight_bits=4, per_layer={"point": 3}, weight_granularity="tensor", low_bit_storage="size")
    step.check(State(model))
    state = run(step, State(model), inputs)
    assert fingerprint(model) == before
    return model, state, inputs, ship(state, ConversionSettings(strip_names=False), RAW, inputs)


@pytest.mark.parametrize(("layer", "bits"), [("dw", 4), ("point", 3)])
def test_a_weight_has_one_scale_and_the_levels_of_its_bits(low_bits, layer, bits):
    model, state, _, shipment = low_bits
    weight = find_weight(Flatbuffer(shipment.content), f"{layer}/kernel", state.model)[0]
    kernel = folded(model, layer)
    step = np.abs(kernel).max() / (2 ** (bits - 1) - 1)
    # [1, height, width, channels] of a depthwise kernel, [channels, height, width, inputs] of others.
    stored = kernel.transpose(3, 0, 1, 2)
    assert weight.dtype == "INT4"
    assert weight.scales == pytest.approx([step], rel=1e-5)
    np.testing.assert_array_equal(weight.data, np.round(stored / step))


def test_what_it_did_is_known_and_promised(low_bits):
    _, state, _, shipment = low_bits
    assert state.quantization == {
        "dw/depthwise_kernel": QuantizedWeight(4, 4, 0),
        "point/kernel": QuantizedWeight(3, 4, 0),
        "out/kernel": QuantizedWeight(4, 4, 0),
    }
    found = {p.promise.weight: (p.promise.bound, p.kept) for p in shipment.promises}
    assert found == {"dw/depthwise_kernel": (15, True), "point/kernel": (7, True), "out/kernel": (15, True)}
    assert state.lineage.place("bn_dw/gamma") == "dw/depthwise_kernel"


def test_the_file_computes_what_the_state_shows(low_bits):
    _, state, inputs, shipment = low_bits
    step = io_types(shipment.content).output.scale
    difference = np.abs(predict(shipment.content, inputs) - state.model.predict(inputs, verbose=0)) / step
    assert difference.mean() <= 0.7
    assert difference.max() <= 3


def test_zeros_are_kept_and_weights_clipped_where_that_rounds_better():
    model = conv_bn()
    kernel = model.get_layer("c1_1").kernel
    values = kernel.numpy()
    values[np.abs(values) < np.median(np.abs(values))] = 0
    kernel.assign(values)
    promise = Promise("c1_1/kernel", "zeros", 0.5, made_by="pruning")
    inputs = inputs_for(model, 16)
    errors = {}
    for ranges in ("min_max", "mse"):
        step = PostTraining(weight_bits=3, weight_ranges=ranges)
        state = run(step, State(model, (promise,)), inputs)
        shown = dict(quantized_weights(state.model))["c1_1"]
        assert promise.is_kept_by(promise.found_in(shown))
        errors[ranges] = np.square(shown - folded(model, "c1_1")).sum()
    assert errors["mse"] < 0.8 * errors["min_max"]


@pytest.mark.parametrize("method", ["empirical", "analytic"])
def test_biases_take_back_the_shift_of_rounded_weights(method):
    """Each layer's mean output, over samples and pixels, comes nearer to the float model's."""
    model = conv_bn()
    inputs = np.abs(inputs_for(model, 48))
    expected, shifts = model.predict(inputs, verbose=0).mean(0), {}
    for correction in ("none", method):
        step = PostTraining(weight_bits=3, weight_granularity="tensor", bias_correction=correction)
        shown = run(step, State(model), inputs).model.predict(inputs, verbose=0)
        shifts[correction] = np.abs(shown.mean(0) - expected).mean()
    assert shifts[method] < 0.5 * shifts["none"]


def test_weights_are_rounded_for_the_outputs_of_layers():
    model = conv_bn()
    inputs, errors = inputs_for(model, 48), {}
    expected = model.predict(inputs, verbose=0)
    for values in ({}, {"rounding": "adaptive", "rounding_steps": 200}):
        step = PostTraining(weight_bits=3, weight_granularity="tensor", **values)
        state = run(step, State(model), inputs)
        errors[step.rounding] = np.square(state.model.predict(inputs, verbose=0) - expected).mean()
        kernel = dict(quantized_weights(state.model))["c1"]
        # Up or down, but on the same grid.
        levels = kernel / (np.abs(folded(model, "c1")).max() / 3)
        np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
    assert errors["adaptive"] < errors["nearest"]


def quantized_weights(model):
    """The weights as the file has them, by layer."""
    from tfcompress.techniques._fake_quant import weight_quantizers

    for wrapper, weight, quantizer in weight_quantizers(model):
        yield wrapper.layer.name, quantizer(weight, False, {}).numpy()


def test_values_that_exclude_one_another_are_refused_all_at_once():
    with pytest.raises(ValidationError) as failure:
        PostTraining(number_format="float16", ranges="mse", weight_bits=4, percentile=99.9, rounding_steps=9)
    said = str(failure.value)
    assert "rounding_steps: for rounding: adaptive alone" in said
    assert "percentile is the value of ranges: percentile" in said
    assert "number_format=float16 with ranges=mse, weight_bits=4" in said
    for wrong in ({"weight_bits": 9}, {"ranges": "max"}, {"percentile": 101, "ranges": "percentile"}):
        with pytest.raises(ValidationError):
            PostTraining(**wrong)


def test_what_the_layers_cannot_be_given_is_refused():
    layers = kd.keras.layers
    rows = layers.Input((4, 6))
    model = kd.keras.Model(rows, layers.Dense(3, name="out")(layers.LSTM(5, name="lstm")(rows)))
    step = PostTraining(ranges="mse")
    outcomes = {verdict.layer: verdict for verdict in step.verdicts(model)}
    assert outcomes["out"].outcome == "yes"
    assert outcomes["lstm"].outcome == "by calibration"
    assert "its ranges are the converter's, min to max" in outcomes["lstm"].reason
    assert step.layers_with_values(model) == ("out",)
    step.check(State(model))
    with pytest.raises(RecipeError, match=r"per_layer gives it bits.*"):
        PostTraining(per_layer={"lstm": 4}).check(State(model))
    with pytest.raises(RecipeError, match="No match for: conv"):
        PostTraining(per_layer={"conv": 4}).check(State(model))
    bare = kd.keras.Model(rows, layers.LSTM(5, name="lstm")(rows))
    shared = (Promise("lstm/kernel", "distinct", 4),)
    with pytest.raises(RecipeError, match="needs a layer whose weights can be put on a grid") as failure:
        PostTraining(ranges="mse").check(State(bare, shared))
    assert "would break the promise of shared values" in str(failure.value)
    PostTraining().check(State(bare))


def test_activations_that_are_not_finite_are_refused():
    model = dense()
    model.get_layer("hidden").bias.assign(np.full(12, np.inf, np.float32))
    with pytest.raises(ModelError, match=r"hidden.*Remedy"):
        run(PostTraining(ranges="mse"), State(model), inputs_for(model, 16))
