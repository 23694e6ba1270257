import contextlib
import fcntl
import os
import queue
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fixtures import contained_functions as functions

from tfcompress import contained
from tfcompress.contained import Limits
from tfcompress.vocabulary.errors import ConversionError, DataError, EvaluationError

WORDS = {"stage": "Drawing", "error": ConversionError, "remedy": "draw less."}


def call(function, *arguments, **settings):
    return contained.call(function, *arguments, **WORDS, **settings)


def wait_for_the_end_of(pid):
    """Whether process `pid` ends within 30 s."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    return bool(select.select([watched], [], [], 30)[0])


def test_a_function_runs_in_one_other_process_that_stays():
    array = np.arange(200_000)
    np.testing.assert_array_equal(call(functions.doubled, array), array * 2)
    first = call(functions.pid)
    assert first != os.getpid()
    assert call(functions.pid) == first


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        (functions.segmentation_fault, (), r"^Drawing: native code .* a segmentation fault \(SIGSEGV\)"),
        (functions.leave, (3,), "with code 3"),
    ],
)
def test_a_crash_is_an_exception_and_the_next_call_works(function, arguments, words):
    crashed = call(functions.pid)
    with pytest.raises(ConversionError, match=words + r".*Remedy: draw less\."):
        call(function, *arguments)
    assert call(functions.pid) != crashed


def test_an_abort_says_the_stage_and_the_last_lines_of_that_call():
    with pytest.raises(ConversionError):
        call(functions.fail)
    with pytest.raises(ConversionError) as failure:
        call(functions.abort_with_last_words)
    lines = str(failure.value).splitlines()
    assert lines[0] == "Drawing (drawing the graph): native code ended its process by an abort (SIGABRT). Last lines:"
    assert lines[1:] == ["  to standard output", "  to standard error", "Remedy: draw less."]


def test_what_takes_too_long_is_ended():
    running = call(functions.pid)
    with pytest.raises(ConversionError, match=r"longer than the time limit of 0\.1 s.*raise the limit"):
        call(functions.wait_for_ever, limits=Limits(time_s=0.1))
    assert wait_for_the_end_of(running)
    assert call(functions.pid, limits=Limits(time_s=30)) != running


def test_what_holds_too_much_memory_is_ended():
    running = call(functions.pid, limits=Limits(memory_mb=2000))
    with pytest.raises(ConversionError, match=r"MiB, more than the memory limit of 300 MiB.*raise the limit"):
        call(functions.hold, 400, limits=Limits(memory_mb=300))
    assert wait_for_the_end_of(running)


def test_a_memory_limit_that_cannot_be_watched_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(contained, "_STATM", tmp_path / "statm")
    with pytest.raises(ConversionError, match="memory limit needs"):
        call(functions.pid, limits=Limits(memory_mb=300))


def test_exceptions_come_back_without_costing_the_child():
    running = call(functions.pid)
    with pytest.raises(DataError, match=r"^no labels$"):
        call(functions.refuse, "no labels")
    with pytest.raises(ConversionError, match=r"ZeroDivisionError: one by nothing.*\n  native words\n"):
        call(functions.fail)
    with pytest.raises(ConversionError, match=r"ConnectionResetError: the server hung up"):
        call(functions.lose_a_connection)
    with pytest.raises(ConversionError, match=r"cannot pickle"):
        call(functions.cannot_come_back)
    assert call(functions.pid) == running


def test_progress_is_told_while_it_runs():
    told = []
    assert call(functions.count_to, 3, progress=lambda *numbers: told.append(numbers)) == 3
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_call_during_a_call_has_a_child_of_its_own():
    outer, inner = call(functions.pid), []
    call(functions.count_to, 1, progress=lambda *_: inner.append(call(functions.pid)))
    assert inner[0] != outer
    # Only one of the two waits for more.
    assert len(contained._shared._idle) == 1
    assert len(contained._all) == 1


@pytest.fixture
def interruptible():
    """A process started in the background may have been told to ignore interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_ends_what_the_child_is_at(interruptible):
    running = call(functions.pid)
    with pytest.raises(KeyboardInterrupt):
        call(functions.interrupt_the_parent)
    assert wait_for_the_end_of(running)


def test_an_exception_of_the_progress_callback_ends_the_call():
    running = call(functions.pid)
    with pytest.raises(ZeroDivisionError):
        call(functions.count_to, 10_000, progress=lambda *_: 1 / 0)
    assert wait_for_the_end_of(running)


def test_a_child_that_died_while_it_waited_is_replaced():
    waiting = call(functions.pid)
    os.kill(waiting, signal.SIGKILL)
    assert wait_for_the_end_of(waiting)
    assert call(functions.pid) != waiting


