from collections import Counter

import numpy as np
import pytest
from fixtures.models import conv_bn, dense, depthwise, inputs_for, kernel_of, plan_for, residual, run
from pydantic import ValidationError

from tfcompress import keras_door as kd
from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.read_back import find_weight
from tfcompress.convert.settings import ConversionSettings
from tfcompress.evaluate.prediction import io_types, predict
from tfcompress.models.loading import fingerprint
from tfcompress.shipping import ship
from tfcompress.techniques.quantization import Quantization
from tfcompress.vocabulary.errors import ModelError, RecipeError
from tfcompress.vocabulary.preprocessing import Preprocessing
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import QuantizedWeight, State

RAW = Preprocessing.model_validate("raw")


def difference_in_steps(content, model, inputs):
    return np.abs(predict(content, inputs) - model.predict(inputs, verbose=0)) / io_types(content).output.scale


def trained_weight(state, layer):
    """The variable behind a quantized layer's weight; the layer itself holds the rounded tensor."""
    from tfcompress.techniques._fake_quant import weight_quantizers

    return next(w.numpy() for wrapper, w, _ in weight_quantizers(state.model) if wrapper.layer.name == layer)


def weight_in(content, layer, model):
    return find_weight(Flatbuffer(content), f"{layer}/kernel", model)[0]


@pytest.fixture(scope="module")
def mixed():
    """A network with BN, its layers at different widths, trained and shipped."""
    model = conv_bn()
    before, layers = fingerprint(model), list(model.layers)
    inputs = inputs_for(model)
    step = Quantization(weight_bits=8, per_layer={"c1*": 5, "c1": 3})
    state = run(step, State(model), inputs)
    return model, before, layers, state, inputs, ship(state, ConversionSettings(strip_names=False), RAW, inputs)


def test_every_layer_has_its_own_width(mixed):
    _, _, _, state, _, shipment = mixed
    tops = {
        layer: np.abs(weight_in(shipment.content, layer, state.model).data).max() for layer in ("c1", "c1_1", "out")
    }
    assert tops == {"c1": 3, "c1_1": 15, "out": 127}
    assert state.quantization == {
        "c1/kernel": QuantizedWeight(3, 8, 1),
        "c1_1/kernel": QuantizedWeight(5, 8, 1),
        "out/kernel": QuantizedWeight(8, 8, 0),
    }
    assert [(f.promise, f.found) for f in shipment.promises] == [
        (Promise("c1/kernel", "levels", 7, "channel", made_by="quantization"), 7),
        (Promise("c1_1/kernel", "levels", 31, "channel", made_by="quantization"), 31),
    ]


def test_a_whole_network_with_bn_agrees_with_its_file(mixed):
    _, _, _, state, inputs, shipment = mixed
    difference = difference_in_steps(shipment.content, state.model, inputs)
    assert difference.mean() <= 0.5
    assert difference.max() <= 3


def test_the_callers_model_is_unchanged(mixed):
    model, before, layers, state, _, _ = mixed
    assert fingerprint(model) == before
    assert all(now is then for now, then in zip(model.layers, layers, strict=True))
    assert not {id(w) for w in model.weights} & {id(w) for w in state.model.weights}
    assert [layer.activation.__name__ for layer in model.layers if hasattr(layer, "activation")] == ["linear"] * 3


def test_training_moved_the_weights(mixed):
    model, _, _, state, _, _ = mixed
    for layer in ("c1", "c1_1", "out"):
        assert not np.allclose(kernel_of(model, layer), trained_weight(state, layer))


def test_the_input_has_the_range_of_the_calibration():
    model = dense()
    samples = np.random.default_rng(0).uniform(-0.5, 1.5, (40, 8)).astype(np.float32)
    state = run(Quantization(fit={"epochs": 0}), State(model), samples, epochs=0)
    # A few samples of another range at the conversion change nothing: training has learnt it.
    content = quantized_tflite(state.model, "int8", ConversionSettings(), 10 * samples[:4])
    kind = io_types(content).input
    assert kind.scale == pytest.approx((samples.max() - samples.min()) / 255, rel=1e-5)
    assert kind.zero_point == pytest.approx(-128 - samples.min() / kind.scale, abs=0.51)


