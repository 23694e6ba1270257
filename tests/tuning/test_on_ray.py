"""Trials on a Ray cluster: with real nodes, of which one is lost, and every way not to reach one."""

import json
import os
import pickle
import stat
import sys
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fixtures import models

from tfcompress.measure import versions
from tfcompress.run_folder import RunFolder
from tfcompress.tuning import _ray_node, on_ray
from tfcompress.tuning._ray_node import Luggage, Start
from tfcompress.tuning.executor import Outcome
from tfcompress.tuning.on_ray import Cluster, RayExecutor
from tfcompress.tuning.parcel import pack, unpack
from tfcompress.tuning.search import search
from tfcompress.tuning.trial_run import Shared, Task
from tfcompress.vocabulary.errors import SearchError
from tfcompress.vocabulary.reporter import Reporter

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is an extra, and not installed: tfcompress[ray]")

SPACE = {
    "name": "sparse",
    "data": {"preprocessing": "raw"},
    "steps": [
        {"technique": "pruning", "final_sparsity": {"choice": [0.5, 0.75]}, "fit": {"epochs": 2}},
        {"technique": "post_training", "number_format": {"choice": ["int8", "float16"]}},
    ],
    "evaluation": {"latency_seconds": 0.02, "threads": 1},
}
TREE = {"name": "one", "steps": [{"technique": "post_training"}]}
GOAL = {"objectives": ["deflated_bytes", "drop_points"], "oracle": "grid"}


@pytest.fixture
def cluster(tmp_path_factory):
    """The cluster, and its two nodes that have a CPU, each with a folder of its own for temporary files."""
    from ray.cluster_utils import Cluster as Nodes

    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    folders = [tmp_path_factory.mktemp("node") for _ in range(2)]
    with_cpu = {folder: nodes.add_node(num_cpus=1, env_vars={"TMPDIR": str(folder)}) for folder in folders}
    yield nodes, with_cpu
    nodes.shutdown()


class Interrupt(Reporter):
    """Behind the end of the first trial."""

    def message(self, text):
        if text.startswith("trial "):
            raise KeyboardInterrupt


class LoseANode(Reporter):
    """Behind the end of a trial, while another is at work, kills the node of that one."""

    def __init__(self, nodes, with_cpu):
        self.nodes, self.with_cpu = nodes, with_cpu
        self.killed = None

    def message(self, text):
        at_work = [folder for folder in self.with_cpu if list(folder.rglob("trial-*/run/run.json"))]
        if text.startswith("trial ") and at_work and not self.killed:
            self.killed = at_work[0]
            self.nodes.remove_node(self.with_cpu[self.killed], allow_graceful=False)


@needs_ray
@pytest.mark.slow
def test_a_search_that_is_interrupted_and_loses_a_node_finds_what_one_on_this_machine_finds(cluster, tmp_path):
    nodes, with_cpu = cluster
    net = models.conv_bn()
    inputs = models.inputs_for(net, 60)
    data = inputs, net.predict(inputs, verbose=0).argmax(axis=1)
    there = {"out": tmp_path / "there", "executor": "ray", "ray_address": nodes.address}
    with pytest.raises(KeyboardInterrupt):
        search(net, data, SPACE, **GOAL, **there, reporter=Interrupt())
    assert not any(list(folder.glob("tfcompress-*/*")) for folder in with_cpu)
    lose = LoseANode(nodes, with_cpu)
    found = search(net, data, SPACE, **GOAL, **there, reporter=lose)
    assert lose.killed
    alive = next(folder for folder in with_cpu if folder != lose.killed)
    assert not list(alive.glob("tfcompress-*/*"))

    expected = search(net, data, SPACE, **GOAL, out=tmp_path / "here")
    assert [result.trial.number for result in found.trials] == list(range(4))
    for mine, other in zip(found.trials, expected.trials, strict=True):
        assert mine.trial.status == "completed", mine.trial.reason
        assert mine.values == other.values
        assert mine.artifact.read_bytes() == other.artifact.read_bytes()
        assert pack(mine.folder).keys() == pack(other.folder).keys()
        assert mine.measured == other.measured
    assert [r.trial.number for r in found.front] == [r.trial.number for r in expected.front]
    for result in found.front:
        assert "drop_points" in result.trial.tested
        # Nothing was trained again to look at the test split: an epoch's record has its wall time.
        of_checkpoint = np.load(result.folder / "checkpoints" / "01-pruning.npz")["progress"].tobytes()
        assert (
            json.loads((result.folder / "history.json").read_text())["pruning"] == json.loads(of_checkpoint)["history"]
        )


class FakeRay:
    """A cluster that answers as it is told to."""

    def __init__(self, answer):
        import ray

        self.exceptions = ray.exceptions
        self.answer = answer
        self.said = []
        self.submitted = []

    def is_initialized(self):
        return True

    def remote(self, function):
        return self

    def options(self, **options):
        self.said.append(options)
        return self

    def put(self, value):
        return ("put", value)

    def wait(self, refs):
        return refs[:1], refs[1:]

    def get(self, ref):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def cancel(self, ref, force):
        self.said.append(("cancelled", ref, force))

    def nodes(self):
        raise self.exceptions.RaySystemError("gone")


@pytest.fixture
def shared(tmp_path):
    with RunFolder(tmp_path / "float", {"seed": 0}) as folder:
        folder.write("model.keras", b"weights")
        folder.write("checkpoints/00-train.npz", b"much")
    path = tmp_path / "shared.pickle"
    path.write_bytes(pickle.dumps(Shared(tmp_path / "float", None, 0)))
    return path