def test_a_child_keeps_no_lock_of_the_parent(tmp_path):
    contained.end_idle()
    with open(tmp_path / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        call(functions.pid)
    with open(tmp_path / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_no_graphics_memory_is_taken():
    assert call(functions.environment, "CUDA_VISIBLE_DEVICES") == "-1"


SCRIPT = """
from fixtures import contained_functions as functions
from tfcompress import contained
from tfcompress.vocabulary.errors import TfcompressError

def call(function, **settings):
    return contained.call(function, stage="Drawing", error=TfcompressError, remedy="none.", **settings)

"""


def run(body, **settings):
    command = [sys.executable, "-c", SCRIPT + body]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_a_script_without_a_main_guard_runs_once():
    process = run("print('here'); print(call(functions.pid) > 0)")
    assert process.communicate(timeout=60) == ("here\nTrue\n", "")


def test_a_killed_parent_leaves_no_child_even_in_native_code():
    process = run("call(functions.hang_in_native_code, progress=lambda pid, _: print(pid, flush=True))")
    child = int(process.stdout.readline())
    process.kill()
    assert wait_for_the_end_of(child)
    process.communicate()


def state(pid):
    """The letter by which Linux says what process `pid` does: T, it stands still."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def wait_until(reached):
    """Whether `reached()` comes true within 30 s."""
    end = time.monotonic() + 30
    while not reached() and time.monotonic() < end:
        os.sched_yield()
    return reached()


@pytest.fixture
def reading(tmp_path):
    """Children; the processes of a call of theirs, one the other's child, that waits; what ends it with "done"."""
    fifo, told = tmp_path / "fifo", queue.SimpleQueue()
    os.mkfifo(fifo)
    children = contained.Children()

    def call():
        return children.call(functions.read_in_a_child, fifo, progress=lambda *pids: told.put(pids), **WORDS)

    with ThreadPoolExecutor() as threads:
        result = threads.submit(call)

        def finish():
            fifo.write_text("done")
            return result.result(timeout=30)

        yield children, told.get(timeout=60), finish
        children.end()


@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt])
def test_children_at_work_and_theirs_stand_still_in_a_pause_and_then_go_on(reading, error):
    children, pids, finish = reading
    with pytest.raises(error) if error else contextlib.nullcontext(), children.paused():
        assert wait_until(lambda: [state(pid) for pid in pids] == ["T", "T"])
        # Another pool's child is none of these.
        assert call(functions.pid) not in pids
        if error:
            raise error
    assert wait_until(lambda: "T" not in [state(pid) for pid in pids])
    assert finish() == "done"
    assert children.call(functions.pid, **WORDS) == pids[0]


def test_a_call_that_begins_in_a_pause_waits_for_its_end():
    children = contained.Children()
    with ThreadPoolExecutor() as threads:
        with children.paused():
            result = threads.submit(children.call, functions.pid, **WORDS)
            assert wait_until(lambda: [state(child._process.pid) for child in children._busy] == ["T"])
            assert not result.done()
        assert result.result(timeout=30) > 0
    children.end()


def test_children_that_stand_still_can_be_ended(reading):
    children, pids, _ = reading
    with children.paused():
        assert wait_until(lambda: [state(pid) for pid in pids] == ["T", "T"])
        children.end()
        assert all(wait_for_the_end_of(pid) for pid in pids)


def test_a_killed_parent_leaves_no_child_that_stands_still(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    body = f"""
import threading
def hold(*pids):
    with children.paused():
        print(*pids, flush=True)
        threading.Event().wait()

children = contained.Children()
call = children.call
call(
    functions.read_in_a_child, {str(tmp_path / "fifo")!r}, progress=hold,
    stage="Reading", error=TfcompressError, remedy="none.",
)
"""
    process = run(body)
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert wait_until(lambda: [state(pid) for pid in pids] == ["T", "T"])
    process.kill()
    assert all(wait_for_the_end_of(pid) for pid in pids)
    process.communicate()


def test_a_fork_leaves_the_child_to_its_parent():
    body = """
import os
child = call(functions.pid)
if os.fork():
    os.wait()
    assert call(functions.pid) == child
    print("parent")
else:
    assert call(functions.pid) != child
    print("fork", flush=True)
"""
    assert run(body).communicate(timeout=60) == ("fork\nparent\n", "")


def test_an_evaluation_fails_as_an_evaluation():
    with pytest.raises(EvaluationError, match="Opening"):
        contained.call(functions.fail, stage="Opening", error=EvaluationError, remedy="none.")


def test_as_many_children_wait_as_are_to_be_kept_and_they_see_what_they_are_to():
    children = contained.Children(keep=2, environment={"TFCOMPRESS_TEST": "seen"})

    def nested(depth):
        if depth:
            children.call(functions.count_to, 1, progress=lambda *_: nested(depth - 1), **WORDS)

    nested(3)
    waiting = {child._process.pid for child in children._idle}
    assert len(waiting) == 2
    assert children.call(functions.pid, **WORDS) in waiting
    assert children.call(os.getenv, "TFCOMPRESS_TEST", **WORDS) == "seen"
    children.end_idle()
    assert children.call(functions.pid, **WORDS) not in waiting
    children.end_idle()
