"""Trials on a Ray cluster: the search stays here, each trial is a task of Ray's, run again when its node is lost."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import re
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any

from tfcompress.contained import Children, Limits
from tfcompress.measure import versions
from tfcompress.tuning import _ray_node as node
from tfcompress.tuning.executor import Executor, Outcome
from tfcompress.tuning.parcel import pack, pack_reusable, unpack
from tfcompress.tuning.trial_run import Shared, Task
from tfcompress.vocabulary.errors import SearchError, TfcompressError

_ADDRESS = re.compile(r"(ray://)?(?P<host>[^\s/:]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})")
_KNOCK_S = 5
_JOIN_S = 20
_CLEAR_S = 10
_MAX_RETRIES = 3
_START_ONE = "`ray start --head` starts one and prints its address; Ray and Python must be the same on all machines."


@dataclass(frozen=True)
class Cluster:
    """An existing Ray cluster, and what a trial takes of it.

    Args:
        address: ``host:port`` where this machine is one of its nodes, ``ray://host:port`` from elsewhere. Defaults to
            the cluster that this process, or else this machine, is part of.
        cpus_per_trial: CPUs that a trial asks for; TensorFlow gets as many threads. Defaults to 1.
        gpus_per_trial: GPUs, also shares of one; with 0 a trial sees none. Defaults to 0.

    Raises:
        SearchError: a value is out of range.
    """

    address: str = "auto"
    cpus_per_trial: int = 1
    gpus_per_trial: float = 0

    def __post_init__(self) -> None:
        problems = []
        if self.address != "auto" and not _ADDRESS.fullmatch(self.address):
            problems.append(f"ray_address must be host:port, ray://host:port or auto. Received: {self.address}.")
        if self.cpus_per_trial < 1:
            problems.append(f"cpus_per_trial must be at least 1. Received: {self.cpus_per_trial}.")
        if self.gpus_per_trial < 0 or (self.gpus_per_trial > 1 and self.gpus_per_trial % 1):
            problems.append(f"gpus_per_trial must be whole, or a share of one. Received: {self.gpus_per_trial}.")
        if problems:
            raise SearchError("\n".join(problems))

    def room(self) -> int:
        """How many trials it can run at a time, all its nodes together; it is asked now.

        Raises:
            SearchError: Ray is not installed, no cluster answers, or none of its nodes is large enough for a trial.
        """
        nodes = self._nodes()
        wanted = {"CPU": self.cpus_per_trial, "GPU": self.gpus_per_trial}
        trials = [min(int(has.get(name, 0) / wants) for name, wants in wanted.items() if wants) for has in nodes]
        if not sum(trials):
            there = "; ".join(f"{has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs" for has in nodes)
            raise SearchError(
                f"A trial must fit on a node of the Ray cluster. It asks for {self.cpus_per_trial} CPUs and "
                f"{self.gpus_per_trial:g} GPUs; the nodes have: {there}. "
                "Remedy: a smaller --cpus_per_trial or --gpus_per_trial, or a larger node."
            )
        return sum(trials)

    def _nodes(self) -> list[dict[str, float]]:
        """The resources of its nodes."""
        ray = _ray()
        if ray.is_initialized():
            connected = ray.get_runtime_context().gcs_address
            if self.address not in ("auto", connected):
                raise SearchError(
                    f"This process is connected to the Ray cluster at {connected} already. Received: ray_address="
                    f"{self.address}. Remedy: leave it out, or call ray.shutdown() before."
                )
            return [known["Resources"] for known in ray.nodes() if known["Alive"]]
        self._knock()
        # In a child: where something else than Ray answers, Ray tries for minutes, and then ends the process.
        children = Children()
        try:
            return children.call(
                node.nodes,
                self.address,
                stage=f"Connecting to the Ray cluster at {self.address}",
                error=SearchError,
                remedy=_START_ONE,
                limits=Limits(time_s=_JOIN_S, remedy=_START_ONE),
            )
        finally:
            children.end()

    def _knock(self) -> None:
        """Refuse an address where nobody is, which Ray itself would try for half a minute and more."""
        place = _ADDRESS.fullmatch(self.address)
        if place is None:
            return
        try:
            socket.create_connection((place["host"].strip("[]"), int(place["port"])), timeout=_KNOCK_S).close()
        except (OSError, OverflowError) as error:
            raise SearchError(f"No Ray cluster answers at {self.address}: {error}. Remedy: {_START_ONE}") from error


class RayExecutor(Executor):
    """Runs tasks on a Ray cluster.

    Trials and machines share no disk: the float model and the data travel to a node once, and a task's folder comes
    back as its files. A process that native code ends is the trial's, as with `LocalExecutor`, and no worker of Ray's.

    Args:
        shared: the file of what all tasks start from (`trial_run.Shared`).
        workers: tasks at a time.
        cluster: where, and what a task takes of it.
        limits: time and memory of a task. Defaults to none.

    Raises:
        SearchError: Ray is not installed, or the cluster cannot be joined.

    Example:
        >>> cluster = Cluster("10.0.0.1:6379", cpus_per_trial=4)  # doctest: +SKIP
        >>> with RayExecutor(shared, cluster.room(), cluster) as executor:  # doctest: +SKIP
        ...     executor.submit(0, task)
        ...     print(executor.next().measured)
    """

    def __init__(self, shared: Path, workers: int, cluster: Cluster, limits: Limits | None = None) -> None:
        self.workers = workers
        self._ray = _ray()
        self._connected_before = self._ray.is_initialized()
        if not self._connected_before:
            _connect(self._ray, cluster.address)
        self._task = self._ray.remote(node.run_trial).options(
            num_cpus=cluster.cpus_per_trial,
            num_gpus=cluster.gpus_per_trial,
            max_retries=_MAX_RETRIES,
            name="trial",
        )
        self._start = self._put(shared, cluster, limits)
        self._running: dict[Any, tuple[int, Path, float]] = {}

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for ref in self._running:
            self._ray.cancel(ref, force=True)
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._clear()
        if not self._connected_before:
            self._ray.shutdown()

    def submit(self, number: int, task: Task) -> None:
        """As `Executor.submit`."""
        files = pack(task.folder)
        earlier = pack_reusable(task.tree, task.reuse, files)
        ref = self._task.remote(self._start, number, replace(task, reuse=()), files, earlier)
        self._running[ref] = (number, task.folder, perf_counter())

    def quiet(self) -> contextlib.AbstractContextManager[None]:
        """As `Executor.quiet`, but nothing stands still: what runs on this machine, if it is a node, is Ray's."""
        return contextlib.nullcontext()

    def next(self) -> Outcome:
        """As `Executor.next`."""
        errors = self._ray.exceptions
        (ref, *_), _ = self._ray.wait(list(self._running))
        number, folder, began = self._running.pop(ref)
        try:
            outcome, files = self._ray.get(ref)
        except errors.RayTaskError as error:
            if isinstance(error.cause, TfcompressError):
                raise error.cause from None
            raise SearchError(
                f"A node of the Ray cluster must be able to run trials. One is not: {type(error.cause).__name__}: "
                f"{error.cause}. Remedy: the same tfcompress, and what the model is made of, on all nodes."
            ) from error
        except errors.RayError as error:
            reason = f"It ended with its node or its process, {1 + _MAX_RETRIES} times: {str(error).splitlines()[0]}"
            return Outcome(number, perf_counter() - began, reason=reason)
        unpack(files, folder)
        return outcome

    def _put(self, path: Path, cluster: Cluster, limits: Limits | None) -> node.Start:
        """Have the cluster hold what is in the file `path`, of which each node fetches a copy."""
        pickled = path.read_bytes()
        shared: Shared = pickle.loads(pickled)
        files = {name: file for name, file in pack(shared.model).items() if not name.startswith("checkpoints/")}
        luggage = node.Luggage(shared, files)
        content = hashlib.blake2b(pickled, digest_size=8)
        for name, file in luggage.files.items():
            content.update(name.encode() + file)
        # Where the search lies tells it from others with the same model and data, which may end before it.
        content.update(f"{socket.gethostname()}:{path.absolute()}".encode())
        environment = {"TF_NUM_INTRAOP_THREADS": str(cluster.cpus_per_trial)}
        if not cluster.gpus_per_trial:
            environment["CUDA_VISIBLE_DEVICES"] = "-1"
        return node.Start(content.hexdigest(), (self._ray.put(luggage),), versions(), environment, limits)

    def _clear(self) -> None:
        """Remove what trials left on the nodes."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        clear = self._ray.remote(node.clear)
        places = [
            NodeAffinitySchedulingStrategy(known["NodeID"], soft=False) for known in self._ray.nodes() if known["Alive"]
        ]
        refs = [clear.options(num_cpus=0, scheduling_strategy=place).remote(self._start.name) for place in places]
        self._ray.wait(refs, num_returns=len(refs), timeout=_CLEAR_S)


def _connect(ray: Any, address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError) as error:
        raise SearchError(
            f"The Ray cluster at {address} refuses this process: {error}. Remedy: {_START_ONE}"
        ) from error


def _ray() -> Any:
    """Ray, which is an extra.

    Raises:
        SearchError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise SearchError(
            "The executor ray needs Ray, which is not installed. Remedy: pip install 'tfcompress[ray]'"
        ) from error
    return ray
