"""Weights of few bits, learned or of other levels than uniform ones, from training to the file."""

import numpy as np
import pytest
from fixtures.models import CLASSES, conv_bn, dense, inputs_for, plan_for, train

from tfcompress import keras_door as kd
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.read_back import find_weight
from tfcompress.convert.settings import ConversionSettings
from tfcompress.evaluate.prediction import io_types, predict
from tfcompress.shipping import ship
from tfcompress.techniques._levels import count, levels_at, magnitudes
from tfcompress.techniques.quantization import Quantization
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.preprocessing import Preprocessing
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import State

RAW = Preprocessing.model_validate("raw")
WEIGHTS = {"conv": "kernel", "dw": "depthwise_kernel", "out": "kernel"}


def network():
    """A convolution with BN and ReLU, a depthwise one, and a Dense: every layout of a weight and its scales."""
    layers = kd.keras.layers
    inputs = layers.Input((6, 6, 3))
    x = layers.Conv2D(6, 3, use_bias=False, name="conv")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
    x = layers.Flatten(name="flatten")(layers.DepthwiseConv2D(3, activation="relu", name="dw")(x))
    model = kd.keras.Model(inputs, layers.Dense(CLASSES, name="out")(x), name="net")
    rng = np.random.default_rng(0)
    # BN's factors and moments positive, as they are.
    model.set_weights([np.abs(w) if w.ndim == 1 else w for w in (rng.normal(0, 0.5, p.shape) for p in model.weights)])
    return model


def with_zeros(model, layer):
    """Half of a layer's weights set to zero, and the promise of it."""
    variable = getattr(model.get_layer(layer), WEIGHTS[layer])
    values = variable.numpy()
    variable.assign(np.where(np.abs(values) < np.median(np.abs(values)), 0, values))
    return Promise(f"{layer}/{WEIGHTS[layer]}", "zeros", 0.5, made_by="pruning")


def variables_of(model, layer):
    """The variables of a layer's wrapper, by their names within it."""
    return {v.name.rpartition("/")[2].partition(":")[0]: v.numpy() for v in model.get_layer(f"quant_{layer}").weights}


CASES = {
    "learned steps and ranges": {"weight_bits": 4, "step_size": "learned", "activation_ranges": "learned"},
    "powers of two": {"weight_bits": 4, "levels": "power_of_two"},
    "learned sums of them": {"weight_bits": 4, "levels": "additive_powers", "step_size": "learned"},
    "ternary": {"weight_bits": 2, "levels": "ternary", "per_layer": {"out": 8}},
    "binary": {"weight_bits": 1, "levels": "binary", "step_size": "learned"},
}


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_the_file_has_the_levels_that_were_trained(values):
    model, step = network(), Quantization(**values)
    zeros = () if step.levels == "binary" else (with_zeros(model, "dw"),)
    inputs = inputs_for(model, 48)
    prepared = step.prepare(State(model, zeros), plan_for(inputs))
    train(prepared.model, inputs)
    state = step.finish(prepared)
    shipment = ship(state, ConversionSettings(strip_names=False), RAW, inputs)
    assert shipment.proof.full_integer
    assert all(found.kept for found in shipment.promises)
    flat = Flatbuffer(shipment.content)
    for layer, attribute in WEIGHTS.items():
        weight = find_weight(flat, f"{layer}/{attribute}", state.model)[0]
        bits = step.per_layer.get(layer, step.weight_bits)
        levels = levels_at(step.levels, bits)
        assert set(np.abs(np.unique(weight.data))) <= set(magnitudes(levels, bits))
        kind = "levels" if levels == "uniform" else "distinct"
        promised = [p.bound for p in state.promises if p.weight == f"{layer}/{attribute}" and p.kind == kind]
        assert promised == ([] if bits == 8 else [count(levels, bits)])
    if zeros:
        assert np.mean(find_weight(flat, "dw/depthwise_kernel", state.model)[0].data == 0) >= 0.5
    if step.step_size == "learned":
        # No BatchNormalization behind it: the file's scale is the step.
        out = find_weight(flat, "out/kernel", state.model)[0]
        np.testing.assert_allclose(out.scales, np.exp(variables_of(state.model, "out")["kernel_log_step"]), rtol=1e-5)
    if step.activation_ranges == "learned":
        behind = next(flat.tensors[op.outputs[0]] for op in flat.operators if op.name == "DEPTHWISE_CONV_2D")
        assert behind.scales[0] == pytest.approx(variables_of(state.model, "dw")["post_activation_max"] / 255, rel=1e-5)
        assert behind.zero_points[0] == -128
    difference = np.abs(predict(shipment.content, inputs) - state.model.predict(inputs, verbose=0))
    assert (difference / io_types(shipment.content).output.scale).mean() <= 0.5


