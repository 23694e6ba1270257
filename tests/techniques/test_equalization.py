"""Cross-layer equalization, against the paper's formula by hand and the outputs of the model as it was."""

import numpy as np
import pytest
from fixtures import models

from tfcompress import keras_door as kd
from tfcompress.models.loading import fingerprint
from tfcompress.techniques.equalization import Equalization
from tfcompress.techniques.fine_tuning import FineTuning
from tfcompress.vocabulary.errors import ModelError, RecipeError
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import State

LAYERS = kd.keras.layers


def equalized(model, step=None, promises=()):
    """The state after the step, and the inputs that it was shown."""
    samples = models.inputs_for(model, 32)
    step = step or Equalization()
    state = State(model, promises)
    step.check(state)
    return step.finish(step.prepare(state, models.plan_for(samples))), samples


def uneven(model, seed=0):
    """`model` with kernels whose output channels have ranges between 1/30 and 30."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if layer.weights and not isinstance(layer, LAYERS.BatchNormalization):
            kernel, *rest = layer.get_weights()
            factor = np.exp(rng.uniform(-3.4, 3.4, kernel.shape[-2:] if "dw" in layer.name else kernel.shape[-1:]))
            layer.set_weights([kernel * factor, *rest])
    return model


def output_ranges(model, name):
    kernel = models.kernel_of(model, name)
    return np.abs(kernel).max(axis=(0, 1) if "dw" in name else tuple(range(kernel.ndim - 1))).ravel()


def input_ranges(model, name):
    kernel = np.moveaxis(models.kernel_of(model, name), -2, 0)
    return np.abs(kernel).reshape(len(kernel), -1).max(axis=1)


def test_two_layers_have_the_ranges_of_the_formula():
    model = uneven(models.dense())
    before = fingerprint(model)
    made, taken = output_ranges(model, "hidden"), input_ranges(model, "out")
    kernel, bias = model.get_layer("hidden").get_weights()
    factor = np.sqrt(made * taken) / taken
    state, samples = equalized(model)
    np.testing.assert_allclose(state.model.get_layer("hidden").get_weights()[0], kernel / factor, rtol=1e-5)
    np.testing.assert_allclose(state.model.get_layer("hidden").get_weights()[1], bias / factor, rtol=1e-5)
    kernel, bias = model.get_layer("out").get_weights()
    np.testing.assert_allclose(state.model.get_layer("out").get_weights()[0], kernel * factor[:, None], rtol=1e-5)
    np.testing.assert_array_equal(state.model.get_layer("out").get_weights()[1], bias)
    np.testing.assert_allclose(output_ranges(state.model, "hidden"), np.sqrt(made * taken), rtol=1e-5)
    np.testing.assert_allclose(state.model(samples), model(samples), rtol=1e-4, atol=1e-5)
    assert fingerprint(model) == before


@pytest.mark.parametrize("multiplier", [1, 2])
def test_a_chain_ends_with_equal_ranges_on_both_sides_of_every_pair(multiplier):
    model = uneven(models.depthwise(multiplier))
    state, samples = equalized(model)
    result = state.model
    assert not any(isinstance(layer, LAYERS.BatchNormalization) for layer in result.layers)
    np.testing.assert_allclose(output_ranges(result, "dw"), input_ranges(result, "point"), rtol=5e-3)
    np.testing.assert_allclose(output_ranges(result, "point"), input_ranges(result, "out"), rtol=5e-3)
    np.testing.assert_allclose(result(samples), model(samples), rtol=1e-3, atol=1e-4)


def test_flattened_channels_have_one_factor_wherever_they_stand():
    model = uneven(models.conv_bn())
    state, samples = equalized(model)
    np.testing.assert_allclose(state.model(samples), model(samples), rtol=1e-3, atol=1e-3)
    by_channel = input_ranges(state.model, "out").reshape(-1, 8).max(axis=0)
    np.testing.assert_allclose(output_ranges(state.model, "c1_1"), by_channel, rtol=5e-3)


def test_one_scale_for_a_whole_kernel_then_loses_less():
    """Simulated by NumPy: 4 bits, one scale a tensor."""
    model = uneven(models.dense())
    state, samples = equalized(model)
    target, errors = model(samples).numpy(), []
    for net in (model, state.model):
        copy = kd.keras.models.clone_model(net)
        copy.set_weights(
            [w if w.ndim == 1 else np.round(w / np.abs(w).max() * 7) * np.abs(w).max() / 7 for w in net.get_weights()]
        )
        errors.append(((copy(samples).numpy() - target) ** 2).mean())
    assert errors[1] < 0.5 * errors[0]


def test_channels_without_weights_are_left():
    model = models.dense()
    kernel, bias = model.get_layer("hidden").get_weights()
    kernel[:, 0], kernel[:, 1] = 0, 1e-9
    model.get_layer("hidden").set_weights([kernel, bias])
    out, bias = model.get_layer("out").get_weights()
    out[2] = 0
    model.get_layer("out").set_weights([out, bias])
    state, _ = equalized(model)
    np.testing.assert_array_equal(models.kernel_of(state.model, "hidden")[:, :3], kernel[:, :3])
    np.testing.assert_array_equal(models.kernel_of(state.model, "out")[:3], out[:3])


def clipped():
    """Two ways to write a relu6 between layers."""
    inputs = LAYERS.Input((6, 6, 3))
    x = LAYERS.Conv2D(4, 3, name="one")(inputs)
    x = LAYERS.ReLU(6.0, name="clip")(x)
    x = LAYERS.Conv2D(4, 3, activation="relu6", name="two")(x)
    return models._model(inputs, LAYERS.Conv2D(2, 1, name="three")(x), seed=0)


def test_a_relu6_becomes_a_relu_where_that_is_asked_for():
    model = clipped()
    with pytest.raises(RecipeError, match=r"one: clip clips its channels.*\n.*two: two clips.*relu6_as_relu"):
        equalized(model)
    state, samples = equalized(model, Equalization(relu6_as_relu=True))
    assert state.model.get_layer("clip").max_value is None
    assert state.model.get_layer("two").activation.__name__ == "relu"
    # These activations stay below 6, where both are the same.
    np.testing.assert_allclose(state.model(samples), model(samples), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(output_ranges(state.model, "one"), input_ranges(state.model, "two"), rtol=5e-3)


def test_every_layer_that_is_left_says_why():
    inputs = LAYERS.Input((8, 8, 3))
    x = LAYERS.Conv2D(4, 3, name="forked")(inputs)
    x = LAYERS.Add()([x, LAYERS.Conv2D(4, 1, activation="sigmoid", name="gate")(x)])
    x = LAYERS.Conv2D(4, 3, name="pair", activation=kd.tf.nn.leaky_relu)(x)
    x = LAYERS.MaxPooling2D(name="pool")(LAYERS.ZeroPadding2D()(x))
    x = LAYERS.Conv2D(4, 1, name="taker")(x)
    x = LAYERS.Conv2D(4, 1, groups=2, name="grouped")(LAYERS.ReLU()(x))
    x = LAYERS.LSTM(4, name="lstm")(LAYERS.Reshape((9 if x.shape[1] == 3 else x.shape[1] ** 2, 4))(x))
    model = models._model(inputs, LAYERS.Dense(2, name="last")(x), seed=0)
    verdicts = {verdict.layer: verdict for verdict in Equalization().verdicts(model)}
    assert [name for name, verdict in verdicts.items() if verdict.outcome == "yes"] == ["pair", "taker"]
    reasons = {name: verdict.reason for name, verdict in verdicts.items() if verdict.reason}
    assert reasons == {
        "forked": "more than one layer takes what forked makes",
        "gate": "the activation of gate does not pass a factor on",
        "grouped": "lstm (LSTM) behind it does not pass a factor of a channel on",
        "lstm": "only convolutions and Dense layers are equalized",
    }
    assert verdicts["last"].outcome == "-"
    assert all(verdict.remedy for verdict in verdicts.values() if verdict.reason)
    state, samples = equalized(model)
    np.testing.assert_allclose(state.model(samples), model(samples), rtol=1e-3, atol=1e-4)


def test_a_nested_model_is_made_flat():
    inner = uneven(models.dense())
    inputs = LAYERS.Input((8,))
    model = kd.keras.Model(inputs, LAYERS.Dense(2, activation="softmax", name="last")(inner(inputs)))
    assert [verdict.outcome for verdict in Equalization().verdicts(model)] == ["-", "by rewrite", "-"]
    state, samples = equalized(model)
    np.testing.assert_allclose(state.model(samples), model(samples), rtol=1e-3, atol=1e-4)
    place = state.lineage.place("net/hidden/kernel").partition("/")[0]
    assert not np.allclose(models.kernel_of(state.model, place), models.kernel_of(inner, "hidden"))


def test_zeros_are_kept_and_shared_values_are_not_broken():
    model = models.dense()
    kernel, bias = model.get_layer("hidden").get_weights()
    kernel[np.abs(kernel) < np.median(np.abs(kernel))] = 0
    model.get_layer("hidden").set_weights([kernel, bias])
    zeros = Promise("hidden/kernel", "zeros", 0.5, made_by="pruning")
    state, _ = equalized(model, promises=(zeros,))
    assert state.promises == (zeros,)
    assert zeros.is_kept_by(zeros.found_in(models.kernel_of(state.model, "hidden")))
    shared = Promise("hidden/kernel", "distinct", 16, made_by="clustering")
    with pytest.raises(RecipeError, match=r"(?s)equalization: .*hidden/kernel \(distinct, promised by clustering\)"):
        equalized(model, promises=(shared,))


def test_outputs_that_change_are_refused(monkeypatch):
    from tfcompress.techniques import equalization

    def wrongly(pairs, kernels, biases):
        kernels[pairs[0].first] *= 1.001

    monkeypatch.setattr(equalization, "balance", wrongly)
    with pytest.raises(ModelError, match="must leave the outputs as they are"):
        equalized(models.dense())


def test_later_steps_are_told_of_the_folded_model():
    model = models.depthwise()
    step = Equalization()
    foreseen = step.foreseen(State(model))
    assert not any(isinstance(layer, LAYERS.BatchNormalization) for layer in foreseen.model.layers)
    assert foreseen.lineage.place("bn_dw/gamma") == "dw/depthwise_kernel"
    assert step.problems_after([FineTuning()]) == []
    inputs = LAYERS.Input((4, 4, 2))
    weightless = State(kd.keras.Model(inputs, LAYERS.MaxPooling2D()(inputs)))
    with pytest.raises(RecipeError, match="it has no such layers"):
        step.check(weightless)
