"""Models of which only a part can be trained as integers: the rest is calibrated, the file is integer throughout."""

import functools

import numpy as np
import pytest
from fixtures.models import inputs_for, plan_for, run

from tfcompress import keras_door as kd
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.settings import ConversionSettings
from tfcompress.evaluate.interpreter import open_interpreter
from tfcompress.evaluate.prediction import io_types, predict
from tfcompress.models.loading import fingerprint
from tfcompress.shipping import ship
from tfcompress.techniques.quantization import Quantization
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.preprocessing import Preprocessing
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import State

RAW = Preprocessing.model_validate("raw")
CLASSES = 3


def tokens(count=96, length=8, seed=0):
    """Token ids of which the class is the third of the vocabulary they are drawn from, mostly."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    own = rng.integers(0, 10, (count, length)) + 10 * labels[:, None]
    ids = np.where(rng.random((count, length)) < 0.8, own, rng.integers(0, 30, (count, length)))
    return ids.astype(np.int32), labels


def images(count=96, seed=0):
    """Noise with a bright column at the class's place."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    pictures = rng.normal(0, 0.5, (count, 3, 6, 2))
    pictures[np.arange(count), :, 2 * labels] += 1.5
    return pictures.astype(np.float32), labels


def transformer():
    """A block of attention, with both LayerNormalizations, on an Embedding."""
    layers = kd.keras.layers
    ids = layers.Input((8,), dtype="int32")
    x = layers.Embedding(30, 8, name="embedding")(ids)
    attended = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.LayerNormalization(name="norm_1")(layers.Add(name="add_1")([x, attended]))
    y = layers.Dense(16, activation="relu", name="wide")(x)
    y = layers.Dense(8, name="narrow")(y)
    x = layers.LayerNormalization(name="norm_2")(layers.Add(name="add_2")([x, y]))
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return kd.keras.Model(ids, layers.Dense(CLASSES, name="out")(x), name="net"), *tokens()


def convolutional_gru():
    """A convolution with BatchNormalization whose rows a GRU reads."""
    layers = kd.keras.layers
    inputs = layers.Input((3, 6, 2))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    x = layers.Reshape((3, 24), name="rows")(x)
    x = layers.GRU(6, name="gru")(x)
    return kd.keras.Model(inputs, layers.Dense(CLASSES, name="out")(x), name="net"), *images()


def lstm():
    """An LSTM on an Embedding."""
    layers = kd.keras.layers
    ids = layers.Input((8,), dtype="int32")
    x = layers.LSTM(8, name="lstm")(layers.Embedding(30, 8, name="embedding")(ids))
    x = layers.Dense(8, activation="relu", name="hidden")(x)
    return kd.keras.Model(ids, layers.Dense(CLASSES, name="out")(x), name="net"), *tokens()


@functools.cache
def trained(build):
    """The model of `build`, trained, its QAT state and both its inputs and outputs."""
    kd.keras.utils.set_random_seed(0)
    model, inputs, labels = build()
    loss = kd.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kd.keras.optimizers.Adam(2e-2), loss)
    model.fit(inputs, labels, batch_size=16, epochs=8, verbose=0)
    before = fingerprint(model)
    prepared = Quantization().prepare(State(model), plan_for(inputs))
    prepared.model.compile(kd.keras.optimizers.Adam(1e-3), loss)
    prepared.model.fit(inputs, labels, batch_size=16, verbose=0)
    assert fingerprint(model) == before
    return model, Quantization().finish(prepared), inputs


def differences(content, model, inputs):
    """Mean difference in output steps, and the share of samples with the same largest output."""
    ours, theirs = predict(content, inputs), model.predict(inputs, verbose=0)
    steps = np.abs(ours - theirs) / io_types(content).output.scale
    return steps.mean(), np.mean(ours.argmax(-1) == theirs.argmax(-1))


