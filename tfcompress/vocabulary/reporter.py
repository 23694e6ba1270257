"""How a run tells what it is doing; the command line shows it, a library call stays silent."""

from collections.abc import Callable, Sequence

Progress = Callable[[int, int], None]
"""Called with how much is done, and how much there is."""


def unheard(done: int, total: int) -> None:
    """The progress that nobody listens to."""


class Reporter:
    """Receives progress and messages; this base ignores them.

    Example:
        >>> class Printing(Reporter):
        ...     def message(self, text: str) -> None:
        ...         print(text)
    """

    def progress(self, label: str, done: int, total: int, note: str = "") -> None:
        """`done` of `total` units of the work called `label`; `note` is its latest figure."""

    def message(self, text: str) -> None:
        """One line that a person should read."""

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]], news: str = "") -> None:
        """Where work stands, in place of the table before.

        Args:
            title: of the table.
            header: of its columns, those first that must be seen.
            rows: of texts, those first that must be seen.
            news: what is new in it, for those who cannot see a table: this base takes it for a message.
        """
        del title, header, rows
        if news:
            self.message(news)
