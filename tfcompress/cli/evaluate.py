"""`tfcompress evaluate`: measure .tflite files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from tfcompress.cli.common import TerminalReporter, print_table
from tfcompress.vocabulary.errors import DataError

if TYPE_CHECKING:
    from tfcompress.data.dataset import Dataset
    from tfcompress.evaluate import IoTypes

_KERNELS = ("xnnpack", "builtin", "reference")


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags."""
    define = {"flag_values": values}
    flags.DEFINE_multi_string(
        "model",
        None,
        "A .tflite file. Repeatable: latencies are interleaved, and ratios are to the first.",
        required=True,
        **define,
    )
    flags.DEFINE_string("dataset", None, "Whose test split gives the metric; without it there is no metric.", **define)
    flags.DEFINE_string("data_dir", None, "Where TFDS keeps prepared data sets.", **define)
    flags.DEFINE_string(
        "preprocessing",
        None,
        "What is fed, as in a recipe: raw, unit, signed, '{mean: [...], std: [...]}'. Needed with --dataset.",
        **define,
    )
    flags.DEFINE_string("metric", "accuracy", "Keras name of the metric.", **define)
    flags.DEFINE_string(
        "loss",
        None,
        "Keras name of the loss that the models were trained with: of logits a metric is computed as of the "
        "probabilities they stand for. Default: the cross-entropy that goes with --metric, if any.",
        **define,
    )
    flags.DEFINE_enum("kernels", "xnnpack", _KERNELS, "Which kernels run.", **define)
    flags.DEFINE_multi_integer("threads", [1], "Threads of a latency measurement. Repeatable.", lower_bound=1, **define)
    flags.DEFINE_float(
        "latency_seconds", 3.0, "Time for the latency measurement, for each --threads.", lower_bound=0.01, **define
    )
    flags.DEFINE_string("json", None, "Also write the figures to this file.", **define)
    flags.DEFINE_integer("seed", 0, "Of a test split that has to be cut off.", lower_bound=0, **define)


def run(values: flags.FlagValues) -> None:
    """Measure every file and print one table."""
    from tfcompress.evaluate import delegation, io_types

    models = {path: Path(path) for path in values.model}
    types = {name: io_types(path) for name, path in models.items()}
    with TerminalReporter() as reporter:
        scores = _scores(values, models, types, reporter) if values.dataset else {}
        latencies = _latencies(values, models, reporter)
    figures: list[dict[str, Any]] = []
    for name, path in models.items():
        content, taken = path.read_bytes(), delegation(path)
        figures.append(
            {
                "model": name,
                **scores.get(name, {}),
                "bytes": len(content),
                "deflated_bytes": len(zlib.compress(content, 9)),
                "latency": latencies[name],
                "delegated_operators": taken.delegated,
                "operators": taken.total,
            }
        )
    columns = [_rows(row) for row in figures]
    labels = dict.fromkeys(label for column in columns for label in column)
    rows = [(label, *(column.get(label, "") for column in columns)) for label in labels]
    print_table(f"{values.kernels} kernels", ("", *models), rows)
    if values.json:
        from tfcompress.atomic import write_atomically

        write_atomically(Path(values.json), (json.dumps(figures, indent=2) + "\n").encode())


def _scores(
    values: flags.FlagValues, models: Mapping[str, Path], types: Mapping[str, IoTypes], reporter: TerminalReporter
) -> dict[str, dict[str, float]]:
    """Each model's metric on the test split, with its standard error."""
    from tfcompress.data import load_data
    from tfcompress.data.settings import DataSettings
    from tfcompress.evaluate import loss_spoken_of, predict, score, takes_logits
    from tfcompress.preprocessing_file import parse_preprocessing
    from tfcompress.vocabulary.training import Task

    if values.preprocessing is None:
        raise DataError(
            "With --dataset, --preprocessing must say what the models are fed, as data.preprocessing of a recipe does. "
            "Remedy: what the model's card says, e.g. --preprocessing=unit."
        )
    preprocessing = parse_preprocessing("--preprocessing", values.preprocessing)
    reporter.message("Loading data")
    shape = next(iter(types.values())).input.shape[1:]
    dataset = load_data(
        values.dataset, data_dir=values.data_dir, settings=DataSettings(), input_shape=_opened(shape), seed=values.seed
    )
    _check_data(dataset, types)
    inputs = preprocessing.apply(dataset.test.inputs)
    found = {}
    for name, path in models.items():
        outputs = predict(path, inputs, kernels=values.kernels, progress=partial(reporter.progress, f"metric, {name}"))
        columns = outputs.shape[-1] if outputs.ndim > 1 else 1
        task = Task(loss=values.loss or loss_spoken_of(values.metric, columns), metric=values.metric)
        from_logits = takes_logits(task, outputs, output_step=types[name].output.scale)
        result = score(task, dataset.test.targets, outputs, from_logits=from_logits)
        found[name] = {result.name: result.value, "standard_error": result.standard_error}
    return found


def _check_data(dataset: Dataset, types: Mapping[str, IoTypes]) -> None:
    """Refuse data that cannot measure one of the models, naming which.

    Raises:
        DataError: there are no labels, or data and models do not fit.
    """
    from tfcompress.data.sources import check_fits

    if dataset.test.targets is None:
        raise DataError(
            f"A metric needs labels, and {dataset.name} has none. "
            "Remedy: labelled data, or without --dataset size and latency alone."
        )
    problems: dict[str, list[str]] = {}
    for name, ends in types.items():
        columns = ends.output.shape[-1] if len(ends.output.shape) > 1 else 1
        # One column answers yes or no, or with a number: labels are no indices into it.
        classes = columns if dataset.classes and columns > 1 else None
        try:
            check_fits(dataset, _opened(ends.input.shape[1:]), classes)
        except DataError as error:
            problems.setdefault(str(error), []).append(name)
    if problems:
        raise DataError("\n".join(f"{', '.join(names)}: {problem}" for problem, names in problems.items()))


def _opened(shape: tuple[int, ...]) -> tuple[int | None, ...]:
    """A .tflite file's shape with None for the sizes that it leaves open, as Keras writes them."""
    return tuple(None if size < 0 else size for size in shape)


def _latencies(
    values: flags.FlagValues, models: Mapping[str, Path], reporter: TerminalReporter
) -> dict[str, dict[str, dict[str, float]]]:
    """Each model's latency at each number of threads; ratios are to the first model's."""
    from tfcompress.evaluate import measure_latency

    reporter.message("Measuring latency")
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in models}
    for threads in dict.fromkeys(values.threads):
        report = measure_latency(
            models,
            threads=threads,
            budget_s=values.latency_seconds,
            kernels=values.kernels,
            seed=values.seed,
            progress=partial(reporter.progress, f"latency, {threads} thread(s)"),
        )
        ratios = report.ratio_to(values.model[0])
        for name, latency in report.latencies.items():
            found[name][str(threads)] = {
                "median_ms": latency.median_ms,
                "p95_ms": latency.p95_ms,
                "ratio": ratios[name],
            }
    reporter.message("Measured")
    return found


def _rows(figures: Mapping[str, Any]) -> dict[str, str]:
    """One model's figures by the labels of their rows."""
    rows = {}
    for key, value in figures.items():
        if key == "latency":
            for threads, parts in value.items():
                rows |= {f"{part.replace('_', ' ')}, {threads} thread(s)": _shown(parts[part]) for part in parts}
        elif key != "model":
            rows[key.replace("_", " ")] = _shown(value)
    return rows


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
