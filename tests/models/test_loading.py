"""Loading, refusing, copying and telling apart models."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.models import classes_of, clone, fingerprint, load_model
from tfcompress.models.loading import check_one_input_and_output
from tfcompress.vocabulary.errors import ModelError


@pytest.fixture
def model():
    layers = kd.keras.layers
    return kd.keras.Sequential(
        [
            layers.Input((6, 6, 1)),
            layers.Conv2D(2, 3, name="conv"),
            layers.BatchNormalization(name="bn"),
            layers.Flatten(name="flat"),
            layers.Dense(3, activation="softmax", name="out"),
        ]
    )


@pytest.fixture
def examples():
    return np.random.default_rng(1).normal(size=(5, 6, 6, 1)).astype(np.float32)


def branched(activation="relu"):
    """A Functional model with a nested model used twice."""
    layers = kd.keras.layers
    inside = kd.keras.Sequential(
        [layers.Input((4,)), layers.Dense(4, activation=activation, name="shared")], name="inside"
    )
    inputs = kd.keras.Input((4,), name="features")
    x = inside(inside(inputs))
    outputs = layers.Dense(2, name="out")(layers.Add(name="add")([x, inputs]))
    return kd.keras.Model(inputs, outputs, name="branched")


def test_the_package_needs_no_tensorflow_until_a_model_is_touched():
    code = "import sys, tfcompress.models; sys.exit('tensorflow' in sys.modules or 'tf_keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["model.h5", "model.hdf5", "model.keras", "folder"])
def test_a_saved_model_comes_back_with_the_same_outputs(model, examples, tmp_path, name):
    model.get_layer("bn").set_weights([np.array(v, np.float32) for v in ([2, 3], [1, 4], [0.5, 1], [2, 5])])
    model.compile("adam", "mse")
    model.save(tmp_path / name)
    loaded = load_model(tmp_path / name)
    np.testing.assert_array_equal(loaded(examples), model(examples))
    assert loaded.compiled_loss is None
    assert fingerprint(load_model(str(tmp_path / name))) == fingerprint(loaded)


def test_a_model_object_is_returned_as_it_is(model):
    assert load_model(model) is model


def test_hdf5_is_known_by_its_content_whatever_its_name(model, tmp_path):
    model.save(tmp_path / "model.h5")
    renamed = (tmp_path / "model.h5").rename(tmp_path / "model.keras")
    assert fingerprint(load_model(renamed)) == fingerprint(model)


def test_an_archive_under_another_name_is_refused_with_the_remedy(model, tmp_path):
    model.save(tmp_path / "model.keras")
    renamed = (tmp_path / "model.keras").rename(tmp_path / "model.zip")
    with pytest.raises(ModelError, match=r"must be named \*\.keras.*Rename"):
        load_model(renamed)


def test_a_missing_file_names_the_zoo(tmp_path):
    with pytest.raises(ModelError, match=r"nothing at '.*gone\.h5'.*Zoo names:.*resnet8"):
        load_model(tmp_path / "gone.h5")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
@pytest.mark.parametrize("name", ["model.h5", "model.keras"])
def test_a_truncated_file_is_refused(model, tmp_path, name, share):
    path = tmp_path / name
    model.save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ModelError, match=r"is damaged|could not be read"):
        load_model(path)


def test_a_flipped_byte_in_an_archive_is_refused(model, tmp_path):
    path = tmp_path / "model.keras"
    model.save(path)
    content = bytearray(path.read_bytes())
    place = content.find(b"HDF\r\n") + 2000
    content[place] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"checksum of model\.weights\.h5 is wrong"):
        load_model(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.tflite", b"\x1c\0\0\0TFL3....", "is a TFLite file already"),
        ("notes.txt", b"hello", "another kind of file"),
        ("model.h5", b"<html>not found", "damaged"),
    ],
)
def test_another_kind_of_file_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path / name)


def test_an_archive_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("photo.txt", "")
    with pytest.raises(ModelError, match="another kind of file"):
        load_model(tmp_path / "photos.zip")


def test_a_folder_that_is_no_saved_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no file saved_model\.pb"):
        load_model(tmp_path)


def test_a_saved_model_without_layers_is_refused(model, tmp_path):
    kd.tf.saved_model.save(model, str(tmp_path / "plain"))
    (tmp_path / "plain" / "keras_metadata.pb").unlink(missing_ok=True)
    with pytest.raises(ModelError, match=r"no file keras_metadata\.pb.*model\.keras"):
        load_model(tmp_path / "plain")


def test_weights_alone_are_refused(model, tmp_path):
    model.save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ModelError, match="weights alone"):
        load_model(tmp_path / "model.weights.h5")


def test_an_object_of_another_kind_is_refused():
    with pytest.raises(ModelError, match=r"Received: ndarray"):
        load_model(np.zeros(3))


def test_all_weights_that_are_not_finite_are_named(model, tmp_path):
    kernel, bias = model.get_layer("out").get_weights()
    kernel[0, 0], bias[:2] = np.nan, np.inf
    model.get_layer("out").set_weights([kernel, bias])
    model.save(tmp_path / "model.h5")
    for source in (model, tmp_path / "model.h5"):
        with pytest.raises(ModelError, match=r"NaN.*out/kernel \(1 of 96\), out/bias \(2 of 3\)") as error:
            load_model(source)
        assert "conv" not in str(error.value)


def test_several_inputs_and_outputs_come_in_and_are_named_at_once_where_one_is_needed():
    one, two = kd.keras.Input((2,), name="one"), kd.keras.Input((2,), name="two")
    both = kd.keras.layers.Add(name="both")([one, two])
    scaled = kd.keras.layers.ReLU(name="scaled")(both)
    model = load_model(kd.keras.Model([one, two], [both, scaled]))
    with pytest.raises(ModelError, match=r"one input;.*It has 2: one, two.*one output;.*2: both, scaled"):
        check_one_input_and_output(model)
    check_one_input_and_output(kd.keras.Model(one, kd.keras.layers.ReLU()(one)))


def test_a_subclassed_model_is_refused_alone_and_inside_another():
    class Own(kd.keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.dense = kd.keras.layers.Dense(2)

        def call(self, inputs):
            return self.dense(inputs)

    own = Own()
    inputs = kd.keras.Input((3,))
    outer = kd.keras.Model(inputs, own(inputs))
    for model in (own, outer):
        with pytest.raises(ModelError, match=r"subclassed model has no graph.*Subclassed: own"):
            load_model(model)


def test_a_sequential_model_without_input_shape_is_refused():
    with pytest.raises(ModelError, match=r"model\.build"):
        load_model(kd.keras.Sequential([kd.keras.layers.Dense(2)]))


class TestWrappers:
    """tfmot's wrappers are refused wherever they come from."""

    @pytest.fixture(params=["pruning", "clustering", "quantization"])
    def wrapped(self, request, model):
        if request.param == "pruning":
            return request.param, kd.tfmot.sparsity.keras.prune_low_magnitude(model)
        if request.param == "clustering":
            start = kd.tfmot.clustering.keras.CentroidInitialization.LINEAR
            return request.param, kd.tfmot.clustering.keras.cluster_weights(model, 4, start)
        return request.param, kd.tfmot.quantization.keras.quantize_model(model)

    def test_objects_and_files(self, wrapped, tmp_path):
        kind, model = wrapped
        model.save(tmp_path / "model.h5")
        for source in (model, tmp_path / "model.h5"):
            with pytest.raises(ModelError, match=rf"tfmot's wrappers.*those of {kind} .*Remove them first"):
                load_model(source)

    def test_saved_models(self, model, tmp_path):
        kd.tfmot.sparsity.keras.prune_low_magnitude(model).save(tmp_path / "folder")
        with pytest.raises(ModelError, match=r"those of pruning \(PruneLowMagnitude\)"):
            load_model(tmp_path / "folder")


