"""The pictures of a search while it runs: drawn in a process of their own, which neither fails nor slows it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from tfcompress.contained import Children
from tfcompress.tuning.pictures import draw_pictures
from tfcompress.vocabulary.errors import SearchError, TfcompressError

_EVERY_S = 60.0


class Painter(AbstractContextManager):
    """Draws the search whose summary is a file; as a context it ends what it is at when it is left.

    Args:
        summary: `search.json`, beside which the pictures lie.
        complain: told why, when nothing can be drawn.
        every_s: seconds between the end of a drawing and the next one. Defaults to a minute.
    """

    def __init__(self, summary: Path, complain: Callable[[str], None], every_s: float = _EVERY_S) -> None:
        self._summary = summary
        self._complain = complain
        self._every_s = every_s
        # Drawing is no work for many threads, and the trials need the cores.
        self._children = Children(environment={"CUDA_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": "1"})
        self._thread: threading.Thread | None = None
        self._last = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._children.end()
        self._wait()

    def redraw(self) -> None:
        """Begin to draw what the summary says now, unless the last drawing is not long past; returns at once."""
        drawing = self._thread is not None and self._thread.is_alive()
        if drawing or time.monotonic() - self._last < self._every_s:
            return
        self._thread = threading.Thread(target=self._draw, name="painter", daemon=True)
        self._thread.start()

    def quiet(self) -> AbstractContextManager[None]:
        """A context in which nothing is drawn: a drawing under way stands still."""
        return self._children.paused()

    def finish(self) -> None:
        """Draw what the summary says now, and return when it is drawn."""
        self._wait()
        self._draw()

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _draw(self) -> None:
        try:
            self._children.call(
                draw_pictures,
                self._summary,
                stage="Drawing the search",
                error=SearchError,
                remedy="none needed: all figures are in search.json.",
            )
        except TfcompressError as error:
            self._complain(str(error))
        finally:
            self._last = time.monotonic()
