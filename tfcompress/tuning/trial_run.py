"""One trial: a filled recipe run to its artifact, which is measured on the validation split."""

from __future__ import annotations

import functools
import gc
import pickle
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfcompress import keras_door as kd
from tfcompress.convert.arena import arena_bytes
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.operations import operations
from tfcompress.data.dataset import Dataset
from tfcompress.pipeline import ARTIFACT_FILE, compress
from tfcompress.vocabulary.evidence import Evidence

_LEAST_SECONDS = 0.001


@dataclass(frozen=True)
class Shared:
    """What all trials of a search start from; made once.

    Args:
        model: the folder of a run that holds the float model.
        dataset: decoded.
        seed: of all randomness.
        custom_objects: classes and functions of the model that Keras does not know, by name.
        unsafe: see `tfcompress.compress`.
    """

    model: Path
    dataset: Dataset
    seed: int
    custom_objects: Mapping[str, Any] | None = None
    unsafe: bool = False


@dataclass(frozen=True)
class Task:
    """What a worker is asked for.

    Args:
        tree: the filled recipe.
        folder: of its run; an interrupted one goes on.
        split: what the metric is measured on.
        reuse: folders of earlier trials, whose leading steps may be the same (`tfcompress.reuse`).
    """

    tree: Mapping[str, Any]
    folder: Path
    split: str = "validation"
    reuse: tuple[Path, ...] = ()


def run_in_child(shared: Path, task: Task) -> dict[str, float]:
    """`run` with what the file `shared` holds, which a process reads once."""
    return run(_read(shared), task)


def run(shared: Shared, task: Task) -> dict[str, float]:
    """Run a trial's recipe and measure its artifact.

    Returns:
        The measures of `tfcompress.tuning.measures`, by name, but for the latency (`tfcompress.tuning.latencies`);
        those of the metric only where there are labels.

    Raises:
        TfcompressError: it has no artifact; the message says why.
    """
    try:
        result = compress(
            shared.model,
            shared.dataset,
            task.tree,
            overrides=[f"evaluation.split={task.split}", *_without_timing(task)],
            seed=shared.seed,
            custom_objects=shared.custom_objects,
            unsafe=shared.unsafe,
            out=task.folder,
            reuse=task.reuse,
        )
    finally:
        # A worker that runs trial after trial would keep the graphs of all of them.
        kd.keras.backend.clear_session()
        gc.collect()
    return measured(result.evidence, (task.folder / ARTIFACT_FILE).read_bytes())


def _without_timing(task: Task) -> list[str]:
    """Overrides that leave no more than the least number of timed runs to the evidence of a trial.

    Nothing is decided by its latencies, and other trials run beside it. Rewrites for speed are decided on by what
    they are given the same time for; and for the test split, the evidence is what a person reads.
    """
    conversion = task.tree.get("conversion") or {}
    if task.split == "test" or conversion.get("faster"):
        return []
    return [f"evaluation.latency_seconds={_LEAST_SECONDS}"]


def measured(evidence: Evidence, content: bytes) -> dict[str, float]:
    """The measures of the artifact with the bytes `content`, of which `evidence` is."""
    found = measured_of_file(content)
    if evidence.metric is not None:
        found |= {"accuracy": evidence.metric.artifact, "drop_points": evidence.metric.drop_points}
    return found


def measured_of_file(content: bytes) -> dict[str, float]:
    """The measures of a .tflite file that need no run of it."""
    arithmetic = operations(Flatbuffer(content))
    found = {
        "bytes": len(content),
        "deflated_bytes": len(zlib.compress(content, 9)),
        "arena_bytes": arena_bytes(content),
        "macs": arithmetic.macs,
        "bit_operations": arithmetic.bit_operations,
    }
    return {name: float(value) for name, value in found.items()}


@functools.lru_cache(maxsize=1)
def _read(path: Path) -> Shared:
    return pickle.loads(path.read_bytes())
