"""Graphs: several inputs and outputs, shared and nested layers, names, the user's own classes, all problems at once."""

import numpy as np
import pytest
from fixtures.keras_3 import randomised, sequential

from tfcompress import keras_door as kd
from tfcompress.models.translation import translate
from tfcompress.vocabulary.errors import ModelError

layers = kd.keras_3.layers


def nested():
    """Two inputs and three outputs by name; a nested model and a layer that are called twice each."""
    inner = kd.keras_3.Sequential(
        [kd.keras_3.Input((4,)), layers.Dense(4, activation="relu", name="deep"), layers.BatchNormalization()],
        name="inner",
    )
    outer_inner = kd.keras_3.Sequential([kd.keras_3.Input((4,)), inner, layers.Dense(4)], name="outer_inner")
    one, two = kd.keras_3.Input((4,), name="one"), kd.keras_3.Input((4,), name="two")
    shared = layers.Dense(4, name="shared")
    x, y = outer_inner(one), outer_inner(two)
    outputs = {
        "dot": layers.Dot(1)([shared(x), shared(y)]),
        "gap": layers.Subtract(name="gap")([x, y]),
        "least": layers.Minimum()([x, two]),
    }
    return randomised(kd.keras_3.Model({"one": one, "two": two}, outputs, name="twofold"))


def test_inputs_outputs_sharing_and_nesting_are_kept():
    model = nested()
    translated = translate(model)
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(3, 4)).astype(np.float32) for name in ("one", "two")}
    ours, theirs = model(x), translated(x)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_allclose(theirs[name], value, rtol=1e-4, atol=1e-6)
    assert translated.name == "twofold"
    assert translated.get_layer("outer_inner").get_layer("inner").get_layer("deep").units == 4
    assert len(translated.weights) == len(model.weights) == 10


def test_lists_of_inputs_and_outputs_keep_their_order():
    one, two = kd.keras_3.Input((3,), name="b"), kd.keras_3.Input((2,), name="a")
    model = kd.keras_3.Model([one, two], [layers.Dense(5)(two), layers.Dense(4)(one)])
    translated = translate(model)
    assert translated.input_names == ["b", "a"]
    assert [shape[-1] for shape in translated.output_shape] == [5, 4]


def test_a_model_of_part_of_a_graph():
    inputs = kd.keras_3.Input((4,), name="whole")
    middle = layers.Dense(3, name="first")(inputs)
    outputs = layers.Dense(2, name="second")(middle)
    whole = randomised(kd.keras_3.Model(inputs, outputs))
    assert [layer.name for layer in translate(kd.keras_3.Model(middle, outputs)).layers[1:]] == ["second"]
    assert [layer.name for layer in translate(kd.keras_3.Model(inputs, middle)).layers] == ["whole", "first"]
    assert len(translate(whole).layers) == 3


def test_the_source_is_not_changed():
    model = nested()
    before = [value.copy() for value in model.get_weights()]
    names = [operation.name for operation in model.operations]
    translate(model).set_weights([value * 0 for value in before])
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert names == [operation.name for operation in model.operations]


def test_a_frozen_model_stays_frozen():
    model = nested()
    model.get_layer("outer_inner").trainable = False
    assert len(translate(model).trainable_weights) == len(model.trainable_weights) == 2


def test_a_translated_model_can_be_saved_and_loaded(tmp_path):
    model = translate(sequential(layers.Conv2D(2, 3, activation="hard_silu"), layers.Flatten(), shape=(5, 5, 1)))
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 1)).astype(np.float32)
    model.save(tmp_path / "model.keras")
    from tfcompress.models import load_model

    np.testing.assert_array_equal(load_model(tmp_path / "model.keras")(x), model(x))


