"""Kill a search at ten spread moments: `python experiments/interrupted_searches/run.py`.

Each time the command is killed with SIGKILL and given again. All trials must have ended, none may be missing or stand
twice. With one worker the result must be that of an undisturbed search: the same values, and the same files bit by bit.
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

MODEL = flags.DEFINE_string("model", "lenet300", "A network of the zoo.")
TRIALS = flags.DEFINE_integer("trials", 8, "Of the search.")
WORKERS = flags.DEFINE_integer("workers", 1, "Of the search.")
MOMENTS = flags.DEFINE_integer("moments", 10, "How many kills, evenly spread over the search's time.")

SPACE = Path(__file__).parent / "space.yaml"


def command(out: Path) -> list[str]:
    """The command that is killed."""
    base = [sys.executable, "-m", "tfcompress.cli.main", "search", f"--model={MODEL.value}", "--dataset=digits"]
    return [*base, f"--recipe={SPACE}", f"--max_trials={TRIALS.value}", f"--workers={WORKERS.value}", f"--out={out}"]


def run(out: Path, seconds: float | None = None) -> float:
    """Run the command to its end, or kill it after `seconds`; returns the seconds that it took."""
    started = time.perf_counter()
    process = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        errors = process.communicate(timeout=seconds)[1]
        if process.returncode:
            sys.exit(errors.decode())
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return time.perf_counter() - started


def trials(out: Path) -> list[dict[str, Any]]:
    """The records of a search's trials."""
    return json.loads((out / "search.json").read_text())["trials"]


def made(out: Path) -> list[tuple[Any, str, bytes]]:
    """What a search of one worker made that must not depend on interruptions: values, status and file of each trial."""
    return [
        (t["values"], t["status"], (out / "trials" / f"{t['number']:04d}" / "run" / "model.tflite").read_bytes())
        for t in trials(out)
    ]


def complete(out: Path) -> bool:
    """Whether all trials ended with a file, and no recipe ran twice."""
    found = trials(out)
    different = {json.dumps(trial["values"], sort_keys=True) for trial in found}
    ended = all(trial["status"] in ("completed", "infeasible") for trial in found)
    return ended and [t["number"] for t in found] == list(range(TRIALS.value)) and len(different) == TRIALS.value


def main(argv: Sequence[str]) -> None:
    """Kill, resume, compare."""
    del argv
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Path(folder) / "undisturbed"
        seconds = run(undisturbed)
        expected = made(undisturbed)
        print(f"undisturbed: {seconds:.0f} s, {len(expected)} trials", flush=True)
        failures = 0
        for index in range(MOMENTS.value):
            out = Path(folder) / f"killed-{index}"
            moment = seconds * (index + 0.5) / MOMENTS.value
            run(out, moment)
            ended = len(list(out.glob("trials/*/run/evidence.json")))
            run(out)
            verdicts = {"all trials once": complete(out)}
            if WORKERS.value == 1:
                verdicts["equal to the undisturbed search"] = made(out) == expected
            failures += not all(verdicts.values())
            said = ", ".join(f"{name} {verdict}" for name, verdict in verdicts.items())
            print(f"killed at {moment:5.1f} s with {ended} files: {said}", flush=True)
    if failures:
        sys.exit(f"{failures} of {MOMENTS.value} resumed searches are not whole.")


if __name__ == "__main__":
    app.run(main)