def test_activation_ranges_start_at_the_calibration():
    model = dense()
    samples = inputs_for(model, 40)
    prepared = Quantization().prepare(State(model), plan_for(samples)).model
    ranges = {w.name.rpartition("/")[2].partition(":")[0]: [] for w in prepared.weights}
    for weight in prepared.weights:
        ranges[weight.name.rpartition("/")[2].partition(":")[0]].append(float(weight.numpy().max()))

    kernel, bias = model.get_layer("hidden").get_weights()
    step = np.abs(kernel).max() / 127
    hidden = np.maximum(samples @ (np.round(kernel / step) * step) + bias, 0)
    kernel, bias = model.get_layer("out").get_weights()
    step = np.abs(kernel).max() / 127
    out = hidden @ (np.round(kernel / step) * step) + bias
    # The ReLU's quantizer and the output's; a range always holds 0.
    np.testing.assert_allclose(ranges["post_activation_max"], [hidden.max(), max(out.max(), 0)], rtol=1e-4)
    np.testing.assert_allclose(ranges["post_activation_min"], [0, min(out.min(), 0)], rtol=1e-4)


def test_a_layer_that_is_always_zero_still_converts():
    model = dense()
    model.get_layer("hidden").bias.assign(np.full(12, -1e3, np.float32))
    inputs = inputs_for(model, 16)
    state = run(Quantization(fit={"epochs": 0}), State(model), inputs, epochs=0)
    shipment = ship(state, ConversionSettings(), RAW, inputs)
    assert difference_in_steps(shipment.content, state.model, inputs).max() <= 1.01


def sparse(model, layers, share):
    """The smallest weights of `layers` set to zero, and the promises of it."""
    promises = []
    for layer in layers:
        weight = model.get_layer(layer).weights[0]
        values = weight.numpy()
        order = np.argsort(np.abs(values), axis=None)
        values.flat[order[: int(np.ceil(share * values.size))]] = 0
        weight.assign(values)
        promises.append(Promise(weight_name(model, layer), "zeros", share, made_by="pruning"))
    return promises


def clustered(model, layers, count, scope="tensor"):
    """The weights of `layers` moved to `count` values, 0 among them where there are zeros; and the promises of it."""
    promises = []
    for layer in layers:
        weight = model.get_layer(layer).weights[0]
        values = weight.numpy()
        parts = [values] if scope == "tensor" else [values[..., c] for c in range(values.shape[-1])]
        for part in parts:
            limit = np.abs(part).max()
            # An even number of values around zero, and zero itself.
            centroids = np.concatenate([[0], np.linspace(-limit, limit, count - 1)])
            nonzero = part != 0
            part[nonzero] = centroids[1:][np.abs(part[nonzero][:, None] - centroids[1:]).argmin(1)]
        weight.assign(values)
        promises.append(Promise(weight_name(model, layer), "distinct", count, scope, made_by="clustering"))
    return promises


def weight_name(model, layer):
    return f"{layer}/{'depthwise_kernel' if hasattr(model.get_layer(layer), 'depthwise_kernel') else 'kernel'}"


def shipped(model, promises, inputs=None, **settings):
    """`model` quantized with its promises, trained a while, and shipped: the weights in the file by layer."""
    inputs = inputs_for(model) if inputs is None else inputs
    state = run(Quantization(**settings), State(model, tuple(promises)), inputs, rate=3e-2)
    shipment = ship(state, ConversionSettings(strip_names=False), RAW, inputs)
    assert shipment.proof.full_integer
    assert all(found.kept for found in shipment.promises)
    layers = {p.weight.partition("/")[0] for p in promises}
    return state, shipment, {layer: weight_in_file(shipment, state, layer) for layer in layers}


def weight_in_file(shipment, state, layer):
    return find_weight(Flatbuffer(shipment.content), f"{layer}/kernel", state.model)[0]


