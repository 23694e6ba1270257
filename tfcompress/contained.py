"""Native code in a child process, so that its crash there is an exception here.

TensorFlow's converter and LiteRT's interpreter end the whole process, by a segmentation fault or an abort, on models
and files that they do not expect. What they do is therefore called in a child process. The child stays for the next
call, with its libraries loaded; one that died, or was ended because it exceeded a limit, is replaced at the next call.
Calls made at the same time from several threads have a child each.

The child is a new interpreter (no fork: TensorFlow's threads do not survive one; no `multiprocessing`, which would run
the caller's script again). It ends when this process ends, however that happens, and holds none of its open files.
Unless asked otherwise it sees no GPU: conversion needs none, and would take the memory that training needs.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

from tfcompress._contained_worker import serving
from tfcompress.vocabulary.errors import TfcompressError
from tfcompress.vocabulary.reporter import Progress

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from tfcompress._contained_worker import serve; serve(int(sys.argv[2]), int(sys.argv[3]))"
)
_LAST_LINES = 8
_WATCH_S = 0.05
_STATM = Path("/proc/self/statm")
_NO_GPU: Mapping[str, str] = {"CUDA_VISIBLE_DEVICES": "-1"}


@dataclass(frozen=True)
class Limits:
    """What a call may use.

    Args:
        time_s: seconds, from when the child begins with it: the start of the child and its imports do not count.
            Defaults to no limit.
        memory_mb: MiB of resident memory of the child, its libraries included (TensorFlow: about 600). It is looked at
            every 50 ms, for a limit on address space (`RLIMIT_AS`) cannot be used: TensorFlow maps several times the
            memory that it touches. Linux only. Defaults to no limit.
        remedy: what a person can do when one is exceeded; one sentence.
    """

    time_s: float | None = None
    memory_mb: float | None = None
    remedy: str = "raise the limit, or make the task smaller."


class _EndedError(Exception):
    """The child ended, or had to be ended, before it answered."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


class _Child:
    """One child process and the ways to it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.at = ""
        path = json.dumps([str(entry) for entry in sys.path])
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        # Appending, so that what is written behind a truncation stands at the beginning.
        fcntl.fcntl(self._output, fcntl.F_SETFL, fcntl.fcntl(self._output, fcntl.F_GETFL) | os.O_APPEND)
        self._connection, theirs = Pipe()
        lifeline, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, path, str(theirs.fileno()), str(lifeline)],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=(theirs.fileno(), lifeline),
                env={**os.environ, **environment},
                # An interrupt from the terminal is for this process, which then ends the child. Children of a child
                # are of its group, and stand still with it.
                start_new_session=not serving(),
            )
        finally:
            theirs.close()
            os.close(lifeline)
        _all.add(self)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def prepare(self, name: str) -> None:
        """Have a function run that needs no answer; if the process has ended, the next call finds out."""
        with contextlib.suppress(ConnectionError):
            self._connection.send(("prepare", name))

    def run(self, request: bytes, limits: Limits, progress: Progress | None) -> tuple[str, Any]:
        """What the call gave: how it ended, and with what.

        Raises:
            _EndedError: the process ended before, or exceeded a limit.
        """
        self.at = ""
        deadline = None
        try:
            self._connection.send(("call", request))
            while True:
                self._wait(deadline, limits)
                kind, *content = self._connection.recv()
                if kind == "began":
                    deadline = None if limits.time_s is None else time.monotonic() + limits.time_s
                elif kind == "at":
                    (self.at,) = content
                elif kind == "progress" and progress:
                    progress(*content)
                elif kind in ("returned", "raised", "failed"):
                    return kind, content[0]
        except (EOFError, ConnectionError, pickle.UnpicklingError):
            raise _EndedError(_how(self._process.wait())) from None

    def _wait(self, deadline: float | None, limits: Limits) -> None:
        """Until there is something to read."""
        while not self._connection.poll(self._patience(deadline, limits)):
            if deadline is not None and time.monotonic() >= deadline:
                raise _EndedError(f"it took longer than the time limit of {limits.time_s:g} s", limits.remedy)
            if limits.memory_mb is not None and (used := _resident_mb(self._process.pid)) > limits.memory_mb:
                excess = f"it held {used:.0f} MiB, more than the memory limit of {limits.memory_mb:g} MiB"
                raise _EndedError(excess, limits.remedy)

    @staticmethod
    def _patience(deadline: float | None, limits: Limits) -> float | None:
        waits = [] if deadline is None else [max(0.0, deadline - time.monotonic())]
        if limits.memory_mb is not None:
            waits.append(_WATCH_S)
        return min(waits, default=None)

    def said(self) -> list[str]:
        """The last lines that it wrote since the call began."""
        size = os.fstat(self._output.fileno()).st_size
        tail = os.pread(self._output.fileno(), 1 << 16, max(0, size - (1 << 16))).decode(errors="replace")
        return [line.strip()[:300] for line in tail.splitlines() if line.strip()][-_LAST_LINES:]

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and to those that it has started in this way; to none when it has ended."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """End the process at once; whoever waits for its answer gets none."""
        self._process.kill()

    def end(self) -> None:
        """Kill the process; what it said can still be read."""
        self.kill()
        self._process.wait()
        self.let_go()
        _all.discard(self)

    def let_go(self) -> None:
        """Close this process's ways to it."""
        self._connection.close()
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    def forget(self) -> None:
        """In a fork of the process that started it: leave it to that one."""
        self.let_go()
        self._process.returncode = 0


_all: set[_Child] = set()
_all_children: weakref.WeakSet[Children] = weakref.WeakSet()


