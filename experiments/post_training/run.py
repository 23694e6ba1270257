"""What calibration and corrections save without training, on files: one table a model.

    python experiments/post_training/run.py --model=resnet8 --trained=pretrainedResnet.h5 --data_dir=TFDS
    python experiments/post_training/run.py --model=mobilenet_v1 --data_dir=TFDS

Each row is a recipe; its shipped file is run on the validation and the test split of CIFAR-10. Validation ranks, test
reports. A row that is finished is not run again. A MobileNetV1 that is not given is trained first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import table
from absl import app, flags

from tfcompress.cli.common import TerminalReporter
from tfcompress.convert import litert
from tfcompress.convert.converter import float_tflite
from tfcompress.data import load_data
from tfcompress.data.dataset import Dataset
from tfcompress.evaluate.metric import score
from tfcompress.evaluate.prediction import predict
from tfcompress.pipeline import train
from tfcompress.preparation import Job, open_job
from tfcompress.vocabulary.errors import ConversionError

HERE = Path(__file__).parent
SEED = 0
OF_MODEL = {"resnet8": {"preprocessing": "raw"}, "mobilenet_v1": {}}
"""Of the recipes' `data` section: the MLPerf network is fed bytes, the other what its training wrote beside it."""

FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "resnet8", list(OF_MODEL), "The network; the MLPerf one for resnet8.")
flags.DEFINE_string("trained", None, "Its trained Keras file. Without it a network of the zoo is trained.")
flags.DEFINE_string("spec", "mobilenet_v1:width=0.5", "The network of the zoo that is trained.")
flags.DEFINE_integer("epochs", 40, "Epochs of that training.", lower_bound=1)
flags.DEFINE_string("data_dir", None, "Where TFDS has CIFAR-10 prepared.")
flags.DEFINE_integer("images", 0, "Images of each split to run a file on, its first; 0 for all.", lower_bound=0)
flags.DEFINE_integer("calibration_samples", 256, "Training images that ranges and corrections see.", lower_bound=1)
flags.DEFINE_integer("rounding_steps", 2000, "Of adaptive rounding, for each layer.", lower_bound=1)
flags.DEFINE_multi_enum("setting", None, list(table.SETTINGS), "A setting to run; repeatable. All when not given.")
flags.DEFINE_string("work", "tflite_models/post_training", "Folder of the training.")
flags.DEFINE_string("out", str(HERE), "Folder of the results, MODEL.json and MODEL.md.")


def main(argv: list[str]) -> None:
    """Make the rows that are left, writing the table after each."""
    if len(argv) > 1:
        raise app.UsageError(f"No arguments are expected beside flags. Received: {argv[1:]}")
    model = FLAGS.trained or trained()
    dataset = cut(load_data("cifar10", data_dir=FLAGS.data_dir, input_shape=(32, 32, 3), seed=SEED))
    path = Path(FLAGS.out) / f"{FLAGS.model}.json"
    result = table.read(path) or measured_float(model, dataset)
    if result.images != dataset.test.count:
        sys.exit(f"{path} was measured on {result.images} images, not {dataset.test.count}. Remedy: another --out.")
    for setting, correction in wanted():
        if result.row(setting, correction) is None:
            job = opened(model, dataset, steps(result, setting, correction))
            try:
                content = shipped(job)
            except ConversionError as error:
                print(f"{setting}, {correction}: {error}", file=sys.stderr, flush=True)
                continue
            row = table.Row(setting, correction, *accuracies(job, content), len(content))
            result = replace(result, rows=(*result.rows, row))
            table.write(path, result)
            print(row, file=sys.stderr, flush=True)
    print(table.text(result), end="")


def wanted() -> Iterator[tuple[str, str]]:
    """Setting and correction of every row, those first that others are compared with."""
    yield table.CONVERTER, table.MIN_MAX
    for setting in FLAGS.setting or table.SETTINGS:
        litert_rows = LITERT if litert.is_installed() else ()
        for correction in (table.MIN_MAX, *table.RANGES, *CORRECTIONS, table.TOGETHER, *litert_rows):
            yield setting, correction


