"""The child's side of `contained`: answers one call after another until its parent is gone."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib
import os
import pickle
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, NoReturn

from tfcompress import native_output
from tfcompress.vocabulary.errors import TfcompressError

_connection: Connection | None = None


def at(stage: str) -> None:
    """Say what a contained function does now, in case that it does not return; of no effect in other processes.

    Args:
        stage: as messages put it in brackets: "calibrating".
    """
    if _connection is not None:
        _tell("at", stage)


def serving() -> bool:
    """Whether this process is such a child."""
    return _connection is not None


def serve(connection: int, lifeline: int) -> None:
    """Answer the calls that come over the file descriptor `connection`; never returns.

    Args:
        connection: a descriptor of a `multiprocessing.connection.Connection`.
        lifeline: the reading end of a pipe that the parent never writes to.
    """
    global _connection
    _end_with_the_other_side_of(lifeline)
    native_output.record_own_stderr()
    _connection = Connection(connection)
    while True:
        try:
            kind, content = _connection.recv()
        except (EOFError, ConnectionError):
            _leave()
        if kind == "prepare":
            with contextlib.suppress(Exception):
                # The call that needs it will fail in the same way, and say so.
                resolve(content)()
        else:
            _answer(content)


def _answer(request: bytes) -> None:
    try:
        name, arguments, progress = pickle.loads(request)
        function = resolve(name)
        if progress:
            function = functools.partial(function, progress=functools.partial(_tell, "progress"))
        # What was said before is of no call.
        os.ftruncate(2, 0)
        _tell("began")
        _tell("returned", function(*arguments))
    except TfcompressError as error:
        _tell("raised", error)
    except Exception as error:  # whatever a library raises is told to the parent
        _tell("failed", f"{type(error).__name__}: {error}")


def _tell(*message: Any) -> None:
    """Send a message to the parent; without a parent, end the process."""
    content = ForkingPickler.dumps(message)
    try:
        _connection.send_bytes(content)
    except ConnectionError:
        _leave()


def _leave() -> NoReturn:
    """End the process without the clean-up of libraries, which nobody would see."""
    os._exit(0)


def resolve(name: str) -> Callable[..., Any]:
    """The object called ``module:attribute``."""
    module, _, attribute = name.partition(":")
    return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))


def _end_with_the_other_side_of(lifeline: int) -> None:
    """Let the system end this process when the pipe's other end closes, whatever native code is doing then.

    A kill does it, without Python, also of a process that stands still. Elsewhere than on Linux there is no choice of
    the signal: the process ends behind its current call.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
