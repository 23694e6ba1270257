"""The experiment that kills a run at ten moments, as a test."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "experiments" / "interrupted_runs" / "run.py"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_killed_at_ten_moments_ends_like_an_undisturbed_one():
    done = subprocess.run([sys.executable, SCRIPT], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("artifact equal True, evidence equal True") == 10


@pytest.mark.timeout(600)
def test_a_small_run_killed_once_ends_like_an_undisturbed_one():
    overrides = [
        "train.epochs=2",
        "pruning.fit.epochs=1",
        "quantization.fit.epochs=1",
        "evaluation.latency_seconds=0.05",
    ]
    flags = ["--moments=1", "--model=lenet300", "--recipe=prune_qat", *(f"--set={value}" for value in overrides)]
    done = subprocess.run([sys.executable, SCRIPT, *flags], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("artifact equal True, evidence equal True") == 1
