import pytest

from tfcompress.atomic import TEMPORARY
from tfcompress.recipe import load_recipe
from tfcompress.run_folder import RunFolder
from tfcompress.tuning.parcel import pack, pack_reusable, unpack
from tfcompress.vocabulary.errors import RunFolderError


@pytest.fixture
def files(tmp_path):
    with RunFolder(tmp_path / "run", {"seed": 0}) as folder:
        for name in ("evidence.json", "card.md", "model.tflite", "checkpoints/01-pruning.npz"):
            folder.write(name, name.encode() * 3)
        folder.file(f"{TEMPORARY}7-model.tflite").write_bytes(b"half")
        return pack(folder.path)


def test_a_run_travels_with_its_checkpoints_and_goes_on_elsewhere(files, tmp_path):
    assert sorted(files) == ["card.md", "checkpoints/01-pruning.npz", "evidence.json", "model.tflite", "run.json"]
    there = tmp_path / "there"
    unpack(files, there)
    assert pack(there) == files
    with RunFolder(there, {"seed": 0}) as folder:
        assert folder.file("model.tflite").read_bytes() == b"model.tflite" * 3
    with pytest.raises(RunFolderError, match="seed"):
        RunFolder(there, {"seed": 1})


def test_what_came_of_an_earlier_attempt_is_replaced(files, tmp_path):
    there = tmp_path / "there"
    unpack({**files, "card.md": b"earlier", "log.txt": b"both"}, there)
    unpack(files, there)
    assert pack(there) == {**files, "log.txt": b"both"}


def test_a_parcel_half_unpacked_is_a_run_half_done(files, tmp_path):
    there = tmp_path / "there"
    (there / "evidence.json").mkdir(parents=True)
    with pytest.raises(RunFolderError, match="Cannot write"):
        unpack(files, there)
    assert sorted(pack(there)) == ["card.md", "checkpoints/01-pruning.npz", "model.tflite", "run.json"]
    (there / "evidence.json").rmdir()
    (tmp_path / "new" / "card.md").mkdir(parents=True)
    with pytest.raises(RunFolderError, match="Cannot write"):
        unpack(files, tmp_path / "new")
    assert sorted(pack(tmp_path / "new")) == ["run.json"]


def test_only_what_a_run_can_take_over_travels_and_each_checkpoint_once(tmp_path):
    def tree(sparsity, epochs, number_format="int8"):
        pruning = {"technique": "pruning", "final_sparsity": sparsity, "fit": {"epochs": epochs}}
        return {"name": "one", "steps": [pruning, {"technique": "post_training", "number_format": number_format}]}

    def earlier(name, tree):
        with RunFolder(tmp_path / name, {"recipe": load_recipe(tree).plain()}) as folder:
            folder.write("checkpoints/01-pruning.npz", name.encode())
            folder.write("model.tflite", b"not this")
        return folder.path

    other, same, too = earlier("other", tree(0.5, 2)), earlier("same", tree(0.8, 2)), earlier("too", tree(0.8, 2))
    wanted = tree(0.8, 2, "float16")
    expected = {"run.json": (same / "run.json").read_bytes(), "checkpoints/01-pruning.npz": b"same"}
    assert pack_reusable(wanted, [other, same, too], {}) == [expected]
    assert pack_reusable(wanted, [other, same, too], {"checkpoints/01-pruning.npz": b"own"}) == []
    (too / "run.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"too/run\.json"):
        pack_reusable(wanted, [too], {})


def test_where_there_is_no_folder_there_is_nothing_to_pack(tmp_path):
    assert pack(tmp_path / "none") == {}