class Children:
    """Child processes for calls, each with its libraries loaded, that wait for the next one.

    Args:
        keep: how many wait at most; those beyond it end with their call. Defaults to 1.
        environment: variables that a child has other than this process. Defaults to those that hide all GPUs.
    """

    def __init__(self, keep: int = 1, environment: Mapping[str, str] = _NO_GPU) -> None:
        self._keep = keep
        self._environment = environment
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._busy: set[_Child] = set()
        self._stopped: set[_Child] | None = None
        _all_children.add(self)

    def call(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        stage: str,
        error: type[TfcompressError],
        remedy: str,
        limits: Limits | None = None,
        progress: Progress | None = None,
    ) -> Any:
        """``function(*arguments)`` in a child.

        Args:
            function: of the top level of a module that can be imported (not of a script).
            *arguments: what can be pickled.
            stage: what is being done, for messages: "Converting the model to int8". The function can say more with
                `at`.
            error: raised when the child does not return.
            remedy: what a person can do then; one sentence.
            limits: what the call may use. Defaults to no limits.
            progress: told of what the function tells its keyword argument `progress`, which it then gets. Defaults to
                none.

        Returns:
            What the function returned.

        Raises:
            error: native code ended the child, a limit was exceeded, or the function raised an exception that is none
                of tfcompress. The message says the stage and the last lines that the child wrote.
            TfcompressError: the function raised it.

        Example:
            >>> call(len, b"abc", stage="Counting", error=TfcompressError, remedy="Count again.")
            3
        """
        limits = limits or Limits()
        if limits.memory_mb is not None and not _STATM.exists():
            raise error(f"{stage}: a memory limit needs Linux's /proc, and this system has none. Remedy: leave it out.")
        request = pickle.dumps((_name(function), arguments, progress is not None), protocol=5)
        child = self._take()
        try:
            outcome, value = child.run(request, limits, progress)
        except _EndedError as end:
            child.end()
            raise error(_message(stage, child.at, end.reason, child.said(), end.remedy or remedy)) from None
        except BaseException:
            # An interrupt, or the progress callback failed: what the child is at is of no use to anyone.
            child.end()
            raise
        finally:
            self._busy.discard(child)
        said = child.said()
        self._give_back(child)
        if outcome == "returned":
            return value
        if outcome == "raised":
            raise value
        raise error(_message(stage, child.at, value, said, remedy))

    def warm_up(self, function: Callable[[], Any]) -> None:
        """Let a child do what a later call will need, such as imports, while this process does something else.

        Args:
            function: as that of `call`, but what comes of it is ignored.
        """
        with self._lock:
            if not self._idle or not self._idle[-1].alive:
                self._idle[-1:] = [_Child(self._environment)]
            self._idle[-1].prepare(_name(function))

    def end_idle(self) -> None:
        """End the children that wait for a call, and give their memory back; the next call starts another."""
        with self._lock:
            while self._idle:
                self._idle.pop().end()

    def end(self) -> None:
        """End all children, those at work too, whose calls raise in the threads that made them."""
        self.end_idle()
        for child in tuple(self._busy):
            child.kill()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context in which the children at work stand still, with the children that these started, and then go on.

        A call that begins in it waits for its end. What stands still is ended like the others, by `end` or with this
        process, however that ends (elsewhere than on Linux only where this process ends itself). Time limits run on.
        This process is none of a contained call itself, and has no such context open already.
        """
        try:
            with self._lock:
                self._stopped = set()
                for child in self._busy:
                    self._stop(child)
            yield
        finally:
            with self._lock:
                for child in self._stopped or ():
                    child.send_signal(signal.SIGCONT)
                self._stopped = None

    def _stop(self, child: _Child) -> None:
        # Before it stands still, for an interrupt may come between the two.
        self._stopped.add(child)
        child.send_signal(signal.SIGSTOP)

    def _take(self) -> _Child:
        child = self._waiting() or _Child(self._environment)
        with self._lock:
            self._busy.add(child)
            if self._stopped is not None:
                self._stop(child)
        return child

    def _waiting(self) -> _Child | None:
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.alive:
                    return child
                child.end()
        return None

    def _give_back(self, child: _Child) -> None:
        with self._lock:
            if len(self._idle) < self._keep:
                self._idle.append(child)
                return
        child.end()

    def _forget(self) -> None:
        """In a fork of the process that started them: leave them to that one."""
        self._lock = threading.Lock()
        self._idle.clear()
        self._busy.clear()
        self._stopped = None


_shared = Children()
call, warm_up, end_idle = _shared.call, _shared.warm_up, _shared.end_idle
"""Those of the children that conversion and interpretation share."""


def _after_fork() -> None:
    """A fork has copies of the ways to the children: with them open, these would not see their parent's end."""
    for child in _all:
        child.forget()
    _all.clear()
    for children in _all_children:
        children._forget()


def _end_all() -> None:
    for child in tuple(_all):
        child.end()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_end_all)


def _name(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{function.__qualname__}"


def _message(stage: str, at: str, reason: str, said: list[str], remedy: str) -> str:
    where = f"{stage} ({at})" if at else stage
    lines = "".join(f"\n  {line}" for line in said)
    return f"{where}: {reason}.{' Last lines:' if said else ''}{lines}{chr(10) if said else ' '}Remedy: {remedy}"


def _how(returncode: int) -> str:
    if returncode >= 0:
        return f"native code ended its process with code {returncode}"
    name = signal.Signals(-returncode).name
    kinds = {"SIGSEGV": "a segmentation fault", "SIGABRT": "an abort", "SIGKILL": "a kill, by the system or a person"}
    return f"native code ended its process by {kinds.get(name, 'a signal')} ({name})"


def _resident_mb(pid: int) -> float:
    """MiB of physical memory that process `pid` holds; 0 when it has just ended."""
    try:
        pages = int(Path(_STATM.parents[1], str(pid), _STATM.name).read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
