"""Leading steps taken over from an earlier run: the file is that of a run which trained them itself."""

import numpy as np
import pytest
from fixtures import models

from tfcompress.atomic import TEMPORARY
from tfcompress.pipeline import compress
from tfcompress.recipe import load_recipe
from tfcompress.reuse import shared_checkpoints, take_over
from tfcompress.run_folder import RunFolder, measured_name
from tfcompress.training import checkpoint_name
from tfcompress.vocabulary.errors import RunFolderError
from tfcompress.vocabulary.reporter import Reporter

FAST = ["evaluation.latency_seconds=0.02", "evaluation.threads=1", "data.preprocessing=raw", "data.batch_size=16"]
PRUNING = {"technique": "pruning", "final_sparsity": 0.5, "frequency": 1, "fit": {"epochs": 2}}


def recipe(bits=8, epochs=1, decay="constant", distillation=None, **pruning):
    fit = {"epochs": epochs, "decay": decay, "distillation": distillation}
    return {"steps": [PRUNING | pruning, {"technique": "quantization", "weight_bits": bits, "fit": fit}]}


class Listening(Reporter):
    """Hears which steps were taken over, and which epochs trained."""

    def __init__(self):
        self.taken, self.trained = [], set()

    def message(self, text):
        if "taken over" in text:
            self.taken.append(text.partition(":")[0])

    def progress(self, label, done, total, note=""):
        self.trained.add((label, done))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    net = models.conv_bn()
    data = models.inputs_for(net, 60), np.arange(60) % models.CLASSES

    def run(tree, reuse=()):
        heard, out = Listening(), tmp_path_factory.mktemp("run") / "out"
        result = compress(net, data, tree, overrides=FAST, out=out, reuse=reuse, reporter=heard)
        return result, heard

    return run


@pytest.fixture(scope="module")
def first(run):
    return run(recipe())[0]


@pytest.mark.parametrize(
    ("tree", "taken"),
    [
        (recipe(bits=4), ["pruning"]),
        (recipe(epochs=2), ["pruning", "quantization"]),
    ],
)
def test_what_is_the_same_is_taken_over_and_the_file_is_that_of_a_run_alone(run, first, tree, taken):
    borrowed, heard = run(tree, reuse=[first.folder])
    alone, trained = run(tree)
    assert heard.taken == taken
    assert heard.trained < trained.trained
    assert "pruning" not in {label for label, _ in heard.trained}
    assert borrowed.artifact.read_bytes() == alone.artifact.read_bytes()


def identity(tree, **other):
    typed = load_recipe(tree, FAST).plain()
    return {"model": 1, "seed": 0, "recipe": typed, **other}


@pytest.mark.parametrize(
    ("mine", "taken"),
    [
        (identity(recipe()), ("train", "pruning", "quantization")),
        (identity(recipe(epochs=3)), ("train", "pruning", "quantization")),
        (identity(recipe(epochs=3, decay="cosine")), ("train", "pruning")),
        (identity(recipe(final_sparsity=0.6)), ("train",)),
        (identity(recipe(distillation={"temperature": 2})), ("train", "pruning")),
        # A schedule that ends with the last epoch is another one with more of them.
        (identity(recipe(fit={"epochs": 3, "decay": "constant"})), ("train",)),
        (identity(recipe(), seed=1), ()),
        (identity(recipe() | {"data": {"augment": {"flip": True}}}), ()),
    ],
)
def test_what_is_taken_is_what_both_would_train_alike(tmp_path, mine, taken):
    names = ("00-train", "01-pruning", "02-quantization")
    with RunFolder(tmp_path / "earlier", identity(recipe())) as earlier:
        for name in names:
            earlier.write(f"checkpoints/{name}.npz", name)
    with RunFolder(tmp_path / "mine", mine) as folder:
        assert take_over(folder, earlier.path, mine) == taken
        assert take_over(folder, earlier.path, mine) == ()
        copied = sorted(folder.file("checkpoints").iterdir())
        assert [path.stem for path in copied] == [name for name in names if name[3:] in taken]
        assert all(path.read_text() == path.stem for path in copied)


@pytest.mark.parametrize(
    ("temperature", "taken"),
    [(2, ("train", "pruning", "quantization")), ({"begin": 2, "end": 1}, ("train", "pruning"))],
)
def test_a_temperature_that_falls_looks_ahead_to_the_last_epoch(temperature, taken):
    shorter, longer = (recipe(epochs=n, distillation={"temperature": temperature}) for n in (1, 2))
    plain = [load_recipe(tree, FAST).plain() for tree in (longer, shorter)]
    assert tuple(shared_checkpoints(*plain)) == taken


def test_what_teachers_said_is_taken_too(tmp_path):
    with RunFolder(tmp_path / "earlier", identity(recipe())) as earlier:
        earlier.write("teachers/0123.npz", "said")
        earlier.file(f"teachers/{TEMPORARY}0123.npz").write_text("sa")
    with RunFolder(tmp_path / "mine", identity(recipe(bits=4))) as folder:
        take_over(folder, earlier.path, identity(recipe(bits=4)))
        assert folder.file("teachers/0123.npz").read_text() == "said"
        assert len(list(folder.file("teachers").iterdir())) == 1
    with RunFolder(tmp_path / "other", identity(recipe(), seed=1)) as folder:
        take_over(folder, earlier.path, identity(recipe(), seed=1))
        assert not folder.file("teachers").exists()


def test_only_a_run_can_be_taken_over_from(tmp_path):
    with (
        RunFolder(tmp_path / "mine", identity(recipe())) as folder,
        pytest.raises(RunFolderError, match="Only from the folder of a run"),
    ):
        take_over(folder, tmp_path / "none", identity(recipe()))


def test_what_a_step_measured_is_taken_with_its_checkpoint_or_neither_is(tmp_path):
    tree = {"steps": [{"technique": "channels", "target": {"latency": 0.5}}, {"technique": "post_training"}]}
    identity = {"recipe": load_recipe(tree).plain()}
    places = [checkpoint_name(1, "channels"), measured_name(1, "channels")]
    with RunFolder(tmp_path / "earlier", identity) as earlier:
        for place in places:
            earlier.write(place, place)
    with RunFolder(tmp_path / "new", identity) as new:
        assert take_over(new, earlier.path, identity) == ("channels",)
        assert [new.file(place).read_text() for place in places] == places
    with RunFolder(tmp_path / "own", identity) as own:
        own.write_json(places[1], 0.25)
        assert take_over(own, earlier.path, identity) == ()
        assert not own.file(places[0]).exists()