def prepared_for_training(step, state, inputs):
    state = step.prepare(state, plan_for(inputs, epochs=2))
    state.model.compile(kd.keras.optimizers.Adam(1e-2), "mse")
    state.model.optimizer.build(state.model.trainable_variables)
    return state


def epoch(state, inputs):
    state.model.fit(inputs, inputs[:, :3], batch_size=16, shuffle=False, verbose=0)


def test_an_interrupted_training_of_steps_and_ranges_goes_on():
    inputs = inputs_for(dense())
    step = Quantization(weight_bits=3, step_size="learned", activation_ranges="learned", fit={"epochs": 2})

    def variables(state):
        return list({id(v): v for v in (*state.model.weights, *state.model.optimizer.variables)}.values())

    straight, stopped, resumed = (prepared_for_training(step, State(dense()), inputs) for _ in range(3))
    first = {v.name: v.numpy() for v in straight.model.trainable_variables}
    learned = [name for name in first if name.endswith(("_log_step:0", "_min:0", "_max:0"))]
    assert len(learned) == 2 + 2 * 2
    epoch(straight, inputs)
    epoch(straight, inputs)
    epoch(stopped, inputs)
    for variable, value in zip(variables(resumed), [v.numpy() for v in variables(stopped)], strict=True):
        variable.assign(value)
    epoch(resumed, inputs)
    for a, b in zip(variables(straight), variables(resumed), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    last = {v.name: v.numpy() for v in straight.model.trainable_variables}
    # The lower end behind the ReLU is held at zero; all others were trained.
    assert {name for name in learned if np.array_equal(first[name], last[name])} == {
        "quant_hidden/post_activation_min:0"
    }


def test_what_is_frozen_or_fed_keeps_the_range_it_sees():
    model = conv_bn()
    model.get_layer("c1").trainable = False
    step = Quantization(weight_bits=4, step_size="learned", activation_ranges="learned")
    trained = {v.name for v in step.prepare(State(model), plan_for(inputs_for(model, 16))).model.trainable_variables}
    learned = {name for name in trained if name.endswith(("_log_step:0", "_min:0", "_max:0"))}
    assert {name.partition("/")[0] for name in learned} == {
        "quant_c1_1",
        "quant_relu_c1",
        "quant_relu_c1_1",
        "quant_out",
    }


def test_zeros_that_two_levels_cannot_keep_are_refused():
    model = network()
    state = State(model, (with_zeros(model, "dw"),))
    with pytest.raises(RecipeError, match=r"1 layer\(s\).*\n.*dw \(DepthwiseConv2D\): .*binary has no zero.*\{dw: 2\}"):
        Quantization(weight_bits=1, levels="binary").check(state)
    Quantization(weight_bits=1, levels="binary", per_layer={"dw": 2}).check(state)
    budget = {"bits_share": 0.5, "choices": [1, 4]}
    with pytest.raises(RecipeError, match="binary has no zero"):
        Quantization(levels="binary", budget=budget).check(state)
