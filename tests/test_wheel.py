"""A wheel built from the project runs a recipe that ships, outside the checkout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_a_wheel_runs_the_demos_recipe_outside_the_checkout(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    copy = tmp_path / "source"
    # Built from a copy, because setuptools leaves a build folder beside its sources.
    _copy_sources(copy)
    subprocess.run([*build, f"--wheel-dir={tmp_path}", str(copy)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("tfcompress-*.whl")
    place = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", f"--target={place}", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    assert (place / "tfcompress" / "spaces" / "bits_and_sparsity.yaml").is_file()
    command = [sys.executable, "-m", "tfcompress.cli.main", "compress", "--model=lenet300", "--dataset=digits"]
    few = ["train.epochs=1", "pruning.fit.epochs=1", "quantization.fit.epochs=1", "evaluation.latency_seconds=0.05"]
    flags = ["--recipe=demo", f"--data_dir={tmp_path / 'data'}", f"--out={tmp_path / 'run'}"]
    done = subprocess.run(
        [*command, *flags, *(f"--set={value}" for value in few)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(place)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    evidence = json.loads((tmp_path / "run" / "evidence.json").read_text())
    assert evidence["artifact"]["full_integer"]
    where = [sys.executable, "-c", "import tfcompress; print(tfcompress.__file__)"]
    ran = subprocess.run(
        where, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(place)}, check=True, capture_output=True, text=True
    )
    assert ran.stdout.strip().startswith(str(place))


def _copy_sources(target):
    target.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target / name)
    shutil.copytree(ROOT / "tfcompress", target / "tfcompress", ignore=shutil.ignore_patterns("__pycache__"))