@pytest.mark.parametrize(
    ("build", "left"),
    [
        (transformer, {"embedding", "attention", "norm_1", "norm_2"}),
        (convolutional_gru, {"gru"}),
    ],
)
def test_the_rest_is_trained_and_the_file_is_integer_throughout(build, left):
    model, state, inputs = trained(build)
    outcomes = {verdict.layer: verdict.outcome for verdict in Quantization().verdicts(model)}
    assert {name for name, outcome in outcomes.items() if outcome == "by calibration"} == left
    assert {layer.name for layer in state.model.layers} >= left
    assert set(state.quantization) == {
        f"{layer.name}/kernel" for layer in model.layers if layer.name not in left and hasattr(layer, "kernel")
    }
    shipment = ship(state, ConversionSettings(), RAW, inputs)
    assert shipment.proof.full_integer
    steps, same = differences(shipment.content, state.model, inputs)
    assert steps <= 1
    assert same >= 0.98


def test_a_layer_behind_a_float_one_keeps_its_range_and_takes_the_calibrations_in_front():
    _, state, inputs = trained(convolutional_gru)
    learnt = io_types(ship(state, ConversionSettings(), RAW, inputs).content)
    # Other samples at the conversion: the ranges that training learnt stay, those of the GRU are the samples'.
    files = [
        Flatbuffer(ship(state, ConversionSettings(strip_names=False), RAW, samples).content)
        for samples in (inputs, inputs / 10)
    ]
    narrow = io_types(ship(state, ConversionSettings(), RAW, inputs / 10).content)
    assert (learnt.input, learnt.output) == (narrow.input, narrow.output)

    def scale_into_the_last(flat):
        last = [op for op in flat.operators if op.name == "FULLY_CONNECTED"][-1]
        return float(flat.tensors[last.inputs[0]].scales[0])

    hidden = kd.keras.Model(state.model.input, state.model.get_layer("gru").get_output_at(-1)).predict(
        inputs, verbose=0
    )
    assert scale_into_the_last(files[0]) == pytest.approx((hidden.max() - hidden.min()) / 255, rel=0.02)
    assert scale_into_the_last(files[1]) < scale_into_the_last(files[0])


def test_an_lstm_between_an_embedding_and_dense_layers():
    _, state, inputs = trained(lstm)
    one = kd.keras.Input(batch_shape=(1, 8), dtype="int32")
    # The converter fuses an LSTM for a static batch only.
    single = state.evolve(model=kd.keras.Model(one, state.model(one), name="net"))
    content = ship(single, ConversionSettings(), RAW, inputs).content
    assert "UNIDIRECTIONAL_SEQUENCE_LSTM" in {op.name for op in Flatbuffer(content).operators}
    theirs = state.model.predict(inputs, verbose=0)
    interpreter = open_interpreter(content, threads=1)
    output = io_types(content).output
    ours = np.empty_like(theirs)
    for index, sample in enumerate(inputs):
        interpreter.reset_all_variables()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], sample[None])
        interpreter.invoke()
        raw = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
        ours[index] = (raw.astype(np.float32) - output.zero_point) * output.scale
    assert np.mean(np.abs(ours - theirs) / output.scale) <= 1.5
    assert np.mean(ours.argmax(-1) == theirs.argmax(-1)) >= 0.98


def doubled(**config):
    """A layer of a user's own class with two weights of one name."""

    class Doubled(kd.keras.layers.Layer):
        def build(self, shape):
            self.parts = [kd.keras.layers.Dense(shape[-1], use_bias=False) for _ in range(2)]
            for part in self.parts:
                part.build(shape)
            super().build(shape)

        def call(self, inputs):
            return self.parts[0](inputs) + self.parts[1](inputs)

    return Doubled(**config)


