"""Model families by recipes: `python experiments/model_families/run.py --family=MobileNet --recipe=ptq_int8`.

Trains each network briefly, loads it, runs each recipe, and writes after every cell what came of it; cells that are
finished are not run again, and an interrupted cell goes on where it stopped.
"""

from __future__ import annotations

import gc
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matrix
from absl import app, flags
from families import FAMILIES, SEED, Application, ZooNetwork

from tfcompress import keras_door as kd
from tfcompress.atomic import write_atomically
from tfcompress.cli.common import TerminalReporter
from tfcompress.models.loading import load_model
from tfcompress.pipeline import compress
from tfcompress.recipe import Recipe, load_recipe

HERE = Path(__file__).parent

FAMILY = flags.DEFINE_multi_enum("family", None, list(FAMILIES), "A family to run; repeatable. All when not given.")
RECIPE = flags.DEFINE_multi_enum("recipe", None, matrix.RECIPES, "A recipe to run; repeatable. All when not given.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS keeps prepared text and sound. Without it: images only.")
WORK = flags.DEFINE_string("work", "tflite_models/model_families", "Folder of trained networks and of runs.")
OUT = flags.DEFINE_string("out", str(HERE / "result"), "Path without extension of the results, .json and .md.")
AGAIN = flags.DEFINE_bool("again", False, "Run the chosen cells anew, finished or not; trained networks stay.")


def fill(family: str, recipe: str, found: dict[str, Any]) -> None:
    """Train the family if it is not yet, run the recipe on it, and write into `found` what is learned."""
    network = FAMILIES[family]
    folder = Path(WORK.value) / family
    out = folder / recipe
    if AGAIN.value:
        shutil.rmtree(out, ignore_errors=True)
    path = network.trained(folder, DATA_DIR.value)
    started = time.perf_counter()
    model = load_model(path)
    found["loaded"] = True
    evidence = compress(
        model,
        network.data(DATA_DIR.value),
        HERE / f"{recipe}.yaml",
        overrides=[
            *(f"data.{key}={json.dumps(value)}" for key, value in network.overrides.items()),
            *_adapted(load_recipe(HERE / f"{recipe}.yaml"), network),
        ],
        data_dir=DATA_DIR.value,
        seed=SEED,
        out=out,
        reporter=TerminalReporter(),
    ).evidence
    found.update(
        full_integer=evidence.artifact.full_integer,
        mean_steps=evidence.agreement.mean_steps,
        argmax=evidence.agreement.argmax,
        float_accuracy=evidence.metric.float,
        accuracy=evidence.metric.artifact,
        seconds=time.perf_counter() - started,
    )


def _adapted(recipe: Recipe, network: Application | ZooNetwork) -> Iterator[str]:
    """Overrides by which no step of `recipe` trains faster than `network` was, and quantization is as it wants it."""
    for step in recipe.steps:
        if step.trains and step.fit.learning_rate > network.learning_rate:
            yield f"{step.name}.fit.learning_rate={network.learning_rate}"
        if step.technique == "quantization":
            yield from (f"{step.name}.{key}={value}" for key, value in network.quantization.items())


def main(argv: Sequence[str]) -> None:
    """Run the cells that are left, then print and write the table."""
    del argv
    with_data = [name for name, family in FAMILIES.items() if DATA_DIR.value or not isinstance(family, ZooNetwork)]
    families = FAMILY.value or with_data
    if missing := sorted(set(families) - set(with_data)):
        sys.exit(f"{', '.join(missing)} need prepared text or sound. Remedy: --data_dir.")
    results, text = Path(f"{OUT.value}.json"), Path(f"{OUT.value}.md")
    cells = matrix.read(results)
    for family, recipe in matrix.left_to_run(cells, families, RECIPE.value or matrix.RECIPES, again=AGAIN.value):
        print(f"{family}, {recipe}", file=sys.stderr, flush=True)
        cell = matrix.attempt(family, recipe, partial(fill, family, recipe))
        cells[family, recipe] = cell
        matrix.write(results, cells)
        for keras in (kd.keras, kd.keras_3):
            keras.backend.clear_session()
        gc.collect()
    lines = matrix.table(cells, list(FAMILIES))
    write_atomically(text, lines.encode())
    print(lines, end="")


if __name__ == "__main__":
    app.run(main)
