"""Kill a digits run at ten spread moments: `python experiments/interrupted_runs/run.py`.

Each time the command is killed with SIGKILL, given again, and what it made is compared with an undisturbed run:
the artifact bit by bit, the evidence but for times, latencies and speedup.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

MODEL = flags.DEFINE_string("model", "resnet8", "A network of the zoo.")
RECIPE = flags.DEFINE_string("recipe", "prune_cluster_qat", "A recipe.")
SET = flags.DEFINE_multi_string(
    "set",
    ["train.epochs=4", "pruning.fit.epochs=4", "clustering.fit.epochs=2", "evaluation.latency_seconds=0.3"],
    "Overrides of the recipe.",
)
MOMENTS = flags.DEFINE_integer("moments", 10, "How many kills, evenly spread over the run's time.")

_TIMES = {"seconds", "latency_ms", "speedup"}


def command(out: Path) -> list[str]:
    """The command that is killed."""
    overrides = [f"--set={override}" for override in SET.value]
    base = [sys.executable, "-m", "tfcompress.cli.main", "compress", f"--model={MODEL.value}", "--dataset=digits"]
    return [*base, f"--recipe={RECIPE.value}", f"--out={out}", *overrides]


def finish(out: Path) -> float:
    """Run the command to its end; returns its seconds."""
    started = time.perf_counter()
    subprocess.run(command(out), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def kill_after(out: Path, seconds: float) -> None:
    """Start the command and kill it after `seconds`."""
    process = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()


def timeless(tree: Any) -> Any:
    """An evidence tree without what differs between two runs of one machine."""
    if isinstance(tree, dict):
        return {key: timeless(value) for key, value in tree.items() if key not in _TIMES}
    return [timeless(item) for item in tree] if isinstance(tree, list) else tree


def made(out: Path) -> tuple[bytes, Any]:
    """What a run made that must not depend on interruptions."""
    return (out / "model.tflite").read_bytes(), timeless(json.loads((out / "evidence.json").read_text()))


def main(argv: Sequence[str]) -> None:
    """Kill, resume, compare."""
    del argv
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Path(folder) / "undisturbed"
        seconds = finish(undisturbed)
        expected = made(undisturbed)
        print(f"undisturbed: {seconds:.0f} s, {len(expected[0]):,} bytes")
        failures = 0
        for index in range(MOMENTS.value):
            out = Path(folder) / f"killed-{index}"
            moment = seconds * (index + 0.5) / MOMENTS.value
            kill_after(out, moment)
            left = sorted(p.name for p in out.rglob("*") if p.is_file()) if out.exists() else []
            finish(out)
            artifact, evidence = made(out)
            same = (artifact == expected[0], evidence == expected[1])
            failures += not all(same)
            verdict = f"artifact equal {same[0]}, evidence equal {same[1]}"
            print(f"killed at {moment:5.1f} s with {len(left):2d} files: {verdict}", flush=True)
    if failures:
        sys.exit(f"{failures} of {MOMENTS.value} resumed runs differ from the undisturbed one.")


if __name__ == "__main__":
    app.run(main)