def oddities():
    """One layer for every reason not to be trained, and a Dense that is."""
    layers = kd.keras.layers
    x = inputs = layers.Input((8, 8, 4))
    shared = layers.Conv2D(4, 3, padding="same", name="twice")
    x = shared(shared(x))
    x = layers.Conv2D(4, 3, activation=lambda v: kd.tf.nn.relu(v) * 2, name="lambda_activation")(x)
    x = layers.BatchNormalization(name="behind_activation")(x)
    y = layers.Conv2D(4, 1, name="two_readers")(x)
    x = layers.Add(name="add")([layers.BatchNormalization(name="one_of_two")(y), y])
    x = layers.BatchNormalization(name="behind_add")(x)
    x = layers.SeparableConv2D(4, 3, name="separable")(x)
    x = layers.Lambda(lambda value: value * 2, name="lambda")(x)
    x = layers.Activation("softplus", name="softplus")(x)
    x = doubled(name="doubled")(x)
    x = layers.Maximum(name="larger")([x, x])
    inside = layers.Input((4, 4, 4))
    # Weights whose names are the same in both layers.
    nested = kd.keras.Model(inside, layers.Conv2D(4, 1)(layers.Conv2D(4, 1)(inside)), name="nested")
    x = layers.Flatten(name="flatten")(nested(x))
    model = kd.keras.Model(inputs, layers.Dense(2, name="fine")(x), name="net")
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.1, 0.6, w.shape) for w in model.get_weights()])
    return model


REASONS = {
    "twice": ("called more than once", "a layer of its own"),
    "lambda_activation": ("the activation <lambda> has no integer form in training", "gelu, linear, relu"),
    "behind_activation": ("right behind a linear convolution", "put it there"),
    "one_of_two": ("right behind a linear convolution", "put it there"),
    "behind_add": ("right behind a linear convolution", "put it there"),
    "separable": ("two kernels", "a DepthwiseConv2D and a 1x1 Conv2D"),
    "lambda": ("this type of layer", "replace it"),
    "softplus": ("the activation softplus", "choose one that has"),
    "doubled": ("this type of layer", "replace it"),
    "larger": ("this type of layer", "replace it"),
    "nested": ("nested model", "one flat model"),
}


def test_every_layer_left_to_calibration_is_told_with_reason_and_remedy():
    model = oddities()
    verdicts = Quantization().verdicts(model)
    assert [verdict.layer for verdict in verdicts] == [layer.name for layer in model.layers]
    left = {verdict.layer: verdict for verdict in verdicts if verdict.outcome == "by calibration"}
    assert list(left) == list(REASONS)
    for name, (reason, remedy) in REASONS.items():
        assert reason in left[name].reason
        assert remedy in left[name].remedy
    others = {verdict.layer: verdict.outcome for verdict in verdicts if verdict.layer not in left}
    assert others == {
        model.layers[0].name: "-",
        **dict.fromkeys(["two_readers", "add", "flatten", "fine"], "yes"),
    }


def test_layers_left_in_float_are_the_callers_with_their_weights():
    model = oddities()
    inputs = inputs_for(model, 32)
    prepared = Quantization().prepare(State(model), plan_for(inputs)).model
    for name in REASONS:
        ours, theirs = prepared.get_layer(name), model.get_layer(name)
        assert type(ours) is type(theirs)
        assert ours is not theirs
        for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    expected = model.predict(inputs, verbose=0)
    np.testing.assert_allclose(prepared.predict(inputs, verbose=0), expected, atol=0.03 * np.abs(expected).max())


def test_layers_that_a_mask_reaches_are_left_to_calibration():
    layers = kd.keras.layers
    ids = layers.Input((8,), dtype="int32")
    x = layers.Embedding(30, 4, mask_zero=True, name="embedding")(ids)
    x = layers.Dense(4, activation="relu", name="masked")(x)
    x = layers.LSTM(4, name="lstm")(x)
    model = kd.keras.Model(ids, layers.Dense(CLASSES, name="out")(x))
    outcomes = {verdict.layer: verdict.outcome for verdict in Quantization().verdicts(model)}
    assert (outcomes["masked"], outcomes["out"]) == ("by calibration", "yes")
    inputs = tokens(32)[0] % 4
    prepared = Quantization().prepare(State(model), plan_for(inputs)).model
    np.testing.assert_allclose(prepared.predict(inputs, verbose=0), model.predict(inputs, verbose=0), atol=0.02)


