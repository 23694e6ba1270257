"""Going on from the folder of an earlier run: the same as in one process, and nothing that is not true."""

import json
import shutil

import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.pipeline import compress, train
from tfcompress.run_state import read_state
from tfcompress.vocabulary.errors import ModelError, PromiseError, RunFolderError
from tfcompress.vocabulary.reporter import Reporter

FAST = ["evaluation.latency_seconds=0.02", "evaluation.threads=1", "data.batch_size=32"]
PRUNE = {"technique": "pruning", "final_sparsity": 0.6, "frequency": 1, "fit": {"epochs": 2}}
SHARE = {"technique": "clustering", "clusters": 6, "fit": {"epochs": 1}}
FIRST = {"name": "first", "data": {"preprocessing": "unit"}, "steps": [PRUNE, {"technique": "post_training"}]}
SECOND = {"name": "second", "steps": [SHARE, {"technique": "quantization", "fit": {"epochs": 1}}]}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 240)
    inputs = rng.normal(100, 20, (240, 5, 5, 2)) + 20 * rng.normal(size=(4, 5, 5, 2))[labels]
    return np.clip(inputs, 0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def model(data):
    kd.keras.utils.set_random_seed(0)
    layers = kd.keras.layers
    net = kd.keras.Sequential(
        [
            layers.Conv2D(8, 3, activation="relu", input_shape=(5, 5, 2), name="conv"),
            layers.Flatten(name="flat"),
            layers.Dense(4, activation="softmax", name="out"),
        ],
        name="net",
    )
    net.compile("adam", "sparse_categorical_crossentropy")
    net.fit(data[0] / 255.0, data[1], epochs=3, verbose=0)
    return net


@pytest.fixture(scope="module")
def first(model, data, tmp_path_factory):
    return compress(model, data, FIRST, out=tmp_path_factory.mktemp("earlier") / "first", overrides=FAST)


@pytest.fixture
def folder(first, tmp_path):
    """A copy of the first run's folder, to damage."""
    return shutil.copytree(first.folder, tmp_path / "first")


def equal(some, others):
    return all(np.array_equal(a, b) for a, b in zip(some, others, strict=True))


def test_a_run_goes_on_from_a_folder_as_from_a_result(first, data, tmp_path):
    unsure = ["data.preprocessing=unit"]
    inside = compress(first, data, SECOND, out=tmp_path / "inside", overrides=[*FAST, *unsure])
    outside = compress(str(first.folder), data, SECOND, out=tmp_path / "outside", overrides=FAST)
    assert outside.artifact.read_bytes() == inside.artifact.read_bytes()
    assert outside.evidence.promises == inside.evidence.promises
    assert {p.kind for p in outside.evidence.promises} == {"zeros", "distinct"}
    assert all(p.kept for p in outside.evidence.promises)
    assert outside.evidence.preprocessing.chosen_by == "model.preprocessing.yaml, beside the model"
    before = outside.artifact.read_bytes()
    assert (
        compress(first.folder, data, SECOND, out=tmp_path / "outside", overrides=FAST).artifact.read_bytes() == before
    )
    state = read_state(tmp_path / "outside")
    assert state.promises == inside.state.promises, "of 8 bits there is no promise"
    assert len(np.unique(state.model.get_layer("conv").kernel)) <= 6


def test_the_model_file_is_plain_keras_before_the_arithmetic(first, model, data, tmp_path):
    pruned = kd.keras.models.load_model(first.folder / "model.keras", compile=False)
    assert np.mean(pruned.get_layer("out").kernel.numpy() == 0) >= 0.6
    assert equal(pruned.get_weights(), first.state.model.get_weights())
    unit = [*FAST, "data.preprocessing=unit"]
    run = compress(model, data, "ptq_int8", out=tmp_path / "run", overrides=unit)
    assert equal(read_state(run.folder).model.get_weights(), model.get_weights())


def test_training_leaves_a_folder_to_go_on_from(model, data, tmp_path):
    path = train(model, data, FIRST, out=tmp_path / "t", overrides=[*FAST, "train.epochs=1"])
    result = compress(path.parent, data, "ptq_int8", out=tmp_path / "run", overrides=FAST)
    assert equal(result.model.get_weights(), kd.keras.models.load_model(path, compile=False).get_weights())


def test_a_run_that_has_not_come_so_far_is_refused(model, data, tmp_path):
    class Interrupt(Reporter):
        def progress(self, label, done, total, note=""):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(model, data, FIRST, out=tmp_path / "first", overrides=FAST, reporter=Interrupt())
    with pytest.raises(RunFolderError, match=r"first has no state\.json yet.*Remedy"):
        compress(tmp_path / "first", data, SECOND, out=tmp_path / "second")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="a SavedModel, or that of an earlier run"):
        compress(tmp_path / "empty", data, SECOND, out=tmp_path / "second")
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda text: text[:40], r"state\.json is damaged: (Unterminated|Expecting)"),
        (lambda text: text.replace('"zeros"', '"holes"'), r"promises\.0\.kind.*'zeros'.*Received: 'holes'"),
        (lambda text: text.replace('"lineage"', '"linage"'), "linage: unknown key. Did you mean `lineage`?"),
        (lambda text: "[]", r"state\.json is damaged"),
    ],
)
def test_a_damaged_state_is_refused(folder, data, damage, expected):
    (folder / "state.json").write_text(damage((folder / "state.json").read_text()))
    with pytest.raises(RunFolderError, match=expected) as caught:
        read_state(folder)
    assert str(folder / "state.json") in str(caught.value)
    assert "Remedy" in str(caught.value)


