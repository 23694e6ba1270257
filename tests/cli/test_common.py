"""What a terminal shows, and what stands in its place elsewhere."""

import io

import pytest
from rich.console import Console

from tfcompress.cli.common import TerminalReporter, fitting_table

HEADER = ("trial", "status", "bytes", "final_sparsity")
ROWS = [("0", "completed", "1,000", "0.5"), ("1", "running", "", "0.9")]


@pytest.fixture
def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=80, highlight=False, _environ={})


def written(console):
    return console.file.getvalue()


def test_without_a_terminal_the_news_of_a_table_are_a_line():
    console = Console(file=io.StringIO(), highlight=False)
    with TerminalReporter(console) as reporter:
        reporter.table("search: 0 of 2", HEADER, ROWS)
        reporter.table("search: 1 of 2", HEADER, ROWS, "trial 0: completed; 1 of 2 trials")
    assert written(console) == "trial 0: completed; 1 of 2 trials\n"


def test_a_terminal_shows_the_table_and_no_line(terminal):
    with TerminalReporter(terminal) as reporter:
        reporter.table("search: 1 of 2", HEADER, ROWS, "the news")
        shown = written(terminal)
    assert all(text in shown for text in ("search: 1 of 2", "final_sparsity", "1,000", "running"))
    assert "the news" not in shown


def test_table_bar_and_lines_share_one_live_display(terminal):
    with TerminalReporter(terminal) as reporter:
        reporter.table("the table", HEADER, ROWS)
        live = reporter._live
        reporter.progress("testing the front", 1, 2)
        assert reporter._live is live
        assert "testing the front" in written(terminal)
        before = len(written(terminal))
        reporter.message("a line")
        assert reporter._live is live
        after = written(terminal)[before:]
        # The line stands above the table, which goes on, and the bar is over.
        assert after.index("a line") < after.rindex("final_sparsity")
        live.refresh()
        assert "testing the front" not in written(terminal)[before + len(after) :]
    assert not live.is_started
    assert reporter._live is None


def test_a_line_ends_a_bar_that_stands_alone(terminal):
    with TerminalReporter(terminal) as reporter:
        reporter.progress("training", 1, 2, "loss 0.5")
        live = reporter._live
        reporter.progress("training", 2, 2)
        assert reporter._live is live
        reporter.message("done")
        assert not live.is_started


def test_what_is_live_ends_with_a_failure_and_gives_the_cursor_back(terminal):
    def fails():
        with TerminalReporter(terminal) as reporter:
            reporter.progress("training", 1, 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert written(terminal).rindex("\x1b[?25h") > written(terminal).rindex("\x1b[?25l")


@pytest.mark.parametrize(("width", "columns"), [(80, 4), (40, 3), (10, 1)])
def test_as_many_columns_are_shown_as_fit(width, columns):
    console = Console(width=width)
    table = fitting_table(console, "search", HEADER, ROWS)
    assert [column.header for column in table.columns] == list(HEADER[:columns])
    assert table.title == ("search" if columns == 4 else f"search ({4 - columns} columns more than fit)")
