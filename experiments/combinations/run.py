"""Techniques combined: `python experiments/combinations/run.py --recipe=vgg16_prune_int8 --data_dir=...`.

Trains the recipe's network, runs the recipe, and writes what its file was measured to be into `result.json` and the
table of all recipes into `result.md`. An interrupted run goes on where it stopped; a finished one is measured again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import combinations
from absl import app, flags

from tfcompress.atomic import write_atomically
from tfcompress.cli.common import TerminalReporter
from tfcompress.pipeline import compress

HERE = Path(__file__).parent

RECIPE = flags.DEFINE_multi_enum(
    "recipe", None, list(combinations.COMBINATIONS), "A recipe to run; repeatable. All when not given."
)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS keeps the data sets.")
WORK = flags.DEFINE_string("work", "tflite_models/combinations", "Folder of the runs.")
OUT = flags.DEFINE_string("out", str(HERE / "result"), "Path without extension of the results, .json and .md.")
SEED = flags.DEFINE_integer("seed", 0, "Of the runs.", lower_bound=0)


def main(argv: Sequence[str]) -> None:
    """Run the chosen recipes, writing the results after each, then print the table."""
    del argv
    results = Path(f"{OUT.value}.json")
    for name in RECIPE.value or combinations.COMBINATIONS:
        combination = combinations.COMBINATIONS[name]
        evidence = compress(
            combination.model,
            combination.dataset,
            combination.path,
            data_dir=DATA_DIR.value,
            seed=SEED.value,
            out=Path(WORK.value) / f"{name}-{SEED.value}",
            reporter=TerminalReporter(),
        ).evidence
        lines = combinations.read(results) | {name: combinations.measured(name, evidence)}
        combinations.write(results, lines)
        write_atomically(Path(f"{OUT.value}.md"), combinations.table(lines).encode())
    print(combinations.table(combinations.read(results)), end="")


if __name__ == "__main__":
    app.run(main)