CORRECTIONS: dict[str, dict[str, Any]] = {
    "weights by squared error": {"weight_ranges": "mse"},
    "equalization": {},
    "bias correction, empirical": {"bias_correction": "empirical"},
    "bias correction, analytic": {"bias_correction": "analytic"},
    "adaptive rounding": {"rounding": "adaptive"},
}
"""Corrections beyond activation ranges, each alone."""

LITERT: dict[str, dict[str, Any]] = {
    f"litert, {algorithm}": {"backend": "litert", "algorithm": algorithm}
    for algorithm in ("min_max", "octav", "mse", "gptq")
}
"""The LiteRT quantizer's files, where it is installed."""


def steps(result: table.Result, setting: str, correction: str) -> list[dict[str, Any]]:
    """The recipe's steps of one row."""
    if setting == table.CONVERTER:
        return [{"technique": "post_training"}]
    own = {**table.RANGES, **CORRECTIONS, **LITERT}.get(correction, {})
    if correction == table.TOGETHER:
        own = result.best_range(setting) | {
            "weight_ranges": "mse",
            "rounding": "adaptive",
            "bias_correction": "empirical",
        }
    if own.get("rounding") == "adaptive":
        own = own | {"rounding_steps": FLAGS.rounding_steps}
    step = {"technique": "post_training", **table.SETTINGS[setting], **own}
    if correction not in ("equalization", table.TOGETHER):
        return [step]
    # What is behind the ReLU6 of a MobileNet cannot be equalized.
    return [{"technique": "equalization", "relu6_as_relu": FLAGS.model == "mobilenet_v1"}, step]


def trained() -> Path:
    """The network of the zoo, trained on CIFAR-10; an interrupted training goes on."""
    recipe = {
        "data": {"batch_size": 64, "augment": {"flip": True, "crop": 4}},
        "train": {"epochs": FLAGS.epochs, "learning_rate": 2e-3},
        "steps": [{"technique": "post_training"}],
    }
    out = Path(FLAGS.work) / FLAGS.spec.replace(":", "-")
    return train(
        FLAGS.spec, "cifar10", recipe, data_dir=FLAGS.data_dir, seed=SEED, out=out, reporter=TerminalReporter()
    )


def cut(dataset: Dataset) -> Dataset:
    """`dataset` with as many images to evaluate on as the flag says."""
    if not FLAGS.images:
        return dataset
    few = {name: _first(getattr(dataset, name)) for name in ("validation", "test")}
    return replace(dataset, **few)


def _first(split: Any) -> Any:
    return replace(split, inputs=split.inputs[: FLAGS.images], targets=split.targets[: FLAGS.images])


def opened(model: Any, dataset: Dataset, steps: list[dict[str, Any]]) -> Job:
    """The recipe of `steps`, checked on model and data."""
    data = {**OF_MODEL[FLAGS.model], "calibration_samples": FLAGS.calibration_samples}
    return open_job(model, dataset, {"data": data, "steps": steps}, seed=SEED)


def shipped(job: Job) -> bytes:
    """The proven file of a recipe that trains nothing."""
    state = job.enabled.state
    for index, step in enumerate(job.recipe.steps, start=1):
        state = step.finish(step.prepare(state, job.plan_for(index, step)))
    return job.ship(state).content


def measured_float(model: Any, dataset: Dataset) -> table.Result:
    """The float file's accuracy, and no rows."""
    job = opened(model, dataset, [{"technique": "post_training"}])
    content = float_tflite(job.state.model, job.recipe.conversion)
    return table.Result(FLAGS.model, *accuracies(job, content), images=dataset.test.count)


def accuracies(job: Job, content: bytes) -> tuple[float, float]:
    """Of a file, on the validation and the test split."""
    found = []
    for split in (job.data.dataset.validation, job.data.dataset.test):
        outputs = predict(content, np.asarray(job.data.preprocessing.apply(split.inputs)))
        found.append(score(job.data.task, split.targets, outputs, from_logits=job.data.from_logits).value)
    return found[0], found[1]


if __name__ == "__main__":
    app.run(main)
