"""Training on several devices and machines: as on one, but for the order of sums; and nobody waits for ever."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fixtures import models, two_devices

from tfcompress import keras_door as kd
from tfcompress.cli.main import main
from tfcompress.distribution import Distribution, distribution, relative_share
from tfcompress.pipeline import compress, train
from tfcompress.preparation import open_job
from tfcompress.recipe import Recipe
from tfcompress.techniques.fine_tuning import FineTuning
from tfcompress.techniques.post_training import PostTraining
from tfcompress.techniques.pruning import Pruning
from tfcompress.vocabulary.errors import RecipeError

TESTS = Path(__file__).parent
FAST = {"evaluation": {"latency_seconds": 0.02, "threads": 1}}


def environment(**more):
    places = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": places, "CUDA_VISIBLE_DEVICES": "", **more}


def differences(*cases):
    """What `fixtures.two_devices` finds in a process of its own: devices are divided before TensorFlow starts."""
    command = [sys.executable, two_devices.__file__, *cases]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def replicas(count, *, others=False):
    """A distribution over so many replicas, of which nothing runs."""
    extended = SimpleNamespace(_in_multi_worker_mode=lambda: others)
    return Distribution(SimpleNamespace(num_replicas_in_sync=count, extended=extended))


def arrays(count=48):
    return models.inputs_for(models.dense(), count), np.arange(count) % models.CLASSES


def test_two_devices_train_like_one():
    found = differences("regrowth", "stored")
    assert found["regrowth"] < 1e-5
    assert found["stored"] < 1e-4


@pytest.mark.slow
def test_two_devices_train_like_one_whatever_the_step():
    found = differences(*two_devices.CASES)
    assert len(found) == len(two_devices.CASES)
    # Each replica's activation ranges are of its own part of a batch.
    loose = {"mixed_bfloat16": 5e-3, "mixed_float16": 5e-3, "quantization": 0.1}
    assert {name: value for name, value in found.items() if not value < loose.get(name, 1e-4)} == {}


def test_one_device_of_a_strategy_ends_bit_equal(tmp_path):
    recipe = Recipe(train={"epochs": 2}, steps=[PostTraining()], data={"batch_size": 16, "preprocessing": "raw"})
    for name, strategy in (("one", None), ("mirrored", "mirrored")):
        train(models.dense(), arrays(), recipe, out=tmp_path / name, strategy=strategy)
    one, other = (kd.keras.models.load_model(tmp_path / name / "model.keras") for name in ("one", "mirrored"))
    before = models.dense().get_weights()
    for first, second, untrained in zip(one.get_weights(), other.get_weights(), before, strict=True):
        np.testing.assert_array_equal(first, second)
        assert not np.array_equal(first, untrained)
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("one", "mirrored")]
    assert ["replicas" in record for record in records] == [False, True]


def test_the_file_of_a_strategy_keeps_its_promises(tmp_path):
    recipe = Recipe(
        steps=[Pruning(frequency=1), PostTraining()], data={"batch_size": 16, "preprocessing": "raw"}, **FAST
    )
    result = compress(models.dense(), arrays(), recipe, out=tmp_path / "run", strategy="mirrored")
    assert [promise.kept for promise in result.evidence.promises] == [True, True]
    assert not any("Mirrored" in type(weight).__name__ for weight in result.model.weights)


def test_a_share_on_one_device_is_all():
    assert relative_share(kd.tf.zeros([3, 2])) == 1.0
    loss = kd.keras.losses.MeanSquaredError()
    assert Distribution().balanced(loss) is loss


def test_there_are_two_strategies():
    with pytest.raises(RecipeError, match=r"strategy must be one of mirrored, multi_worker\. Received: 'tpu'"):
        distribution("tpu")


@pytest.mark.parametrize(
    "config",
    [
        None,
        "{",
        "[]",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}',
    ],
)
def test_a_cluster_has_to_be_named(config, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config:
        monkeypatch.setenv("TF_CONFIG", config)
    flags = ["--model=lenet300", "--dataset=digits", "--recipe=ptq_int8", f"--out={tmp_path / 'run'}"]
    assert main(["compress", *flags, "--strategy=multi_worker"]) == 1
    assert "needs the environment's TF_CONFIG to name all processes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("where", "values", "expected"),
    [
        (replicas(2), {"steps": [{"technique": "pruning", "importance": "movement"}]}, "movement is gathered on one"),
        (replicas(4), {"data": {"batch_size": 3}}, "batch_size must be at least .* Received: 3 for 4"),
        (replicas(2, others=True), {"conversion": {"faster": True}}, "conversion.faster times files on one machine"),
    ],
)
def test_what_cannot_be_spread_is_refused_by_name(where, values, expected):
    steps = [*values.pop("steps", []), {"technique": "post_training"}]
    with pytest.raises(RecipeError, match=expected):
        open_job(models.dense(), arrays(), {"steps": steps, **values}, distribution=where)


def together(tmp_path, seeds=(0, 0)):
    """The exit codes and errors of two processes that train one model."""
    free = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    workers = [f"127.0.0.1:{server.getsockname()[1]}" for server in free]
    for server in free:
        server.close()
    processes = []
    for index, seed in enumerate(seeds):
        config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        flags = [f"--model={tmp_path / 'net.keras'}", f"--dataset={tmp_path / 'data.npz'}", f"--seed={seed}"]
        flags += [f"--recipe={tmp_path / 'recipe.yaml'}", f"--out={tmp_path / 'two'}", "--strategy=multi_worker"]
        command = [sys.executable, "-m", "tfcompress.cli.main", "compress", *flags]
        own = environment(TF_CONFIG=json.dumps(config))
        processes.append(subprocess.Popen(command, env=own, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    told = [process.communicate() for process in processes]
    return [process.returncode for process in processes], told


@pytest.fixture
def task(tmp_path):
    models.conv_bn().save(tmp_path / "net.keras")
    inputs = models.inputs_for(models.conv_bn(), 69)
    labels = np.arange(69) % models.CLASSES
    parts = {"train": slice(53), "val": slice(53, 61), "test": slice(61, None)}
    named = {f"x_{name}": inputs[part] for name, part in parts.items()}
    named |= {f"y_{name}": labels[part] for name, part in parts.items()}
    np.savez(tmp_path / "data.npz", **named)
    steps = [Pruning(frequency=1, fit={"epochs": 2}), FineTuning(), PostTraining()]
    recipe = Recipe(steps=steps, data={"batch_size": 16, "preprocessing": "raw"}, **FAST)
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe.plain()))
    return tmp_path


@pytest.mark.slow
def test_two_processes_train_like_one(task):
    codes, told = together(task)
    assert codes == [0, 0], told
    assert "Promises, read back from the file" in told[0][0]
    assert told[1][0] == ""
    one = compress(task / "net.keras", task / "data.npz", task / "recipe.yaml", out=task / "one")
    two = kd.keras.models.load_model(task / "two" / "model.keras")
    plain = kd.keras.models.load_model(task / "one" / "model.keras")
    for weight, other in zip(plain.weights, two.weights, strict=True):
        loose = 1e-2 if "moving_variance" in weight.name else 1e-4
        np.testing.assert_allclose(weight, other, rtol=loose, atol=loose * np.max(np.abs(weight)))
    evidence = json.loads((task / "two" / "evidence.json").read_text())
    assert [promise["kept"] for promise in evidence["promises"]] == [True] * len(one.evidence.promises)


@pytest.mark.slow
def test_no_process_waits_for_one_that_was_given_something_else(task):
    codes, told = together(task, seeds=(0, 1))
    assert codes == [1, 1]
    assert "All processes of a multi_worker run must stay until its end" in told[0][1]
    assert "This one differs from the first in: seed" in told[1][1]
