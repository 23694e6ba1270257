"""The run folder: whole files only, and one run a folder."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tfcompress.atomic import save_atomically, write_atomically
from tfcompress.run_folder import RunFolder
from tfcompress.vocabulary.errors import RunFolderError

IDENTITY = {"recipe": {"steps": [{"technique": "pruning", "final_sparsity": 0.5}]}, "seed": 0}


def test_same_identity_opens_the_same_folder_again(tmp_path):
    RunFolder(tmp_path / "run", IDENTITY).write("a.txt", "kept")
    again = RunFolder(tmp_path / "run", IDENTITY)
    assert again.file("a.txt").read_text() == "kept"


def test_another_identity_is_refused_and_says_what_differs(tmp_path):
    RunFolder(tmp_path / "run", IDENTITY)
    other = {"recipe": {"steps": [{"technique": "pruning", "final_sparsity": 0.9}]}, "seed": 0}
    with pytest.raises(RunFolderError, match=r"recipe\.steps\[0\]\.final_sparsity \(0\.5 there, 0\.9 now\)"):
        RunFolder(tmp_path / "run", other)


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunFolderError, match="holds other files"):
        RunFolder(tmp_path, IDENTITY)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_parent_that_is_a_file_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="must be writable"):
        RunFolder(tmp_path / "file" / "run", IDENTITY)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunFolderError, match="must be writable"):
        RunFolder(tmp_path / "run", IDENTITY)


def test_arrays_come_back_as_they_were(tmp_path):
    folder = RunFolder(tmp_path / "run", IDENTITY)
    values = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([True])}
    folder.write_arrays("checkpoints/x.npz", values)
    stored = folder.read_arrays("checkpoints/x.npz")
    assert stored.keys() == values.keys()
    assert all(np.array_equal(stored[k], values[k]) and stored[k].dtype == values[k].dtype for k in values)
    assert folder.read_arrays("checkpoints/none.npz") is None


def test_a_failed_write_leaves_the_earlier_file_and_nothing_else(tmp_path):
    path = tmp_path / "model.tflite"
    write_atomically(path, b"earlier")

    def fails_midway(temporary):
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunFolderError, match="No space left on device"):
        save_atomically(path, fails_midway)
    assert path.read_bytes() == b"earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["model.tflite"]


def test_a_full_disk_is_a_named_error_and_leaves_no_folder(tmp_path):
    """A file-size limit of zero makes the kernel refuse every write, as a full disk does."""
    code = (
        "import resource, signal, sys\n"
        "from tfcompress.run_folder import RunFolder\n"
        "from tfcompress.vocabulary.errors import RunFolderError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "try:\n    RunFolder(sys.argv[1], {'seed': 0})\n"
        "except RunFolderError as error:\n    sys.exit(7 if 'Cannot write' in str(error) else 8)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "deep" / "run")], check=False)
    assert done.returncode == 7
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_write_are_removed(tmp_path):
    with RunFolder(tmp_path / "run", IDENTITY) as folder:
        leftover = folder.file("checkpoints/.writing-7-01-pruning.npz")
    leftover.write_bytes(b"half")
    RunFolder(tmp_path / "run", IDENTITY)
    assert not leftover.exists()


def test_only_one_process_runs_in_a_folder(tmp_path):
    code = (
        "import sys\nfrom tfcompress.run_folder import RunFolder\n"
        "from tfcompress.vocabulary.errors import RunFolderError\n"
        "try:\n    RunFolder(sys.argv[1], {'seed': 0})\n"
        "except RunFolderError as error:\n    sys.exit(7 if 'Another process is running' in str(error) else 8)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with RunFolder(tmp_path / "run", {"seed": 0}) as folder:
        folder.write("mine.txt", "kept")
        assert subprocess.run(command, check=False).returncode == 7
    assert subprocess.run(command, check=False).returncode == 0
    assert (tmp_path / "run" / "mine.txt").read_text() == "kept"


def test_damaged_files_of_a_run_are_named(tmp_path):
    with RunFolder(tmp_path / "run", IDENTITY) as folder:
        folder.write("checkpoints/01-pruning.npz", b"not a zip file")
        with pytest.raises(RunFolderError, match=r"01-pruning\.npz is damaged.*Remedy: remove it"):
            folder.read_arrays("checkpoints/01-pruning.npz")
        folder.write("run.json", "{half")
    with pytest.raises(RunFolderError, match=r"run\.json is damaged"):
        RunFolder(tmp_path / "run", IDENTITY)


def test_plain_values_come_back_and_damage_is_named(tmp_path):
    folder = RunFolder(tmp_path / "run", IDENTITY)
    assert folder.read_json("share.json") is None
    folder.write_json("share.json", 0.375)
    assert folder.read_json("share.json") == 0.375
    folder.write("share.json", "{")
    with pytest.raises(RunFolderError, match=r"share\.json is damaged: .*Remedy: remove it"):
        folder.read_json("share.json")
