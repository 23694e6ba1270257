"""Trials in processes of this machine: each has a child of its own, whose death is the trial's and not the search's."""

from __future__ import annotations

import queue
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from tfcompress.contained import Children, Limits
from tfcompress.tuning.executor import Executor, Outcome, Run, attempt
from tfcompress.tuning.trial_run import run_in_child


class LocalExecutor(Executor):
    """Runs tasks in processes of this machine.

    Args:
        shared: the file of what all tasks start from (`trial_run.Shared`).
        workers: processes at a time.
        limits: time and memory of a task. Defaults to none.
        run: what a process calls with `shared` and a task. Defaults to what runs a trial.

    Example:
        >>> with LocalExecutor(shared, workers=2) as executor:  # doctest: +SKIP
        ...     executor.submit(0, task)
        ...     print(executor.next().measured)
    """

    def __init__(self, shared: Path, workers: int, limits: Limits | None = None, run: Run = run_in_child) -> None:
        self.workers = workers
        self._shared = shared
        self._limits = limits
        self._call = run
        self._children = Children(keep=workers, environment={})
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="trial")
        self._ended: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Ends those at work too: what they have done lies in their folders.
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._children.end()
        self._threads.shutdown(wait=True)

    def submit(self, number: int, task: Any) -> None:
        """As `Executor.submit`."""
        self._threads.submit(self._run, number, task)

    def quiet(self) -> AbstractContextManager[None]:
        """As `Executor.quiet`: all of them."""
        return self._children.paused()

    def next(self) -> Outcome:
        """As `Executor.next`."""
        ended = self._ended.get()
        if isinstance(ended, BaseException):
            raise ended
        return ended

    def _run(self, number: int, task: Any) -> None:
        try:
            self._ended.put(attempt(self._children, number, self._shared, task, self._limits, self._call))
        except BaseException as error:  # the search must hear of it, in its own thread
            self._ended.put(error)