@pytest.fixture
def executor_that_hears(monkeypatch, shared):
    def executor(answer):
        fake = FakeRay(answer)
        fake.remote = lambda *task: fake.submitted.append(task) or len(fake.submitted) if len(task) > 1 else fake
        monkeypatch.setattr(on_ray, "_ray", lambda: fake)
        return RayExecutor(shared, 2, Cluster(cpus_per_trial=3)), fake

    return executor


@needs_ray
def test_a_trials_files_come_into_its_folder_with_its_outcome(executor_that_hears, tmp_path):
    executor, fake = executor_that_hears((Outcome(4, 1.0, {"bytes": 3.0}), {"log.txt": b"done"}))
    assert fake.said[0] == {"num_cpus": 3, "num_gpus": 0, "max_retries": 3, "name": "trial"}
    executor.submit(4, Task(TREE, tmp_path / "run"))
    ((start, *_),) = fake.submitted
    assert start.content[0][1].files.keys() == {"model.keras", "run.json"}
    assert start.environment == {"TF_NUM_INTRAOP_THREADS": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    assert executor.next() == Outcome(4, 1.0, {"bytes": 3.0})
    assert pack(tmp_path / "run") == {"log.txt": b"done"}


@needs_ray
def test_what_ends_with_its_node_again_and_again_is_a_failed_trial(executor_that_hears, tmp_path):
    from ray.exceptions import WorkerCrashedError

    executor, _ = executor_that_hears(WorkerCrashedError())
    executor.submit(4, Task(TREE, tmp_path / "run"))
    outcome = executor.next()
    assert (outcome.number, outcome.measured) == (4, {})
    assert outcome.reason.startswith("It ended with its node or its process, 4 times: The worker died")


@needs_ray
@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (SearchError("Every node must have the libraries"), "^Every node must have the libraries$"),
        (ModuleNotFoundError("No module named 'mine'"), "must be able to run trials.*No module named 'mine'"),
    ],
)
def test_a_node_that_cannot_run_any_trial_ends_the_search(executor_that_hears, tmp_path, cause, words):
    from ray.exceptions import RayTaskError

    executor, _ = executor_that_hears(RayTaskError("run_trial", "traceback", cause))
    executor.submit(4, Task(TREE, tmp_path / "run"))
    with pytest.raises(SearchError, match=words):
        executor.next()


@needs_ray
def test_what_is_still_at_work_is_cancelled_also_where_the_cluster_is_gone(executor_that_hears, tmp_path):
    executor, fake = executor_that_hears(None)
    with executor:
        executor.submit(4, Task(TREE, tmp_path / "run"))
    assert fake.said[1:] == [("cancelled", 1, True)]


@pytest.fixture
def on_node(monkeypatch, tmp_path):
    """A node with a folder for temporary files, what a search put into its store, and how often it was fetched."""
    fetched = []
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda ref: fetched.append(ref) or ref))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    luggage = Luggage(Shared(tmp_path / "elsewhere", None, 7), {"model.keras": b"weights"})
    return Start("mine", (luggage,), versions(), {}, None), fetched


def run_on_node(monkeypatch, start, files, earlier=()):
    """`run_trial` with a trial that reads what there is, and writes a file."""
    seen = []

    def attempt(children, number, shared, task, limits):
        seen.append((pickle.loads(shared.read_bytes()), pack(task.folder)))
        assert [pack(folder) for folder in task.reuse] == list(earlier)
        unpack({"log.txt": b"done"}, task.folder)
        return Outcome(number, 1.0, reason="none")

    monkeypatch.setattr(_ray_node, "attempt", attempt)
    outcome, packed = _ray_node.run_trial(start, 4, Task({}, Path("/not/here")), files, earlier)
    assert outcome == Outcome(4, 1.0, reason="none")
    return (*seen[0], packed)


def test_a_node_unpacks_the_start_once_and_keeps_no_trial(monkeypatch, on_node, tmp_path):
    start, fetched = on_node
    for files in ({}, {"run.json": b"{}"}):
        shared, before, after = run_on_node(monkeypatch, start, files, [{"checkpoints/1.npz": b"a"}, {"run.json": b""}])
        assert (shared.seed, pack(shared.model)) == (7, {"model.keras": b"weights"})
        assert before == files
        assert after == {**files, "log.txt": b"done"}
    assert len(fetched) == 1
    (own,) = tmp_path.iterdir()
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert sorted(path.name for path in (own / "mine").iterdir()) == ["float", "shared.pickle"]
    _ray_node.clear("mine")
    assert not list(own.iterdir())


def test_a_node_with_other_libraries_is_named(on_node):
    start, _ = on_node
    other = replace(start, versions={**start.versions, "tensorflow": "2.9"})
    with pytest.raises(SearchError, match=r"On .*: tensorflow 2\.[0-9.]+ there, 2\.9 here\. Remedy: install the same"):
        _ray_node.run_trial(other, 0, Task({}, Path("/not/here")), {}, [])


def test_a_folder_that_others_can_write_to_is_not_trusted(on_node, tmp_path):
    start, fetched = on_node
    (tmp_path / f"tfcompress-{os.getuid()}").mkdir()
    (tmp_path / f"tfcompress-{os.getuid()}").chmod(0o777)
    with pytest.raises(SearchError, match="only this user can write to"):
        _ray_node.run_trial(start, 0, Task({}, Path("/not/here")), {}, [])
    assert not fetched


def test_where_no_cluster_runs_a_child_can_say_so(monkeypatch):
    def init(**_):
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    with pytest.raises(RuntimeError, match="Could not find any running Ray instance"):
        _ray_node.nodes("auto")