class Doubling(kd.keras.layers.Layer):
    """A layer Keras does not know."""

    def call(self, inputs):
        return 2 * inputs


def cubed(x):
    return x**3


class SumOfSquares(kd.keras.regularizers.Regularizer):
    def __call__(self, x):
        return kd.tf.reduce_sum(x**2)

    def get_config(self):
        return {}


def custom_model(activation=cubed):
    layers = kd.keras.layers
    inputs = kd.keras.Input((3,), name="features")
    x = layers.Dense(4, activation=activation, kernel_regularizer=SumOfSquares(), name="cubed")(inputs)
    return kd.keras.Model(inputs, Doubling(name="doubled")(x))


OWN = {"Doubling": Doubling, "cubed": cubed, "SumOfSquares": SumOfSquares}


@pytest.mark.parametrize("name", ["model.h5", "model.keras", "folder"])
def test_custom_objects_are_asked_for_and_used(tmp_path, name):
    # An .h5 file of tf_keras 2.21 does not tell custom activations apart, so tf_keras cannot load one.
    model = custom_model("relu" if name == "model.h5" else cubed)
    model.save(tmp_path / name)
    with pytest.raises(ModelError, match="custom_objects"):
        load_model(tmp_path / name)
    loaded = load_model(tmp_path / name, custom_objects=OWN)
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(loaded(x), model(x))


