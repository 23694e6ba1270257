"""The rows of the table of post-training corrections: what each is, and how they are written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tfcompress.atomic import write_atomically

MIN_MAX, TOGETHER, CONVERTER = "min-max", "all together", "the converter's own, W8 per channel"

SETTINGS: Mapping[str, dict[str, Any]] = {
    "W8 per tensor": {"weight_granularity": "tensor"},
    "W4 per tensor": {"weight_granularity": "tensor", "weight_bits": 4, "low_bit_storage": "size"},
    "W4 per channel": {"weight_bits": 4, "low_bit_storage": "size"},
}
"""What every row of a setting has: files of one setting have the same bytes but for their scales."""

RANGES: Mapping[str, dict[str, Any]] = {
    "percentile 99.99": {"ranges": "percentile"},
    "moving average": {"ranges": "moving_average"},
    "squared error": {"ranges": "mse"},
    "entropy": {"ranges": "entropy"},
}
"""The other ways to choose activation ranges, each alone."""

LOST_ENOUGH = 3.0
"""Points that min-max must lose for a correction to have something to halve."""


@dataclass(frozen=True)
class Row:
    """One file.

    Args:
        setting: of `SETTINGS`, or `CONVERTER`.
        correction: what was done beyond min-max.
        validation: accuracy on the split that ranks.
        test: accuracy on the split that reports.
        file_bytes: of the shipped file.
    """

    setting: str
    correction: str
    validation: float
    test: float
    file_bytes: int


@dataclass(frozen=True)
class Result:
    """All rows of one model.

    Args:
        model: its name.
        validation, test: the float file's accuracy.
        images: how many were tested on.
        rows: in the order in which they were made.
    """

    model: str
    validation: float
    test: float
    images: int
    rows: tuple[Row, ...] = ()

    def row(self, setting: str, correction: str) -> Row | None:
        """The row of this name; None when it is not made yet."""
        return next((row for row in self.rows if (row.setting, row.correction) == (setting, correction)), None)

    def best_range(self, setting: str) -> dict[str, Any]:
        """The values of the activation ranges that validation ranks first, min-max among them."""
        values = {MIN_MAX: {}, **RANGES}
        made = [row for row in self.rows if row.setting == setting and row.correction in values]
        return values[max(made, key=lambda row: row.validation).correction]


def read(path: Path) -> Result | None:
    """What was written to `path`; None without it."""
    if not path.exists():
        return None
    plain = json.loads(path.read_text())
    return Result(**{**plain, "rows": tuple(Row(**row) for row in plain["rows"])})


def write(path: Path, result: Result) -> None:
    """Write `result` as JSON, and its table beside it."""
    write_atomically(path, (json.dumps(asdict(result), indent=2) + "\n").encode())
    write_atomically(path.with_suffix(".md"), text(result).encode())


def text(result: Result) -> str:
    """The table as Markdown."""
    lines = [
        f"{result.model}: float {100 * result.test:.2f} % of {result.images} test images "
        f"({100 * result.validation:.2f} % validation)",
        "",
        "| setting | correction | validation % | test % | loss, points | of min-max's loss | bytes |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join(lines + [_line(result, row) for row in result.rows]) + "\n"


def _line(result: Result, row: Row) -> str:
    loss = 100 * (result.test - row.test)
    first = result.row(row.setting, MIN_MAX)
    before = 100 * (result.test - first.test) if first else 0.0
    share = f"{loss / before:.2f}" if before >= LOST_ENOUGH else "-"
    cells: Sequence[str] = (
        *(row.setting, row.correction, f"{100 * row.validation:.2f}", f"{100 * row.test:.2f}"),
        *(f"{loss:.2f}", share, f"{row.file_bytes:,}"),
    )
    return "| " + " | ".join(cells) + " |"