def test_zeros_stay_zeros():
    model = conv_bn()
    promises = sparse(model, ["c1", "c1_1", "out"], 0.7)
    state, _, weights = shipped(model, promises)
    for layer, weight in weights.items():
        kept = np.moveaxis(kernel_of(model, layer), -1, 0) != 0
        assert (weight.data[~kept] == 0).all()
        trained = trained_weight(state, layer)
        assert (trained[kernel_of(model, layer) == 0] == 0).all()
        assert not np.allclose(trained, kernel_of(model, layer))


def test_without_a_promise_zeros_are_not_kept():
    model = conv_bn()
    sparse(model, ["c1"], 0.7)
    state = run(Quantization(), State(model), inputs_for(model))
    trained = trained_weight(state, "c1")
    assert np.mean(trained == 0) < 0.1


@pytest.mark.parametrize(
    ("builder", "layers"),
    [(conv_bn, ["c1", "c1_1", "out"]), (depthwise, ["dw", "point", "out"]), (lambda: depthwise(2), ["dw", "point"])],
    ids=["conv+BN+ReLU, Dense", "depthwise+BN", "depthwise multiplier 2"],
)
def test_shared_values_stay_shared(builder, layers):
    model = builder()
    promises = clustered(model, layers, 8)
    before = {layer: kernel_of(model, layer) for layer in layers}
    state, shipment, weights = shipped(model, promises)
    for layer, weight in weights.items():
        assert 3 <= len(np.unique(weight.data)) <= 8, layer
        trained = trained_weight(state, layer)
        # Clusters move as a whole.
        assert len(np.unique(np.stack([before[layer].ravel(), trained.ravel()]), axis=1).T) <= 8
        assert not np.allclose(trained, before[layer])
    assert difference_in_steps(shipment.content, state.model, inputs_for(model)).mean() <= 1


def test_values_shared_within_a_channel_stay_so():
    model = conv_bn()
    promises = clustered(model, ["c1", "c1_1"], 4, scope="channel")
    _, _, weights = shipped(model, promises)
    for weight in weights.values():
        assert all(len(np.unique(channel)) <= 4 for channel in weight.data)
        assert len(np.unique(weight.data)) > 4


@pytest.mark.parametrize(("builder", "layers"), [(conv_bn, ["c1", "c1_1", "out"]), (depthwise, ["dw", "point"])])
def test_zeros_and_shared_values_are_kept_together(builder, layers):
    model = builder()
    promises = sparse(model, layers, 0.6)
    promises += clustered(model, layers, 8)
    _, shipment, weights = shipped(model, promises)
    for weight in weights.values():
        assert np.mean(weight.data == 0) >= 0.6
        assert len(np.unique(weight.data)) <= 8
    assert Counter(found.promise.kind for found in shipment.promises) == {"zeros": len(layers), "distinct": len(layers)}


def test_low_bits_keep_zeros_and_shared_values_too():
    model = dense()
    promises = sparse(model, ["hidden"], 0.5)
    promises += clustered(model, ["hidden"], 6)
    _, _, weights = shipped(model, promises, weight_bits=4)
    assert weights["hidden"].dtype == "INT4"
    assert np.mean(weights["hidden"].data == 0) >= 0.5
    assert len(np.unique(weights["hidden"].data)) <= 6


def without_bn():
    """What tfmot leaves without a weight quantizer, or with its own: weights right before a ReLU or a Concatenate."""
    layers = kd.keras.layers
    inputs = layers.Input((6, 6, 4))
    x = layers.ReLU(name="relu_conv")(layers.Conv2D(8, 3, name="conv")(inputs))
    x = layers.Activation("relu", name="relu_dw")(layers.DepthwiseConv2D(3, name="dw")(x))
    left, right = (layers.Conv2D(4, 1, name=name, activation=a)(x) for name, a in (("left", None), ("right", "relu")))
    pooled = layers.MaxPooling2D(2, strides=1, padding="same", name="pooled")(x)
    x = layers.Flatten(name="flatten")(layers.Concatenate(name="concat")([left, right, pooled]))
    x = layers.ReLU(6.0, name="relu_fc")(layers.Dense(8, name="fc")(x))
    model = kd.keras.Model(inputs, layers.Dense(3, name="out")(x), name="net")
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.4, w.shape) for w in model.get_weights()])
    return model


