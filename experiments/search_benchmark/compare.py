"""Oracles compared on complete grids: every recipe of a small space was measured once, and any search can be replayed.

A table is a JSON file:

    {"recipe": the tree of a recipe with holes, all of them countable,
     "objectives": ["deflated_bytes", "drop_points"],
     "bounds": {"drop_points": 10.0},
     "reference": {"deflated_bytes": 90000, "drop_points": 10.0},
     "rows": [{"values": {hole: value}, "measured": {measure: number}, "by_epoch": {"1": {measure: number}}}]}

with one row for each recipe. `measured` is what its artifact has after all epochs; `by_epoch`, which may be left out,
what it had after fewer, and is what Hyperband needs: it gets as many epochs as all the trials of another oracle.

An oracle's regret is 1 - HV / HV*, of the hypervolumes, up to the reference, of what it tried and of the whole table;
what violates a bound counts in neither. Printed are the medians over the seeds, and pareto's over each other's.

    python experiments/search_benchmark/compare.py --table=experiments/search_benchmark/lenet5_mnist.json
"""

from __future__ import annotations

import json
import math
import multiprocessing
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from tfcompress.tuning.measures import Goal
from tfcompress.tuning.oracles import ORACLES, Proposal, ask, make_oracle, tell
from tfcompress.tuning.pareto import hypervolume
from tfcompress.tuning.space import load_space
from tfcompress.vocabulary.errors import SearchError

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("table", [], "A table of measured recipes; may be given several times.")
flags.DEFINE_list("oracles", [], "Which to compare with pareto. All that the table can serve when not given.")
flags.DEFINE_integer("trials", 30, "Trials of each search.", lower_bound=1)
flags.DEFINE_integer("seeds", 20, "Searches of each oracle.", lower_bound=1)
flags.DEFINE_integer("workers", 2, "Processes.", lower_bound=1)
flags.DEFINE_string("out", None, "File without extension to write the result to, as .json and .md.")


class Table:
    """Every recipe of a space with what was measured of it.

    Args:
        plain: the contents of the file.

    Raises:
        SearchError: a recipe of the space has no row, or more than one.
    """

    def __init__(self, plain: Mapping[str, Any]) -> None:
        self.space = load_space(plain["recipe"])
        self.goal = Goal(tuple(plain["objectives"]), plain.get("bounds", {}))
        self.reference = self.goal.vector(plain["reference"])
        self._rows = {self.space.canonical(row["values"]): row for row in plain["rows"]}
        missing = sum(self.space.canonical(values) not in self._rows for values in self.space.grid())
        if missing or len(plain["rows"]) != self.space.size:
            raise SearchError(
                f"A table must have one row for each of the {self.space.size} recipes of its space. "
                f"Received: {len(plain['rows'])} rows, {missing} recipes without one."
            )

    @cached_property
    def max_epochs(self) -> int | None:
        """The most epochs that a row knows of; None where the table knows the finished artifacts alone."""
        counts = {tuple(map(int, row.get("by_epoch", {}))) for row in self._rows.values()}
        return max(next(iter(counts))) if len(counts) == 1 and all(counts) else None

    @cached_property
    def best(self) -> float:
        """HV*, of the whole table."""
        return self.volume([row["measured"] for row in self._rows.values()])

    def volume(self, measured: Sequence[Mapping[str, float]]) -> float:
        """The hypervolume of what is within the bounds, up to the reference."""
        within = [self.goal.vector(each) for each in measured if self.goal.violation(each) == 0]
        return hypervolume(within, self.reference)

    def look_up(self, proposal: Proposal) -> dict[str, float]:
        """What running a proposal would have measured."""
        row = self._rows[self.space.canonical(proposal.values)]
        if proposal.epochs is None or proposal.epochs == self.max_epochs:
            return row["measured"]
        known = sorted(map(int, row["by_epoch"]))
        # The nearest below: an epoch that was not trained is never made up.
        return row["by_epoch"][str(max(count for count in known if count <= max(proposal.epochs, known[0])))]


def searched(table: Table, oracle: str, trials: int, seed: int) -> list[dict[str, float]]:
    """What a search measures; Hyperband's ends when it has trained as many epochs as `trials` whole trials."""
    banded = oracle == "hyperband"
    budget = trials * table.max_epochs if banded else math.inf
    of = make_oracle(
        oracle,
        table.space,
        table.goal,
        max_trials=10 * trials if banded else trials,
        seed=seed,
        max_epochs=table.max_epochs if banded else None,
    )
    measured: list[dict[str, float]] = []
    while (proposal := ask(of)) is not None:
        budget -= (proposal.epochs or 0) - proposal.initial_epoch
        if budget < 0:
            break
        measured.append(table.look_up(proposal))
        tell(of, proposal.number, measured[-1])
    return measured


def regret(path: str, oracle: str, trials: int, seed: int) -> float:
    """1 - HV / HV* of one search."""
    table = _table(path)
    return 1 - table.volume(searched(table, oracle, trials, seed)) / table.best


def compare(path: str, oracles: Sequence[str], trials: int, seeds: int, workers: int) -> list[dict[str, Any]]:
    """One row for each oracle: the quartiles of its regret, and the ratio of pareto's median to its own."""
    jobs = [(path, oracle, trials, seed) for oracle in oracles for seed in range(seeds)]
    # Bayesian searches take a hundred times as long as random ones: one job at a time keeps all processes busy.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        regrets = np.reshape(pool.starmap(regret, jobs, chunksize=1), (len(oracles), seeds))
    medians = dict(zip(oracles, np.median(regrets, axis=1), strict=True))
    return [
        {
            "table": Path(path).stem,
            "oracle": oracle,
            "median regret": round(float(medians[oracle]), 4),
            "quartiles": [round(float(q), 4) for q in np.quantile(each, (0.25, 0.75))],
            "pareto over it": round(float(medians["pareto"] / medians[oracle]), 3) if medians[oracle] > 0 else None,
        }
        for oracle, each in zip(oracles, regrets, strict=True)
    ]


def main(argv: list[str]) -> None:
    """Compare on every table, print the result, and write it when --out is given."""
    if len(argv) > 1 or not FLAGS.table:
        raise app.UsageError("--table must name at least one table, and no other arguments are expected.")
    rows = []
    for path in FLAGS.table:
        served = [name for name in ORACLES if name != "hyperband" or _table(path).max_epochs]
        oracles = list(dict.fromkeys(["pareto", *(FLAGS.oracles or served)]))
        rows += compare(path, oracles, FLAGS.trials, FLAGS.seeds, FLAGS.workers)
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(map(str, row.values())) + " |" for row in rows]
    print("\n".join(lines))
    if FLAGS.out:
        setting = {"trials": FLAGS.trials, "seeds": FLAGS.seeds}
        Path(f"{FLAGS.out}.json").write_text(json.dumps({"setting": setting, "rows": rows}, indent=2) + "\n")
        Path(f"{FLAGS.out}.md").write_text("\n".join(lines) + "\n")


def _table(path: str) -> Table:
    return Table(json.loads(Path(path).read_text(encoding="utf-8")))


if __name__ == "__main__":
    app.run(main)
