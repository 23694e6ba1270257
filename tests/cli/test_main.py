"""The command line: help without TensorFlow, exit codes, and one clear message for every wrong input."""

import json
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from sklearn.datasets import load_digits

from tfcompress import keras_door as kd
from tfcompress.cli.main import COMMANDS, main


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A model file and a data file for the command line."""
    folder = tmp_path_factory.mktemp("cli")
    keras = kd.keras
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Flatten(input_shape=(8, 8, 1)),
            layers.Dense(24, activation="relu", name="hidden"),
            layers.Dense(10, activation="softmax", name="out"),
        ]
    )
    bunch = load_digits()
    inputs = (bunch.images[..., None] * 15.9375).round().astype(np.uint8)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(inputs[:1200] / 255.0, bunch.target[:1200], epochs=16, verbose=0)
    model.save(folder / "model.h5", save_format="h5")
    np.savez(
        folder / "digits.npz",
        x_train=inputs[:1200],
        y_train=bunch.target[:1200],
        x_test=inputs[1200:],
        y_test=bunch.target[1200:],
    )
    np.savez(folder / "beyond.npz", x=inputs, y=bunch.target + 3)
    np.savez(
        folder / "no_test.npz",
        x_train=inputs,
        y_train=bunch.target,
        x_test=inputs[:0],
        y_test=bunch.target[:0],
    )
    np.savez(folder / "narrow.npz", x=inputs[:, :5], y=bunch.target)
    (folder / "truncated.h5").write_bytes((folder / "model.h5").read_bytes()[:3000])
    (folder / "nan.h5").write_bytes((folder / "model.h5").read_bytes())
    with h5py.File(folder / "nan.h5", "r+") as file:
        kernel = next(file["model_weights/hidden"][name] for name in _datasets(file["model_weights/hidden"], "kernel"))
        kernel[0, 0] = np.nan
    return folder


def _datasets(group, wanted):
    found = []
    group.visititems(
        lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) and wanted in name else None
    )
    return found


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return code, printed.out, printed.err


def compress(capsys, workspace, **flags):
    given = {
        "model": workspace / "model.h5",
        "dataset": workspace / "digits.npz",
        "recipe": "ptq_int8",
        "set": "evaluation.latency_seconds=0.05",
    } | flags
    return run(capsys, "compress", *(f"--{name}={value}" for name, value in given.items()))


def test_help_is_0_and_wrong_usage_2(capsys):
    assert run(capsys, "--help")[0] == 0
    assert run(capsys)[0] == 2
    for command in COMMANDS:
        code, out, _ = run(capsys, command, "--help")
        assert code == 0
        assert out.startswith(f"tfcompress {command}:")
    code, _, err = run(capsys, "no_such_command")
    assert code == 2
    assert "no_such_command" in err
    code, _, err = run(capsys, "compress", "--dataset=digits", "--recipe=demo")
    assert code == 2
    assert "--model" in err
    assert run(capsys, "compress", "--model=x", "--dataset=y", "--recipe=demo", "--modle=z")[0] == 2
    assert run(capsys, "recipes", "stray")[0] == 2


def test_a_flag_without_a_value_is_wrong_usage(capsys):
    code, _, err = run(capsys, "compress", "--model=", "--dataset=digits", "--recipe=demo", "--out=")
    assert code == 2
    assert "must have a value. Received: --model= --out=" in err


def test_check_takes_overrides_of_a_recipe_only(capsys):
    code, out, err = run(capsys, "check", "lenet300", "--dataset=digits", "--set=train.epochs=3")
    assert (code, out) == (2, "")
    assert "name it with --recipe" in err


def test_help_needs_no_tensorflow_and_less_than_a_second():
    code = (
        "import sys\nfrom tfcompress.cli.main import COMMANDS, main\n"
        "codes = [main([c, '--help']) for c in COMMANDS]\n"
        "heavy = [m for m in ('tensorflow', 'tf_keras', 'tensorflow_datasets', 'ai_edge_litert') if m in sys.modules]\n"
        "sys.exit(f'{codes} {heavy}' if any(codes) or heavy else 0)"
    )
    times = []
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        times.append(time.perf_counter() - started)
        assert done.returncode == 0, done.stderr
    assert min(times) < 1


def test_compress_prints_the_evidence_and_leaves_the_folder(capsys, workspace, tmp_path):
    code, out, _ = compress(capsys, workspace, out=tmp_path / "run")
    assert code == 0
    evidence = json.loads((tmp_path / "run" / "evidence.json").read_text())
    assert f"{evidence['artifact']['bytes']:,}" in out
    assert "full integer" in out
    assert evidence["metric"]["count"] == 597
    again, out_again, _ = compress(capsys, workspace, out=tmp_path / "run")
    assert again == 0
    assert f"{evidence['artifact']['bytes']:,}" in out_again


def test_flags_may_come_from_a_file(capsys, workspace, tmp_path):
    flagfile = tmp_path / "flags"
    flagfile.write_text(
        f"--model={workspace / 'model.h5'}\n--dataset={workspace / 'digits.npz'}\n--recipe=ptq_int8\n"
        f"--out={tmp_path / 'run'}\n--set=evaluation.latency_seconds=0.05\n"
    )
    assert run(capsys, "compress", f"--flagfile={flagfile}")[0] == 0
    assert (tmp_path / "run" / "model.tflite").exists()


def test_dry_run_prints_steps_bytes_and_time_and_writes_nothing(capsys, workspace, tmp_path):
    code, out, _ = compress(capsys, workspace, recipe="prune_qat", out=tmp_path / "run", dry_run="true")
    assert code == 0
    assert "final_sparsity: 0.5" in out
    assert "pruning: 6 epochs of 9 steps, about" in out
    assert "bytes" in out
    assert list(tmp_path.iterdir()) == []


def test_a_conversion_alone_can_be_limited(capsys, workspace, tmp_path):
    arguments = [
        "convert",
        f"--model={workspace / 'model.h5'}",
        f"--dataset={workspace / 'digits.npz'}",
        f"--out={tmp_path / 'net.tflite'}",
        "--preprocessing=unit",
    ]
    code, _, error = run(capsys, *arguments, "--set=conversion.time_limit_s=0.001")
    assert code == 1
    assert "0.001 s" in error
    assert not (tmp_path / "net.tflite").exists()
    code, _, error = run(capsys, *arguments, "--set=conversion.time_limit=5")
    assert code == 1
    assert "Did you mean `time_limit_s`?" in error


def test_a_conversion_is_told_each_thing_once(capsys, workspace, tmp_path):
    arguments = ["convert", "--model=no.h5", "--dataset=no.npz", f"--out={tmp_path / 'net.tflite'}"]
    given = [
        "--format=int8",
        "--set=post_training.number_format=float16",
        "--noc_array",
        "--set=conversion.c_array=yes",
    ]
    code, _, error = run(capsys, *arguments, *given)
    assert code == 2
    assert "--format=int8 and --set=post_training.number_format=float16" in error
    assert "--c_array=False and --set=conversion.c_array=yes" in error
    for agreeing in (["--format=float16", given[1]], [given[1]]):
        code, _, error = run(capsys, *arguments, *agreeing)
        assert (code, "given once" in error) == (1, False)


def test_to_convert_an_untrained_network_is_said(capsys, workspace, tmp_path):
    for model, said in (("lenet300", True), (workspace / "model.h5", False)):
        _, _, error = run(
            capsys,
            "convert",
            f"--model={model}",
            f"--dataset={workspace / 'digits.npz'}",
            f"--out={tmp_path / 'net.tflite'}",
            "--set=conversion.time_limit_s=0.001",
        )
        assert ("random weights" in error) == said


def test_convert_and_evaluate(capsys, workspace, tmp_path):
    out = tmp_path / "net.tflite"
    code, printed, _ = run(
        capsys,
        "convert",
        f"--model={workspace / 'model.h5'}",
        f"--dataset={workspace / 'digits.npz'}",
        f"--out={out}",
        "--c_array",
    )
    assert code == 0
    assert "full integer" in printed
    assert (tmp_path / "net.c").exists()
    figures = tmp_path / "figures.json"
    code, printed, _ = run(
        capsys,
        "evaluate",
        f"--model={out}",
        f"--model={out}",
        f"--dataset={workspace / 'digits.npz'}",
        "--preprocessing=unit",
        "--latency_seconds=0.05",
        "--kernels=builtin",
        "--threads=1",
        "--threads=2",
        f"--json={figures}",
    )
    assert code == 0
    rows = json.loads(figures.read_text())
    assert rows[0]["bytes"] == out.stat().st_size
    assert rows[0]["sparse_categorical_accuracy"] > 0.85
    assert rows[0]["latency"].keys() == {"1", "2"}
    assert rows[0]["latency"]["1"].keys() == {"median_ms", "p95_ms", "ratio"}
    assert rows[0]["latency"]["1"]["ratio"] == 1
    assert "p95 ms, 2 thread(s)" in printed
    code, _, err = run(capsys, "evaluate", f"--model={out}", f"--dataset={workspace / 'digits.npz'}")
    assert code == 1
    assert "--preprocessing must say" in err


def test_train_and_recipes(capsys, workspace, tmp_path):
    code, printed, _ = run(
        capsys,
        "train",
        "--model=lenet300",
        f"--dataset={workspace / 'digits.npz'}",
        "--set=train.epochs=1",
        f"--out={tmp_path / 'trained'}",
    )
    assert code == 0
    assert printed.strip().endswith("model.keras")
    code, printed, _ = run(capsys, "recipes")
    assert code == 0
    assert "ptq_int8" in printed


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"model": "missing.h5"}, "missing.h5"),
        ({"model": "{folder}/truncated.h5"}, "truncated.h5"),
        ({"model": "{folder}/nan.h5"}, "hidden/kernel"),
        ({"dataset": "{folder}/narrow.npz"}, "8"),
        ({"dataset": "no_such_set"}, "no_such_set"),
        ({"dataset": "{folder}/no_test.npz"}, "test"),
        ({"dataset": "{folder}/beyond.npz"}, "classes"),
        ({"recipe": "{folder}/typo.yaml"}, "Did you mean `final_sparsity`?"),
        ({"recipe": "prune_qat", "set": "pruning.final_sparsity=1.5"}, "must be less than 1. Received: 1.5"),
        ({"recipe": "int8_qat", "set": "quantization.weight_bits=9"}, "must be less than or equal to 8. Received: 9"),
        ({"out": "/proc/no/such/place"}, "must be writable"),
    ],
)
def test_wrong_input_is_one_clear_message_and_leaves_nothing(capsys, workspace, tmp_path, flags, expected):
    (workspace / "typo.yaml").write_text("steps:\n- {technique: pruning, final_sparcity: 0.5}\n")
    before = sorted(workspace.iterdir())
    given = {"out": tmp_path / "run"} | {name: value.format(folder=workspace) for name, value in flags.items()}
    code, out, err = compress(capsys, workspace, **given)
    assert code == 1
    assert expected in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []
    assert sorted(workspace.iterdir()) == before


def test_an_output_folder_of_another_recipe_is_left_as_it_was(capsys, workspace, tmp_path):
    assert compress(capsys, workspace, out=tmp_path / "run")[0] == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    code, _, err = compress(capsys, workspace, out=tmp_path / "run", recipe="int8_qat")
    assert code == 1
    assert "belongs to another run" in err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_a_full_disk_is_named_and_leaves_no_half_written_file(workspace, tmp_path):
    """Files of more than 5 kB are refused by the kernel, as on a full disk: the float model does not fit."""
    code = (
        "import resource, signal, sys\nfrom tfcompress import pipeline\nfrom tfcompress.cli.main import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "convert = pipeline.float_tflite\n"
        "def then_full(*arguments):\n"
        "    content = convert(*arguments)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))\n"
        "    return content\n"
        "pipeline.float_tflite = then_full\n"
        f"sys.exit(main(['compress', '--model={workspace / 'model.h5'}', '--dataset={workspace / 'digits.npz'}', "
        f"'--recipe=ptq_int8', '--out={tmp_path / 'run'}']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [".lock", "checkpoints", "recipe.yaml", "run.json"]


def test_verbose_adds_the_traceback(capsys, workspace):
    code = main(
        ["compress", "--model=missing.h5", f"--dataset={workspace / 'digits.npz'}", "--recipe=ptq_int8", "--verbose"]
    )
    assert code == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["compress", "convert", "train"])
def test_a_file_with_code_is_refused_and_unsafe_reads_it(command, tmp_path, capsys):
    layers = kd.keras_3.layers
    inputs = kd.keras_3.Input((8, 8, 1))
    outputs = layers.Dense(10)(layers.Flatten()(layers.Lambda(lambda x: x * 2, output_shape=(8, 8, 1))(inputs)))
    kd.keras_3.Model(inputs, outputs).save(tmp_path / "coded.keras")
    out = {"convert": "coded.tflite"}.get(command, "run")
    arguments = [command, f"--model={tmp_path / 'coded.keras'}", "--dataset=digits", f"--out={tmp_path / out}"]
    preprocessing = "--preprocessing=unit" if command == "convert" else "--set=data.preprocessing=unit"
    arguments += {"compress": ["--recipe=ptq_int8", "--dry_run"], "train": ["--set=train.epochs=1"]}.get(command, [])
    arguments.append(preprocessing)
    assert main(arguments) == 1
    assert "--unsafe" in capsys.readouterr().err
    assert main([*arguments, "--unsafe"]) == 0, capsys.readouterr().err
