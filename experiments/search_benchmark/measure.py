"""Makes a table for `compare.py`: every recipe of a space is run to its artifact, which is measured.

    python experiments/search_benchmark/measure.py --table=lenet5_mnist --data_dir=../shared/tfds

It is a search of the project's own with the oracle `grid`. An interrupted one goes on when it is called again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from table import rows_of, table_text

from tfcompress import search
from tfcompress.atomic import write_atomically
from tfcompress.cli.common import TerminalReporter
from tfcompress.data import Dataset, Split, load_data
from tfcompress.data.settings import DataSettings
from tfcompress.pipeline import train
from tfcompress.recipe_text import read_tree
from tfcompress.tuning.space import load_space

HERE = Path(__file__).parent
OBJECTIVES = ("deflated_bytes", "drop_points")
BOUNDS = {"drop_points": 10.0}
SEED = 0


@dataclass(frozen=True)
class Setting:
    """What a table is measured on, beside the space in the YAML file of its name.

    Args:
        network: of the zoo, trained first, on the whole training split.
        dataset: of TFDS.
        images: how many of each split the trials get, chosen once by `SEED`; all, where there are fewer.
        epochs: after how many of the last step's every recipe is measured; empty where it does not train.
    """

    network: str
    dataset: str
    images: dict[str, int]
    epochs: tuple[int, ...] = field(default=())


SETTINGS = {
    "lenet5_mnist": Setting("lenet5", "mnist", {"train": 3_000, "validation": 6_000, "test": 1_000}, (1, 3)),
    "resnet8_cifar10": Setting("resnet8", "cifar10", {"train": 1_000, "validation": 1_000, "test": 1_000}),
}

TABLE = flags.DEFINE_enum("table", None, list(SETTINGS), "Which table to make.", required=True)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS keeps prepared data sets. Defaults to TFDS's own place.")
WORK = flags.DEFINE_string("work", "tflite_models/search_benchmark", "Folder of the float network and of the search.")
WORKERS = flags.DEFINE_integer("workers", 2, "Trials at a time.", lower_bound=1)
TRIALS = flags.DEFINE_integer("max_trials", None, "Stop after so many; called again, it goes on. All when not given.")
OUT = flags.DEFINE_string("out", None, "The table's file. Defaults to that of its name beside this program.")


def part_of(split: Split, count: int) -> Split:
    """`count` examples of a split, the same each time."""
    if split.count <= count:
        return split
    chosen = np.sort(np.random.default_rng(SEED).choice(split.count, count, replace=False))
    return Split(split.inputs[chosen], split.targets[chosen])


def trained(setting: Setting, tree: dict[str, Any], dataset: Dataset, folder: Path) -> Path:
    """The folder of the float network, trained as the recipe's `train` says."""
    recipe = {"data": tree["data"], "train": tree["train"], "steps": [{"technique": "post_training"}]}
    train(setting.network, dataset, recipe, out=folder, seed=SEED, reporter=TerminalReporter())
    return folder


def main(argv: list[str]) -> None:
    """Train the float network, search the whole space, write the table."""
    if len(argv) > 1:
        raise app.UsageError(f"No arguments are expected. Received: {' '.join(argv[1:])}.")
    setting, work = SETTINGS[TABLE.value], Path(WORK.value) / TABLE.value
    _, tree, _ = read_tree(HERE / f"{TABLE.value}.yaml", {})
    dataset = load_data(setting.dataset, data_dir=DATA_DIR.value, settings=DataSettings(**tree["data"]), seed=SEED)
    float_network = trained(setting, tree, dataset, work / "float")
    parts = Dataset(
        name=dataset.name,
        **{name: part_of(split, setting.images[name]) for name, split in dataset.splits.items()},
        class_names=dataset.class_names,
        seed=SEED,
    )
    space = load_space(tree)
    hole = f"{tree['steps'][-1]['technique']}.fit.epochs" if setting.epochs else None
    size = space.size * max(1, len(setting.epochs))
    found = search(
        float_network,
        parts,
        tree,
        # The fewest first: a trial with more goes on from them.
        overrides=[f"{hole}={{choice: {list(setting.epochs)}, default: {setting.epochs[0]}}}"] if hole else [],
        objectives=OBJECTIVES,
        oracle="grid",
        max_trials=min(size, TRIALS.value or size),
        workers=WORKERS.value,
        seed=SEED,
        reporter=TerminalReporter(),
        out=work / "search",
    )
    if len(found.trials) == size:
        text = table_text(tree, OBJECTIVES, BOUNDS, rows_of(found.trials, space, hole))
        write_atomically(Path(OUT.value or HERE / f"{TABLE.value}.json"), text.encode())


if __name__ == "__main__":
    app.run(main)
