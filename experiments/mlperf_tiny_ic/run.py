"""MLPerf Tiny image classification: `python experiments/mlperf_tiny_ic/run.py --models=FOLDER --data_dir=TFDS`.

Makes a smaller, faster network of the benchmark's `pretrainedResnet.h5`, taught by its large one, and measures the file
beside the official int8 file on the same images and in the same seconds. A run that is finished is not run again; an
interrupted one goes on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import table
from absl import app, flags

from tfcompress.atomic import write_atomically
from tfcompress.cli.common import TerminalReporter
from tfcompress.data import load_data
from tfcompress.evaluate import measure_latency, predict
from tfcompress.pipeline import Result, compress
from tfcompress.run_folder import RECORD_FILE
from tfcompress.vocabulary.preprocessing import NAMED

HERE = Path(__file__).parent
FLOAT, OFFICIAL, LARGE = "pretrainedResnet.h5", "pretrainedResnet_quant.tflite", "pretrainedResnet_large_float.tflite"

MODELS = flags.DEFINE_string("models", None, f"Folder of {FLOAT}, {OFFICIAL} and {LARGE}.", required=True)
RECIPE = flags.DEFINE_multi_enum("recipe", list(table.GOALS), list(table.GOALS), "A recipe to run; repeatable.")
SEED = flags.DEFINE_multi_integer("seed", [0], "Of a run; repeatable.", lower_bound=0)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS keeps cifar10.")
WORK = flags.DEFINE_string("work", "tflite_models/mlperf_tiny_ic", "Folder of the runs.")
OUT = flags.DEFINE_string("out", str(HERE / "result"), "Path without extension of the results, .json and .md.")
LATENCY_SECONDS = flags.DEFINE_float("latency_seconds", 20.0, "Of timing the two files in turn.", lower_bound=0.01)


def made(recipe: str, seed: int) -> Result:
    """The run of `recipe` with `seed`.

    What the teacher said of the same changed images in the runs of other recipes is taken over from these.
    """
    models, work = Path(MODELS.value), Path(WORK.value)
    out = work / f"{recipe}-{seed}"
    others = [work / f"{other}-{seed}" for other in table.GOALS if other != recipe]
    return compress(
        models / FLOAT,
        "cifar10",
        HERE / f"{recipe}.yaml",
        overrides=[f"taught.fit.distillation.teacher={json.dumps([str(models / LARGE), 'float'])}"],
        data_dir=DATA_DIR.value,
        out=out,
        reuse=[other for other in others if (other / RECORD_FILE).exists()],
        seed=seed,
        reporter=TerminalReporter(),
    )


def measured(recipe: str, seed: int, result: Result) -> table.Run:
    """The artifact of `result` beside the official file."""
    files = {"official": Path(MODELS.value) / OFFICIAL, "artifact": result.artifact}
    test = load_data("cifar10", data_dir=DATA_DIR.value, input_shape=(32, 32, 3), seed=seed).test
    inputs = NAMED["raw"].apply(test.inputs)
    right = {name: predict(path, inputs).argmax(-1) == np.ravel(test.targets) for name, path in files.items()}
    difference, interval = table.paired(right["artifact"], right["official"])
    evidence = result.evidence
    return table.Run(
        recipe=recipe,
        seed=seed,
        accuracy=evidence.metric.artifact,
        standard_error=evidence.metric.standard_error,
        official_accuracy=float(right["official"].mean()),
        difference_points=difference,
        interval_points=interval,
        images=test.count,
        bytes=evidence.artifact.bytes,
        deflated_bytes=evidence.artifact.deflated_bytes,
        latency_ratio=measure_latency(files, budget_s=LATENCY_SECONDS.value).ratio_to("official")["artifact"],
        kept=all(promise.kept for promise in evidence.promises),
    )


def main(argv: Sequence[str]) -> None:
    """Make the runs that are left, then print and write the table."""
    del argv
    results = Path(f"{OUT.value}.json")
    runs = table.read(results)
    for recipe in RECIPE.value:
        for seed in SEED.value:
            if (recipe, seed) not in runs:
                runs[recipe, seed] = measured(recipe, seed, made(recipe, seed))
                table.write(results, runs)
    lines = table.text(list(runs.values()))
    write_atomically(Path(f"{OUT.value}.md"), lines.encode())
    print(lines, end="")


if __name__ == "__main__":
    app.run(main)
