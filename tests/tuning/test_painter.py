"""Pictures while a search runs: in a process of their own, and not too often."""

import json
import threading

import pytest

from tfcompress.tuning import painter
from tfcompress.tuning.painter import Painter

TRIAL = {"number": 0, "values": {}, "status": "completed", "measured": {"bytes": 5.0}}
SUMMARY = {"objectives": ["bytes"], "bounds": {}, "space": [], "front": [0], "trials": [TRIAL]}


@pytest.fixture
def summary(tmp_path):
    path = tmp_path / "search.json"
    path.write_text(json.dumps(SUMMARY))
    return path


def test_what_the_summary_says_is_drawn(summary):
    complaints = []
    with Painter(summary, complaints.append) as artist:
        artist.redraw()
        assert not summary.with_name("front.svg").exists()
        artist.finish()
    assert complaints == []
    assert 'id="trial-0"' in summary.with_name("front.svg").read_text()


def test_a_drawing_that_fails_is_told_and_no_error(summary):
    complaints = []
    summary.write_text("{}")
    with Painter(summary, complaints.append) as artist:
        artist.finish()
    assert "Drawing the search: KeyError" in complaints[0]


class Drawing:
    """Children of which each draws until it is told to end."""

    def __init__(self):
        self.began, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.count = 0

    def call(self, *_, **__):
        self.count += 1
        self.began.release()
        self.go_on.acquire()

    def end(self):
        self.go_on.release()


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(painter.time, "monotonic", lambda: now[0])
    return now


def test_it_is_drawn_once_a_minute_and_never_twice_at_a_time(summary, clock):
    with Painter(summary, print) as artist:
        artist._children = drawing = Drawing()
        clock[0] = 59.0
        artist.redraw()
        assert drawing.count == 0
        clock[0] = 61.0
        artist.redraw()
        assert drawing.began.acquire(timeout=30)
        clock[0] = 200.0
        artist.redraw()
        assert drawing.count == 1
        drawing.go_on.release()
        artist._wait()
        # The minute begins with the end of a drawing.
        clock[0] = 259.0
        artist.redraw()
        assert drawing.count == 1
        clock[0] = 260.0
        artist.redraw()
        assert drawing.began.acquire(timeout=30)
        assert drawing.count == 2


def test_a_search_that_is_left_does_not_wait_for_a_drawing(summary, clock):
    drawing = Drawing()
    with Painter(summary, print) as artist:
        artist._children = drawing
        clock[0] = 100.0
        artist.redraw()
        assert drawing.began.acquire(timeout=30)
    assert not artist._thread.is_alive()