class TestClone:
    """A clone is equal and independent."""

    def test_outputs_are_equal_and_nothing_is_shared(self, model, examples):
        before = [value.copy() for value in model.get_weights()]
        copy = clone(model)
        np.testing.assert_array_equal(copy(examples), model(examples))
        assert [layer.name for layer in copy.layers] == [layer.name for layer in model.layers]
        assert not {id(w) for w in copy.weights} & {id(w) for w in model.weights}
        copy.set_weights([value + 1 for value in before])
        for value, old in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(value, old)

    def test_nested_and_shared_layers_stay_shared_only_inside_the_copy(self):
        model = branched(activation=lambda x: x - 3)
        copy = clone(model)
        x = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
        np.testing.assert_array_equal(copy(x), model(x))
        assert len(copy.weights) == len(model.weights) == 4
        assert not {id(w) for w in copy.weights} & {id(w) for w in model.weights}
        assert copy.get_layer("inside") is not model.get_layer("inside")

    def test_custom_objects_need_no_registration(self):
        model = custom_model()
        copy = clone(model)
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        np.testing.assert_array_equal(copy(x), model(x))
        assert isinstance(copy.get_layer("doubled"), Doubling)
        assert isinstance(copy.get_layer("cubed").kernel_regularizer, SumOfSquares)

    def test_frozen_layers_stay_frozen(self, model):
        model.get_layer("conv").trainable = False
        assert [len(layer.trainable_weights) for layer in clone(model).layers] == [0, 2, 0, 2]

    def test_a_model_built_late_is_copied(self):
        model = kd.keras.Sequential([kd.keras.layers.Dense(2)])
        model.build((None, 3))
        assert fingerprint(clone(model)) == fingerprint(model)

    def test_tfmot_leaves_the_original_of_a_clone_alone(self, model):
        before = fingerprint(model)
        kd.tfmot.sparsity.keras.prune_low_magnitude(clone(model))
        assert fingerprint(model) == before

    def test_a_quantization_aware_model_is_copied_with_its_ranges(self, model, examples):
        aware = kd.tfmot.quantization.keras.quantize_model(clone(model))
        aware(examples, training=True)
        copy = clone(aware)
        np.testing.assert_array_equal(copy(examples), aware(examples))
        assert not {id(w) for w in copy.weights} & {id(w) for w in aware.weights}

    def test_a_layer_that_cannot_be_made_again_is_named(self):
        class NeedsSize(kd.keras.layers.Layer):
            def __init__(self, size):
                super().__init__(name="odd")
                self.size = size

            def get_config(self):
                return {}

            def call(self, inputs):
                return inputs

        inputs = kd.keras.Input((2,))
        with pytest.raises(ModelError, match=r"Layer 'odd' \(NeedsSize\)"):
            clone(kd.keras.Model(inputs, NeedsSize(3)(inputs)))

    def test_functions_of_one_name_are_not_confused(self):
        dense = kd.keras.layers.Dense(
            2, activation=lambda x: 5 * x, kernel_regularizer=lambda w: kd.tf.reduce_sum(abs(w)), name="twice"
        )
        inputs = kd.keras.Input((2,))
        model = kd.keras.Model(inputs, dense(inputs))
        copy, x = clone(model), np.ones((1, 2), np.float32)
        np.testing.assert_array_equal(copy(x), model(x))
        assert float(copy.losses[0]) == float(model.losses[0]) > 0

    def test_lambda_layers_and_wrappers_of_custom_layers(self):
        layers, three = kd.keras.layers, 3.0
        inputs = kd.keras.Input((4, 2))
        x = layers.TimeDistributed(Doubling(name="doubled"))(layers.Lambda(lambda x: three * x)(inputs))
        model = kd.keras.Model(inputs, layers.TimeDistributed(layers.Dense(2, activation=cubed))(x))
        copy, x = clone(model), np.ones((1, 4, 2), np.float32)
        np.testing.assert_array_equal(copy(x), model(x))

    @pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN", "Bidirectional"])
    def test_recurrent_layers_that_drop_states(self, kind):
        layers = kd.keras.layers
        inputs = kd.keras.Input((4, 2))
        rnn = getattr(layers, kind if kind != "Bidirectional" else "LSTM")(3, dropout=0.2, recurrent_dropout=0.3)
        rnn = layers.Bidirectional(rnn) if kind == "Bidirectional" else rnn
        model = kd.keras.Model(inputs, layers.Dense(2, activation=cubed)(rnn(inputs)))
        copy, x = clone(model), np.ones((1, 4, 2), np.float32)
        np.testing.assert_array_equal(copy(x), model(x))
        assert fingerprint(copy) == fingerprint(model)