def test_weights_right_before_a_relu_or_a_concatenate_are_quantized_too():
    model = without_bn()
    layers = ["conv", "dw", "left", "right", "fc"]
    promises = sparse(model, layers, 0.5)
    state, shipment, weights = shipped(model, promises, weight_bits=5)
    for layer, weight in weights.items():
        assert np.abs(weight.data).max() == 15, layer
    assert {p.weight.partition("/")[0] for p in state.promises if p.kind == "levels"} == {*layers, "out"}
    assert difference_in_steps(shipment.content, state.model, inputs_for(model)).mean() <= 1
    # Their outputs are quantized once, behind the ReLU: it is part of their operator.
    assert "RELU" not in {op.name for op in Flatbuffer(shipment.content).operators}


def branches():
    """What tfmot rebuilds, Conv - BN - ReLU, and what it leaves, joined in an order that is not that of its layers."""
    layers = kd.keras.layers
    inputs = layers.Input((6, 6, 4))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs))
    x = layers.Concatenate(name="concat")([layers.ReLU()(x), layers.MaxPooling2D(3, strides=1, padding="same")(inputs)])
    model = kd.keras.Model(inputs, layers.Dense(3, name="out")(layers.GlobalAveragePooling2D()(x)), name="net")
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.2, 1.5, w.shape) for w in model.get_weights()])
    return model


def test_a_concatenate_keeps_the_order_of_its_inputs():
    model = branches()
    samples = inputs_for(model, 32)
    state = run(Quantization(fit={"epochs": 0}), State(model), samples, epochs=0)
    expected = model.predict(samples, verbose=0)
    difference = np.abs(state.model.predict(samples, verbose=0) - expected).max() / np.abs(expected).max()
    assert difference < 0.05


def test_an_average_that_a_concatenate_and_another_layer_take_converts():
    layers = kd.keras.layers
    inputs = layers.Input((4, 4, 3))
    pooled = layers.AveragePooling2D(2, name="pool")(layers.Conv2D(4, 1, name="conv")(inputs))
    joined = layers.Concatenate(name="concat")([pooled, layers.Conv2D(4, 1, name="beside")(pooled)])
    model = kd.keras.Model(inputs, layers.Dense(3, name="out")(layers.Flatten(name="flatten")(joined)), name="net")
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.4, w.shape) for w in model.get_weights()])
    state, shipment, _ = shipped(model, [])
    # The file rounds the average, on the grid of what it is of; the model does not.
    assert difference_in_steps(shipment.content, state.model, inputs_for(model)).mean() <= 1


def test_a_model_whose_layers_tfmot_joins_otherwise_is_refused(monkeypatch):
    from tfcompress.techniques import _fake_quant

    monkeypatch.setattr(_fake_quant, "_InOrder", _fake_quant.ModelTransformer)
    model = branches()
    with pytest.raises(ModelError, match=r"Quantizers must change a model by rounding alone. .*'net'"):
        run(Quantization(fit={"epochs": 0}), State(model), inputs_for(model), epochs=0)


def one_scale_bn(kind="dense"):
    """A layer that is trained with one scale, BN right behind it."""
    layers = kd.keras.layers
    if kind == "dense":
        inputs = layers.Input((8,))
        x = layers.Dense(12, use_bias=False, name="hidden")(inputs)
    else:
        inputs = layers.Input((4, 4, 3))
        x = layers.Conv2DTranspose(5, 3, name="hidden")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Flatten(name="flatten")(layers.ReLU(name="relu")(x))
    model = kd.keras.Model(inputs, layers.Dense(3, name="out")(x), name="net")
    rng = np.random.default_rng(0)
    # BN's factors and moments positive, as they are.
    model.set_weights(
        [rng.uniform(0.5, 1.5, w.shape) * rng.choice([1, -1], w.shape) ** (w.ndim > 1) for w in model.get_weights()]
    )
    return model


