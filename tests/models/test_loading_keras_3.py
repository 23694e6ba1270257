"""Keras 3 models come in as objects and files; what cannot is refused, code among it."""

import subprocess
import sys

import numpy as np
import pytest
from fixtures.keras_3 import sequential

from tfcompress import keras_door as kd
from tfcompress.models import fingerprint, load_model
from tfcompress.vocabulary.errors import ModelError

layers = kd.keras_3.layers


@pytest.fixture(scope="module")
def model():
    return sequential(
        layers.Conv2D(2, 3, activation="relu", name="conv"),
        layers.BatchNormalization(name="bn"),
        layers.Flatten(name="flat"),
        layers.Dense(3, activation="softmax", name="out"),
        shape=(6, 6, 1),
    )


@pytest.fixture
def examples():
    return np.random.default_rng(1).normal(size=(5, 6, 6, 1)).astype(np.float32)


def test_an_object_comes_in_as_a_tf_keras_model(model, examples):
    loaded = load_model(model)
    assert isinstance(loaded, kd.keras.Model)
    np.testing.assert_allclose(loaded(examples), model(examples), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_file_comes_in_as_a_tf_keras_model(model, examples, tmp_path, name):
    model.compile("adam", "mse")
    model.save(tmp_path / name)
    loaded = load_model(tmp_path / name)
    assert isinstance(loaded, kd.keras.Model)
    np.testing.assert_allclose(loaded(examples), model(examples), rtol=1e-4, atol=1e-6)
    assert fingerprint(load_model(str(tmp_path / name))) == fingerprint(loaded)


def test_an_hdf5_file_under_another_name_is_refused_with_the_remedy(model, tmp_path):
    model.save(tmp_path / "model.h5")
    with pytest.raises(ModelError, match=r"must be named \*\.h5.*Rename"):
        load_model((tmp_path / "model.h5").rename(tmp_path / "model.bin"))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_truncated_file_is_refused(model, tmp_path, name, share):
    path = tmp_path / name
    model.save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ModelError, match=r"is damaged|could not be read"):
        load_model(path)


def test_an_exported_graph_is_refused_with_the_remedy(model, tmp_path):
    model.export(tmp_path / "exported", verbose=False)
    with pytest.raises(
        ModelError, match=r"the `export` of Keras 3.*a graph without layers.*model\.save\('model\.keras'"
    ):
        load_model(tmp_path / "exported")


def test_weights_that_are_not_finite_are_named(model):
    broken = kd.keras_3.models.clone_model(model)
    broken.get_layer("out").bias.assign([0, np.nan, 1])
    with pytest.raises(ModelError, match=r"NaN.*out/bias \(1 of 3\)"):
        load_model(broken)


def test_a_layer_alone_is_no_model():
    with pytest.raises(ModelError, match="Received: Dense"):
        load_model(layers.Dense(3))


class Own(layers.Layer):
    """A Keras 3 layer that Keras does not know."""

    def call(self, inputs):
        return 2 * inputs


class OwnInKeras2(kd.keras.layers.Layer):
    """The same for tf_keras."""

    def call(self, inputs):
        return 2 * inputs


def test_custom_objects_of_both_generations(tmp_path):
    model = sequential(layers.Dense(3), Own(name="own"), shape=(4,))
    assert isinstance(load_model(model, {"Own": OwnInKeras2}).get_layer("own"), OwnInKeras2)
    model.save(tmp_path / "model.keras")
    with pytest.raises(ModelError, match=r"holds one that is not.*Own.*a Keras 3 object with custom_objects"):
        load_model(tmp_path / "model.keras", {"Own": OwnInKeras2})
    with pytest.raises(ModelError, match=r"own \(Own\).*custom_objects=\{'Own': the tf_keras class"):
        load_model(tmp_path / "model.keras", {"Own": Own})


def test_a_function_serves_both_generations(tmp_path):
    def cubed(x):
        return x**3

    sequential(layers.Dense(3, activation=cubed), shape=(4,)).save(tmp_path / "model.keras")
    with pytest.raises(ModelError, match="cubed"):
        load_model(tmp_path / "model.keras")
    assert load_model(tmp_path / "model.keras", {"cubed": cubed}).layers[-1].activation is cubed


class SubclassedWithoutConfig(kd.keras_3.Model):
    """No graph, and no config beyond its name."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


def test_a_subclassed_model_without_config_is_refused(tmp_path):
    own = SubclassedWithoutConfig()
    own(np.zeros((1, 2)))
    with pytest.raises(ModelError, match="is a subclassed model"):
        load_model(own)
    own.save(tmp_path / "model.keras")
    for objects in ({}, {"SubclassedWithoutConfig": SubclassedWithoutConfig}):
        with pytest.raises(ModelError, match="SubclassedWithoutConfig"):
            load_model(tmp_path / "model.keras", objects)


class TestCode:
    """A file with byte code is not read unless it is trusted."""

    @pytest.fixture(params=["keras", "tf_keras"])
    def with_code(self, request):
        keras = kd.keras_3 if request.param == "keras" else kd.keras
        return keras.Sequential(
            [keras.layers.Input((3,)), keras.layers.Lambda(lambda x: x * 3.0, name="coded", output_shape=(3,))]
        )

    @pytest.mark.parametrize("name", ["model.keras", "model.h5"])
    def test_files(self, with_code, tmp_path, name):
        with_code.save(tmp_path / name)
        with pytest.raises(ModelError, match=r"must not hold code.*would execute whatever.*unsafe=True \(--unsafe\)"):
            load_model(tmp_path / name)
        np.testing.assert_allclose(load_model(tmp_path / name, unsafe=True)(np.ones((1, 3))), [[3.0, 3.0, 3.0]])

    def test_folders(self, tmp_path):
        layer = kd.keras.layers.Lambda(lambda x: x * 3.0)
        kd.keras.Sequential([kd.keras.layers.Input((3,)), layer]).save(tmp_path / "folder")
        with pytest.raises(ModelError, match="must not hold code"):
            load_model(tmp_path / "folder")
        assert load_model(tmp_path / "folder", unsafe=True).output_shape == (None, 3)

    def test_objects_run_code_that_is_here_already(self, with_code):
        assert load_model(with_code).get_layer("coded").name == "coded"

    def test_a_function_by_name_is_no_code(self, tmp_path):
        def tripled(x):
            return x * 3.0

        model = sequential(layers.Lambda(tripled, output_shape=(3,)), shape=(3,))
        model.save(tmp_path / "model.keras")
        loaded = load_model(tmp_path / "model.keras", {"tripled": tripled})
        np.testing.assert_allclose(loaded(np.ones((1, 3))), [[3.0, 3.0, 3.0]])


def test_only_a_keras_3_file_needs_keras_3(tmp_path):
    """Keras 2 files are read without the door to Keras 3."""
    kd.keras.Sequential([kd.keras.layers.Input((3,)), kd.keras.layers.Dense(2)]).save(tmp_path / "two.h5")
    sequential(layers.Dense(2), shape=(3,)).save(tmp_path / "three.keras")
    code = (
        "import sys; from tfcompress import keras_door as kd; from tfcompress.models import load_model\n"
        "load_model(sys.argv[1]); assert 'keras_3' not in vars(kd)\n"
        "load_model(sys.argv[2]); assert 'keras_3' in vars(kd)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "two.h5", tmp_path / "three.keras"], check=True)
