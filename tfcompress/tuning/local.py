"""Trials in processes of this machine: each has a child of its own, whose death is the trial's and not the search's."""

from __future__ import annotations

import queue
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from types import TracebackType

from tfcompress.contained import Children, Limits
from tfcompress.tuning.trial_run import Task, run_in_child
from tfcompress.vocabulary.errors import TfcompressError, TrialError


@dataclass(frozen=True)
class Outcome:
    """What came of a task.

    Args:
        number: as it was submitted with.
        seconds: wall time.
        measured: of its artifact; empty without one.
        reason: why there is none; empty where there is one.
    """

    number: int
    seconds: float
    measured: dict[str, float] = field(default_factory=dict)
    reason: str = ""


class LocalExecutor:
    """Runs tasks in processes of this machine.

    Args:
        shared: the file of what all tasks start from (`trial_run.Shared`).
        workers: processes at a time.
        limits: time and memory of a task. Defaults to none.

    Example:
        >>> with LocalExecutor(shared, workers=2) as executor:  # doctest: +SKIP
        ...     executor.submit(0, task)
        ...     print(executor.next().measured)
    """

    def __init__(self, shared: Path, workers: int, limits: Limits | None = None) -> None:
        self.workers = workers
        self._shared = shared
        self._limits = limits
        self._children = Children(keep=workers, environment={})
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="trial")
        self._ended: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Ends those at work too: what they have done lies in their folders.
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._children.end()
        self._threads.shutdown(wait=True)

    def submit(self, number: int, task: Task) -> None:
        """Have `task` run as soon as a worker is free."""
        self._threads.submit(self._run, number, task)

    def next(self) -> Outcome:
        """The next outcome, of whichever task ends first; waits for it."""
        ended = self._ended.get()
        if isinstance(ended, BaseException):
            raise ended
        return ended

    def _run(self, number: int, task: Task) -> None:
        began = perf_counter()
        try:
            found = self._children.call(
                run_in_child,
                self._shared,
                task,
                stage="Running the trial",
                error=TrialError,
                remedy="look into its folder's log.txt; the search goes on without it.",
                limits=self._limits,
            )
            self._ended.put(Outcome(number, perf_counter() - began, found))
        except TfcompressError as error:
            self._ended.put(Outcome(number, perf_counter() - began, reason=str(error)))
        except BaseException as error:  # the search must hear of it, in its own thread
            self._ended.put(error)