class Odd(kd.keras.layers.Layer):
    """A layer whose config is what its constructor took, and no JSON."""

    def __init__(self, value, **more):
        super().__init__(**more)
        self.value = value

    def get_config(self):
        return {**super().get_config(), "value": self.value}

    def call(self, inputs):
        return inputs


class TestFingerprint:
    """One number for architecture and weights."""

    def test_a_clone_has_its_original_s(self):
        model = branched()
        assert fingerprint(clone(model)) == fingerprint(model)

    def test_one_weight_changes_it(self, model):
        before = fingerprint(model)
        kernel, bias = model.get_layer("out").get_weights()
        kernel[0, 0] = np.nextafter(kernel[0, 0], np.float32(9))
        model.get_layer("out").set_weights([kernel, bias])
        assert fingerprint(model) != before

    def test_the_architecture_changes_it(self):
        def one(name, activation):
            inputs = kd.keras.Input((1,), name="in")
            layer = kd.keras.layers.Dense(1, activation, kernel_initializer="ones", name=name)
            return fingerprint(kd.keras.Model(inputs, layer(inputs), name="one"))

        assert one("a", "relu") == one("a", "relu")
        assert len({one("a", "relu"), one("a", "tanh"), one("b", "relu")}) == 3

    def test_all_layers_whose_config_is_no_json_are_named(self):
        nested = kd.keras.Sequential([Odd(object(), name="inner", input_shape=(2,))], name="nested")
        model = kd.keras.Sequential([Odd(object(), name="first", input_shape=(2,)), nested, Odd(3, name="fine")])
        with pytest.raises(ModelError, match=r"first \(Odd\), inner \(Odd\) does not: .*Remedy: "):
            fingerprint(model)

    def test_compiling_does_not_change_it(self, model):
        before = fingerprint(model)
        model.compile("sgd", "mse")
        assert fingerprint(model) == before


def test_classes_of(model):
    assert classes_of(model) == 3
    inputs = kd.keras.Input((None, 5))
    assert classes_of(kd.keras.Model(inputs, kd.keras.layers.Permute((2, 1))(inputs))) is None
    assert classes_of(kd.keras.Model(inputs, kd.keras.layers.Reshape((-1, 7))(inputs))) == 7
