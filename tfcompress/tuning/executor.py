"""What carries out the trials of a search: the contract of the executors, and what they share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

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
    measured: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


class Executor(AbstractContextManager):
    """Runs tasks, several at a time; as a context it ends those still at work when it is left.

    A task that fails, or whose process dies, has an `Outcome` with the reason; it is no exception. Behind an outcome
    the task's folder holds all that its run made, and the same task, submitted again, goes on from there.

    Args:
        workers: tasks at a time.
    """

    workers: int

    @abstractmethod
    def submit(self, number: int, task: Task) -> None:
        """Have `task` run as soon as a worker is free."""

    @abstractmethod
    def quiet(self) -> AbstractContextManager[None]:
        """A context in which the tasks at work on this machine stand still, as far as the executor can have them."""

    @abstractmethod
    def next(self) -> Outcome:
        """The next outcome, of whichever task ends first; waits for it.

        Raises:
            SearchError: no task can be run in this way; the remedy is a person's.
        """


Run = Callable[[Path, Any], dict[str, Any]]
"""What a child process calls with the file of what all tasks start from, and a task."""


def attempt(
    children: Children,
    number: int,
    shared: Path,
    task: Any,
    limits: Limits | None = None,
    run: Run = run_in_child,
) -> Outcome:
    """Run `task` in a child process, whose death is the trial's and not the caller's.

    Args:
        children: whose process it is.
        number: of the outcome.
        shared: the file of what all tasks start from (`trial_run.Shared`).
        task: what to run.
        limits: time and memory. Defaults to none.
        run: what to call with it. Defaults to what runs a trial.
    """
    began = perf_counter()
    try:
        measured = children.call(
            run,
            shared,
            task,
            stage="Running the trial",
            error=TrialError,
            remedy="none needed: the others go on without it. What it wrote is in its folder.",
            limits=limits,
        )
    except TfcompressError as error:
        return Outcome(number, perf_counter() - began, reason=str(error))
    return Outcome(number, perf_counter() - began, measured)