@pytest.mark.parametrize("kind", ["dense", "transposed"])
@pytest.mark.parametrize("bits", [4, 8])
def test_bn_behind_a_layer_of_one_scale_keeps_zeros_levels_and_agrees(kind, bits):
    model = one_scale_bn(kind)
    inputs = inputs_for(model)
    state, shipment, weights = shipped(model, sparse(model, ["hidden"], 0.5), inputs, weight_bits=bits)
    assert np.mean(weights["hidden"].data == 0) >= 0.5
    assert np.abs(weights["hidden"].data).max() == 2 ** (bits - 1) - 1
    assert difference_in_steps(shipment.content, state.model, inputs).mean() <= 1
    operators = {op.name for op in Flatbuffer(shipment.content).operators}
    assert not operators & {"MUL", "ADD", "QUANTIZE"}


@pytest.mark.parametrize("kind", ["dense", "transposed"])
def test_folding_bn_before_training_changes_no_output(kind):
    from tfcompress.techniques._batch_norm import fold_where_scales_are_shared

    model = one_scale_bn(kind)
    inputs = inputs_for(model)
    folded = fold_where_scales_are_shared(model)
    np.testing.assert_allclose(
        folded.predict(inputs, verbose=0), model.predict(inputs, verbose=0), rtol=1e-4, atol=1e-4
    )
    assert [layer.name for layer in folded.layers] == [layer.name for layer in model.layers if layer.name != "bn"]


def test_a_sequential_model_is_folded_too():
    from tfcompress.techniques._batch_norm import fold_where_scales_are_shared

    layers = kd.keras.layers
    model = kd.keras.Sequential(
        [layers.Dense(4, input_shape=(8,)), layers.BatchNormalization(scale=False), layers.ReLU()]
    )
    model.set_weights([np.random.default_rng(0).uniform(0.5, 1.5, w.shape) for w in model.get_weights()])
    folded, inputs = fold_where_scales_are_shared(model), inputs_for(model)
    assert len(folded.layers) == 2
    np.testing.assert_allclose(
        folded.predict(inputs, verbose=0), model.predict(inputs, verbose=0), rtol=1e-4, atol=1e-5
    )


def test_shared_values_that_bn_would_undo_are_refused():
    model = one_scale_bn()
    state = State(model, tuple(clustered(model, ["hidden", "out"], 4)))
    with pytest.raises(RecipeError, match=r"1 layer\(s\).*\n.*hidden \(Dense\): .*the BatchNormalization behind it"):
        Quantization().check(state)


@pytest.mark.parametrize("join", ["add", "concat"])
def test_branches_that_meet_convert_and_agree(join):
    model = residual(join)
    inputs = inputs_for(model)
    state = run(Quantization(), State(model), inputs)
    shipment = ship(state, ConversionSettings(), RAW, inputs)
    assert shipment.proof.full_integer
    assert difference_in_steps(shipment.content, state.model, inputs).mean() <= 1


def test_layers_that_were_in_other_models_are_judged_by_this_one():
    model = conv_bn()
    # Every layer now has a second caller, elsewhere; and the parts of the network a reader outside of it.
    kd.keras.models.clone_model(model, clone_function=lambda layer: layer)
    kd.keras.Model(model.input, kd.keras.layers.Flatten()(model.get_layer("c1").output))
    assert "by calibration" not in {verdict.outcome for verdict in Quantization().verdicts(model)}


@pytest.mark.parametrize("wrong", [{"weight_bits": 1}, {"weight_bits": 9}, {"per_layer": {"c1": 9}}])
def test_widths_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        Quantization(**wrong)