def test_a_folder_of_runs_names_them(tmp_path):
    for run in ("float", "trials/0000/run"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "state.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"name a run inside it: \S*float, \S*trials/0000/run\.$"):
        read_state(tmp_path)


def test_weights_that_no_longer_keep_the_promises_are_all_named(folder):
    other = kd.keras.models.load_model(folder / "model.keras", compile=False)
    other.set_weights([weight + 1 for weight in other.get_weights()])
    other.save(folder / "model.keras")
    with pytest.raises(PromiseError, match=r"(?s)conv/kernel must have zeros 0.6.*out/kernel must have zeros 0.6"):
        read_state(folder)
    record = json.loads((folder / "state.json").read_text())
    record["lineage"]["places"] = {"out/kernel": "gone/kernel"}
    (folder / "state.json").write_text(json.dumps(record))
    with pytest.raises(PromiseError, match=r"out/kernel, promised zeros, must be a weight of the model: No such layer"):
        read_state(folder)
    (folder / "model.keras").write_bytes((folder / "model.keras").read_bytes()[:2000])
    with pytest.raises(ModelError, match=r"model\.keras"):
        read_state(folder)


def test_other_promises_are_another_run(folder, data, tmp_path):
    fast = [*FAST, "post_training.number_format=float16"]
    recipe = {"steps": [{"technique": "post_training"}]}
    compress(folder, data, recipe, out=tmp_path / "run", overrides=fast)
    record = json.loads((folder / "state.json").read_text())
    record["promises"][0]["bound"] = 0.5
    (folder / "state.json").write_text(json.dumps(record))
    with pytest.raises(RunFolderError, match=r"promises\[0\]\.bound \(0\.6 there, 0\.5 now\)"):
        compress(folder, data, recipe, out=tmp_path / "run", overrides=fast)


class Secretive(kd.keras.layers.Layer):
    """Weights that are not to be written."""

    def build(self, shape):
        self.secret = self.add_weight(name="secret", shape=shape[-1:])

    def call(self, inputs):
        return inputs + self.secret

    def save_own_variables(self, store):
        raise NotImplementedError("secret")


def test_a_model_that_keras_cannot_save_is_compressed_all_the_same(data, tmp_path):
    messages = []

    class Listener(Reporter):
        def message(self, text):
            messages.append(text)

    layers = kd.keras.layers
    net = kd.keras.Sequential(
        [layers.Flatten(input_shape=(5, 5, 2)), Secretive(), layers.Dense(4, activation="softmax")]
    )
    unit = [*FAST, "data.preprocessing=unit"]
    result = compress(net, data, "ptq_int8", out=tmp_path / "run", overrides=unit, reporter=Listener())
    assert result.evidence.artifact.full_integer
    assert any("No other run can go on from this folder" in text for text in messages)
    assert not (result.folder / "state.json").exists()
    with pytest.raises(ModelError, match=r"one that Keras can save as \.keras"):
        train(net, data, "ptq_int8", out=tmp_path / "t", overrides=[*unit, "train.epochs=0"])


def test_channels_of_a_transposed_convolution_are_counted_along_their_axis(data, tmp_path):
    layers = kd.keras.layers
    inputs = layers.Input((5, 5, 2))
    x = layers.Flatten()(layers.Conv2DTranspose(4, 3, name="up")(inputs))
    net = kd.keras.Model(inputs, layers.Dense(4, activation="softmax", name="out")(x), name="net")
    steps = [
        {"technique": "channels", "remove": 0.75, "multiple_of": 1, "fit": {"epochs": 0}},
        {"technique": "post_training"},
    ]
    compress(net, data, {"data": {"preprocessing": "unit"}, "steps": steps}, out=tmp_path / "run", overrides=FAST)
    state = read_state(tmp_path / "run")
    assert [(p.weight, p.kind, p.bound) for p in state.promises] == [("up/kernel", "channels", 1)]
    assert state.model.get_layer("up").kernel.shape == (3, 3, 1, 2)
