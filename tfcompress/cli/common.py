"""Flags and terminal output that several commands share."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import timedelta

from absl import flags
from rich.console import Console, Group
from rich.live import Live
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tfcompress.vocabulary.reporter import Reporter


def define_model_and_data(values: flags.FlagValues, *, needs_data: bool = True) -> None:
    """`--model`, `--unsafe`, `--data_dir`, `--seed`, and `--dataset`, which must be given where `needs_data`."""
    flags.DEFINE_string(
        "model",
        None,
        "A model of Keras 3 or 2 (.keras, .h5, Keras 2 SavedModel folder), the folder of an earlier run, or a network "
        "of the zoo, e.g. resnet8 or mobilenet_v1:width=0.25.",
        flag_values=values,
        required=True,
    )
    define_unsafe(values)
    flags.DEFINE_string(
        "dataset",
        None,
        "`digits`, a TFDS set of images, texts or sounds by name, a folder of class folders, or an .npz file.",
        flag_values=values,
        required=needs_data,
    )
    flags.DEFINE_string("data_dir", None, "Where TFDS keeps prepared data sets.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of all randomness.", flag_values=values, lower_bound=0)


def define_unsafe(values: flags.FlagValues) -> None:
    """`--unsafe`."""
    flags.DEFINE_bool(
        "unsafe",
        False,
        "Execute Python code that the model file holds (a Lambda layer). Only for files whose origin you trust.",
        flag_values=values,
    )


def define_recipe(values: flags.FlagValues, default: str | None = None) -> None:
    """`--recipe` and `--set`."""
    flags.DEFINE_string(
        "recipe",
        default,
        "A recipe file, or the name of a recipe that ships (`tfcompress recipes`).",
        flag_values=values,
        required=default is None,
    )
    define_overrides(values)


def define_overrides(values: flags.FlagValues, example: str = "pruning.final_sparsity=0.9") -> None:
    """`--set`."""
    flags.DEFINE_multi_string(
        "set",
        [],
        f"Override a value: <step or section>.<key>=<value>, e.g. --set {example}. Repeatable.",
        flag_values=values,
    )


def define_strategy(values: flags.FlagValues) -> None:
    """`--strategy`."""
    flags.DEFINE_enum(
        "strategy",
        None,
        ["mirrored", "multi_worker"],
        "Train on all devices of this machine, or on those of every process that TF_CONFIG names; each is given this "
        "command, and the first writes the run's folder. Default: one device.",
        flag_values=values,
    )


class TerminalReporter(Reporter, AbstractContextManager):
    """Messages as lines, and a progress bar with the time left, or a table, on standard error.

    A terminal shows bar and table in place, below the messages, until the context is left.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._bar: Progress | None = None
        self._table: Table | None = None
        self._label = ""
        self._began = (0.0, 0)
        self._shown = 0.0

    def __exit__(self, *exception: object) -> None:
        self._bar = self._table = None
        self._show()

    def progress(self, label: str, done: int, total: int, note: str = "") -> None:
        """Move the bar of `label`; where there is no terminal, a line every ten seconds, with the time left."""
        now = time.monotonic()
        if self._console.is_terminal:
            self._move(label, done, total, note)
            return
        if label != self._label:
            self._label, self._began, self._shown = label, (now, done), now
        if now - self._shown > 10:
            began, done_before = self._began
            left = (now - began) * (total - done) / max(1, done - done_before)
            parts = [f"{label}: {done / total:.0%}", f"{timedelta(seconds=round(left))} left", note]
            self._console.print(", ".join(filter(None, parts)))
            self._shown = now

    def message(self, text: str) -> None:
        """End the bar and print a line."""
        if self._bar is not None:
            self._bar = None
            self._show()
        self._console.print(text)

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]], news: str = "") -> None:
        """Show as many columns as there is room for; where there is no terminal, `news` as a line."""
        if not self._console.is_terminal:
            super().table(title, header, rows, news)
            return
        self._table = fitting_table(self._console, title, header, rows)
        self._show()

    def _move(self, label: str, done: int, total: int, note: str) -> None:
        if self._bar is None or self._label != label:
            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=self._console)
            self._bar.add_task(label, total=total, completed=done, note=note)
            self._label = label
            self._show()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total, note=note)

    def _show(self) -> None:
        """Bring table and bar, as far as there are any, onto the terminal."""
        parts = [part for part in (self._table, self._bar) if part is not None]
        if not parts:
            if self._live is not None:
                self._live.stop()
                self._live = None
            return
        if self._live is None:
            # A terminal has one live display at a time; it draws itself again four times a second.
            self._live = Live(console=self._console, transient=True)
            self._live.start()
        self._live.update(Group(*parts), refresh=True)


def fitting_table(console: Console, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of the first columns, as many as fit the width of `console`; the title says how many do not."""
    unlimited = console.options.update(max_width=sys.maxsize)
    for count in range(len(header), 0, -1):
        more = len(header) - count
        told = f"{title} ({more} columns more than fit)" if more else title
        table = Table(title=told, title_justify="left")
        for name in header[:count]:
            table.add_column(name, no_wrap=True)
        for row in rows:
            table.add_row(*row[:count])
        if Measurement.get(console, unlimited, table).minimum <= console.width:
            break
    return table


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, figures: bool = True) -> None:
    """A table on standard output; columns behind the first are aligned right where they hold figures."""
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index and figures else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, soft_wrap=True).print(table)