def test_a_model_without_a_weight_to_train_is_refused_with_the_other_technique():
    layers = kd.keras.layers
    model = kd.keras.Sequential([layers.Conv1D(4, 3, name="conv", input_shape=(8, 2)), layers.Flatten()])
    with pytest.raises(RecipeError, match=r"has none:\n.*conv \(Conv1D\): .*\n.*Remedy: .*post_training"):
        Quantization().check(State(model))


def with_conv1d():
    layers = kd.keras.layers
    x = inputs = layers.Input((8, 2))
    x = layers.Conv1D(4, 3, name="conv")(x)
    x = layers.BatchNormalization(name="conv_norm")(x)
    return kd.keras.Model(inputs, layers.Dense(CLASSES, name="out")(layers.Flatten(name="flatten")(x)))


def test_bits_for_a_layer_that_is_calibrated_are_refused():
    model = with_conv1d()
    Quantization(weight_bits=4).check(State(model))
    Quantization(per_layer={"out": 4}).check(State(model))
    # A BatchNormalization has no kernel that would get bits.
    Quantization(per_layer={"*_norm": 4, "out": 4}, weight_bits=8)
    with pytest.raises(RecipeError, match=r"1 layer\(s\).*\n.*conv \(Conv1D\): per_layer gives it bits, .* to 8: "):
        Quantization(per_layer={"conv*": 4}).check(State(model))


@pytest.mark.parametrize(("scope", "refused"), [("tensor", True), ("channel", False)])
def test_shared_values_that_calibration_would_undo_are_refused(scope, refused):
    state = State(with_conv1d(), (Promise("conv/kernel", "distinct", 4, scope, made_by="clustering"),))
    if not refused:
        Quantization().check(state)
        return
    with pytest.raises(
        RecipeError, match=r"conv \(Conv1D\): its values are to stay shared.*leave it out of the step that shares"
    ):
        Quantization().check(state)


def test_zeros_and_shared_values_of_calibrated_layers_reach_the_file():
    layers = kd.keras.layers
    ids = layers.Input((8,), dtype="int32")
    x = layers.GlobalAveragePooling1D(name="pool")(layers.Embedding(30, 8, name="table")(ids))
    x = layers.Reshape((8, 1), name="column")(x)
    x = layers.Flatten(name="flatten")(layers.Conv1D(4, 3, name="conv")(x))
    model = kd.keras.Model(ids, layers.Dense(CLASSES, name="out")(x), name="net")
    rng = np.random.default_rng(0)
    # Not symmetric: the integer that means zero is not 0.
    model.get_layer("table").set_weights([rng.choice([0, 0, -0.1, 0.5, 1.3], (30, 8))])
    kernel, bias = model.get_layer("conv").get_weights()
    model.get_layer("conv").set_weights([kernel * (np.abs(kernel) > np.median(np.abs(kernel))), bias])
    inputs = tokens(32)[0]
    promises = (
        Promise("table/embeddings", "zeros", 0.3),
        Promise("table/embeddings", "distinct", 4),
        Promise("conv/kernel", "zeros", 0.5),
    )
    state = run(Quantization(fit={"epochs": 0}), State(model, promises), inputs, epochs=0)
    shipment = ship(state, ConversionSettings(), RAW, inputs)
    assert shipment.proof.full_integer
    assert [found.kept for found in shipment.promises] == [True] * 3
    assert [found.found for found in shipment.promises[:2]] == [
        np.mean(model.get_layer("table").get_weights()[0] == 0),
        4,
    ]