class Doubling(layers.Layer):
    """A layer of the user's, for Keras 3."""

    def __init__(self, factor=2.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def build(self, shape):
        self.shift = self.add_weight(shape=(shape[-1],), name="shift")

    def call(self, inputs):
        return self.factor * inputs + self.shift

    def get_config(self):
        return super().get_config() | {"factor": self.factor}


class DoublingInKeras2(kd.keras.layers.Layer):
    """The same, for tf_keras."""

    def __init__(self, factor=2.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def build(self, shape):
        self.shift = self.add_weight(shape=(shape[-1],), name="shift")

    def call(self, inputs):
        return self.factor * inputs + self.shift

    def get_config(self):
        return super().get_config() | {"factor": self.factor}


class TestOwnClasses:
    """A Keras 3 class cannot run in tf_keras; one for tf_keras takes its place."""

    @pytest.fixture
    def model(self):
        return sequential(Doubling(3.0, name="own"), layers.TimeDistributed(layers.Dense(2)), shape=(5, 4))

    def test_one_is_refused_with_the_remedy(self, model):
        with pytest.raises(ModelError, match=r"own \(Doubling\).*pass custom_objects=\{'Doubling': the tf_keras class"):
            translate(model)

    def test_the_remedy_works(self, model):
        layer = translate(model, {"Doubling": DoublingInKeras2}).get_layer("own")
        assert isinstance(layer, DoublingInKeras2)
        assert layer.factor == 3

    def test_a_class_that_computes_something_else_is_found_out(self, model):
        class Tripling(DoublingInKeras2):
            def call(self, inputs):
                return super().call(inputs) * 1.001

        with pytest.raises(ModelError, match=r"first that does not is 'own': 0\.001"):
            translate(model, {"Doubling": Tripling})

    def test_a_class_of_other_weights_is_refused(self, model):
        class Bare(kd.keras.layers.Layer):
            def __init__(self, factor, **kwargs):
                super().__init__(**kwargs)

            def call(self, inputs):
                return inputs

        with pytest.raises(ModelError, match=r"own .*weights have the shapes \[\(4,\)\], those of tf_keras \[\]"):
            translate(model, {"Doubling": Bare})

    def test_objects_inside_layers(self):
        class Halving(kd.keras_3.regularizers.Regularizer):
            def __call__(self, x):
                return 0.5 * kd.keras_3.ops.sum(x)

            def get_config(self):
                return {}

        class HalvingInKeras2(kd.keras.regularizers.Regularizer):
            def __call__(self, x):
                return 0.5 * kd.tf.reduce_sum(x)

            def get_config(self):
                return {}

        model = sequential(layers.Dense(3, kernel_regularizer=Halving(), name="held"), shape=(4,))
        with pytest.raises(ModelError, match=r"held .*'Halving': the tf_keras class"):
            translate(model)
        regularizer = translate(model, {"Halving": HalvingInKeras2}).get_layer("held").kernel_regularizer
        assert isinstance(regularizer, HalvingInKeras2)


def test_all_problems_are_named_at_once_nested_ones_too():
    inner = kd.keras_3.Sequential([kd.keras_3.Input((4, 4, 4)), Doubling(name="one")], name="inner")
    inputs = kd.keras_3.Input((4, 4, 4))
    x = inner(layers.RMSNormalization(name="two")(inputs))
    x = layers.AdaptiveMaxPooling2D(2, name="three")(layers.Conv2D(4, 1)(x))
    model = kd.keras_3.Model(inputs, [kd.keras_3.ops.rot90(x, axes=(1, 2)), layers.Activation("sparsemax")(x)])
    with pytest.raises(ModelError) as error:
        translate(model)
    message = str(error.value)
    for part in ("inner/one (Doubling)", "two (RMSNorm", "three (AdaptiveMax", "(Rot90)", "no activation 'sparsemax'"):
        assert message.count(part) == 1
    assert "conv2d" not in message


def test_models_without_a_graph_are_refused():
    class Own(kd.keras_3.Model):
        def call(self, inputs):
            return inputs

    own = Own(name="own")
    own(np.zeros((1, 3)))
    with pytest.raises(ModelError, match=r"Own 'own' is a subclassed model.*keras\.Model\(inputs, outputs\)"):
        translate(own)
    inputs = kd.keras_3.Input((3,))
    with pytest.raises(ModelError, match=r"own \(Own\): it is a subclassed model"):
        translate(kd.keras_3.Model(inputs, own(inputs)))
    with pytest.raises(ModelError, match=r"must know its input shape.*model\.build"):
        translate(kd.keras_3.Sequential([layers.Dense(2)]))