def test_a_pattern_that_matches_no_weight_is_refused():
    with pytest.raises(RecipeError, match=r"quantization\.per_layer: .*No match for: relu\*.*c1, c1_1, out"):
        Quantization(per_layer={"relu*": 4}).check(State(conv_bn()))


def test_an_interrupted_step_goes_on_as_if_it_had_not_been():
    model = dense()
    inputs = inputs_for(model)
    promises = tuple(sparse(model, ["hidden"], 0.5) + clustered(model, ["hidden"], 6))
    step = Quantization(weight_bits=5, fit={"epochs": 2})

    def prepared():
        state = step.prepare(State(model, promises), plan_for(inputs, epochs=2))
        state.model.compile(kd.keras.optimizers.Adam(1e-2), "mse")
        state.model.optimizer.build(state.model.trainable_variables)
        return state

    def epoch(state):
        state.model.fit(inputs, inputs[:, :3], batch_size=16, shuffle=False, verbose=0)

    def variables(state):
        return list({id(v): v for v in (*state.model.weights, *state.model.optimizer.variables)}.values())

    straight, stopped, resumed = prepared(), prepared(), prepared()
    epoch(straight)
    epoch(straight)
    epoch(stopped)
    for variable, value in zip(variables(resumed), [v.numpy() for v in variables(stopped)], strict=True):
        variable.assign(value)
    epoch(resumed)
    for a, b in zip(variables(straight), variables(resumed), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    first, second = (step.finish(state).model.get_weights() for state in (straight, resumed))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_a_dense_over_a_sequence_keeps_its_trained_grid_in_the_file(bits):
    layers = kd.keras.layers
    inputs = layers.Input((8, 6))
    sequence = layers.Dense(16, activation="relu", name="seq")(inputs)
    model = kd.keras.Model(inputs, layers.Dense(3, name="out")(layers.GlobalAveragePooling1D()(sequence)))
    samples = np.random.default_rng(0).normal(size=(40, 8, 6)).astype(np.float32)
    state = run(Quantization(weight_bits=bits), State(model), samples, epochs=1)
    shipment = ship(state, ConversionSettings(), RAW, samples)
    assert [op.name for op in Flatbuffer(shipment.content).operators].count("FULLY_CONNECTED") == 2
    assert len(weight_in(shipment.named, "seq", state.model).scales) == 1
    assert difference_in_steps(shipment.content, state.model, samples).mean() < 0.5


def test_a_bias_of_equal_values_is_the_same_on_every_channel_of_the_file():
    layers = kd.keras.layers
    inputs = kd.keras.Input((8, 8, 2))
    outputs = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 3, name="conv")(inputs))
    model = kd.keras.Model(inputs, outputs)
    conv = model.get_layer("conv")
    conv.set_weights([conv.get_weights()[0] * (1, 5, 25), np.zeros(3, np.float32)])
    samples = inputs_for(model, 8)
    state = run(Quantization(fit={"epochs": 0}), State(model), samples, epochs=0)
    # Rounded to the integers of each channel, they would no longer be equal.
    state.model.get_layer("quant_conv").layer.bias.assign(np.full(3, -0.5, np.float32))
    flat = Flatbuffer(quantized_tflite(state.model, "int8", ConversionSettings(), samples))
    bias = next(flat.tensors[op.inputs[2]] for op in flat.operators if op.name == "CONV_2D")
    np.testing.assert_allclose(bias.data * bias.scales, -0.5, atol=bias.scales.max())
    assert (state.model.get_layer("quant_conv").layer.bias.numpy() == -0.5).all(), "the model itself keeps its weights"


def test_frozen_layers_stay_as_they_are():
    model = conv_bn()
    first, *others = [layer.name for layer in model.layers if isinstance(layer, kd.keras.layers.Conv2D)]
    model.get_layer(first).trainable = False
    state = run(Quantization(fit={"epochs": 1}), State(model), inputs_for(model, 64))
    np.testing.assert_array_equal(trained_weight(state, first), kernel_of(model, first))
    assert not any(np.array_equal(trained_weight(state, name), kernel_of(model, name)) for name in others)
