"""Flags and terminal output that several commands share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta

from absl import flags
from rich.console import Console
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


class TerminalReporter(Reporter):
    """Messages as lines, and a progress bar with the time left, on standard error."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._progress: Progress | None = None
        self._label = ""
        self._began = (0.0, 0)
        self._shown = 0.0

    def progress(self, label: str, done: int, total: int, note: str = "") -> None:
        """Move the bar of `label`; where there is no terminal, a line every ten seconds, with the time left."""
        now = time.monotonic()
        if self._console.is_terminal:
            self._bar(label, done, total, note)
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
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        self._console.print(text)

    def _bar(self, label: str, done: int, total: int, note: str) -> None:
        if self._progress is None or self._label != label:
            if self._progress is not None:
                self._progress.stop()
            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self._progress = Progress(
                *columns, TextColumn("{task.fields[note]}"), console=self._console, transient=True
            )
            self._progress.start()
            self._progress.add_task(label, total=total, completed=done, note=note)
            self._label = label
        self._progress.update(self._progress.task_ids[0], completed=done, total=total, note=note)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, figures: bool = True) -> None:
    """A table on standard output; columns behind the first are aligned right where they hold figures."""
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index and figures else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, soft_wrap=True).print(table)
