"""Executors by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from tfcompress.tuning.executor import Executor
from tfcompress.tuning.local import LocalExecutor
from tfcompress.tuning.on_ray import Cluster, RayExecutor
from tfcompress.vocabulary.errors import SearchError

NAMES = ("local", "ray")
"""Processes of this machine, or tasks on a Ray cluster."""


def choose_executor(
    name: str,
    *,
    workers: int | None = None,
    ray_address: str | None = None,
    cpus_per_trial: int | None = None,
    gpus_per_trial: float | None = None,
) -> Callable[[Path], Executor]:
    """What makes the executor called `name` of the file with what all tasks start from (`trial_run.Shared`).

    Args:
        name: one of `NAMES`.
        workers: tasks at a time. Defaults to 1, on Ray to as many as the cluster has room for.
        ray_address: see `Cluster`; of Ray only, like those below.
        cpus_per_trial: see `Cluster`.
        gpus_per_trial: see `Cluster`.

    Raises:
        SearchError: there is no such executor, a value is out of range or not of this executor, or the cluster cannot
            be reached or has no room for a trial.
    """
    if name not in NAMES:
        raise SearchError(f"executor must be one of {', '.join(NAMES)}. Received: {name}.")
    if workers is not None and workers < 1:
        raise SearchError(f"workers must be at least 1. Received: {workers}.")
    asked = {"address": ray_address, "cpus_per_trial": cpus_per_trial, "gpus_per_trial": gpus_per_trial}
    given = {key: value for key, value in asked.items() if value is not None}
    if name == "local":
        if given:
            names = ", ".join(key.replace("address", "ray_address") for key in given)
            raise SearchError(f"{names}: of the executor ray only. Received: executor=local. Remedy: executor=ray.")
        return partial(LocalExecutor, workers=workers or 1)
    cluster = Cluster(**given)
    room = cluster.room()
    return partial(RayExecutor, workers=workers or room, cluster=cluster)
