"""`tfcompress evaluate`: measure .tflite files."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from absl import flags

from tfcompress.cli.common import TerminalReporter, print_table
from tfcompress.vocabulary.errors import DataError

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
    flags.DEFINE_string("preprocessing", None, "raw, unit or signed: what is fed. Needed with --dataset.", **define)
    flags.DEFINE_string("metric", "accuracy", "Keras name of the metric.", **define)
    flags.DEFINE_enum("kernels", "xnnpack", _KERNELS, "Which kernels run.", **define)
    flags.DEFINE_integer("threads", 1, "Threads of the latency measurement.", lower_bound=1, **define)
    flags.DEFINE_float("latency_seconds", 3.0, "Time for the latency measurement.", lower_bound=0.01, **define)
    flags.DEFINE_string("json", None, "Also write the figures to this file.", **define)
    flags.DEFINE_integer("seed", 0, "Of a test split that has to be cut off.", lower_bound=0, **define)


def run(values: flags.FlagValues) -> None:
    """Measure every file and print one table."""
    from tfcompress.evaluate import delegation, io_types, measure_latency

    models = {path: Path(path) for path in values.model}
    shapes = {name: io_types(path).input.shape for name, path in models.items()}
    scores = _scores(values, models, next(iter(shapes.values()))) if values.dataset else {}
    report = measure_latency(
        models, threads=values.threads, budget_s=values.latency_seconds, kernels=values.kernels, seed=values.seed
    )
    ratios, latencies = report.ratio_to(values.model[0]), report.latencies
    figures: list[dict[str, Any]] = []
    for name, path in models.items():
        content, taken = path.read_bytes(), delegation(path)
        figures.append(
            {
                "model": name,
                **scores.get(name, {}),
                "bytes": len(content),
                "deflated_bytes": len(zlib.compress(content, 9)),
                "latency_ms_median": latencies[name].median_ms,
                "latency_ms_p95": latencies[name].p95_ms,
                "latency_ratio": ratios[name],
                "delegated_operators": taken.delegated,
                "operators": taken.total,
            }
        )
    rows = [(key.replace("_", " "), *(_shown(row[key]) for row in figures)) for key in figures[0] if key != "model"]
    print_table(f"{values.kernels} kernels, {values.threads} thread(s)", ("", *models), rows)
    if values.json:
        from tfcompress.run_folder import write_atomically

        write_atomically(Path(values.json), (json.dumps(figures, indent=2) + "\n").encode())


def _scores(values: flags.FlagValues, models: dict[str, Path], shape: tuple[int, ...]) -> dict[str, dict[str, float]]:
    from tfcompress.data import load_data
    from tfcompress.data.preprocessing import NAMED
    from tfcompress.data.settings import DataSettings
    from tfcompress.evaluate import predict, score
    from tfcompress.vocabulary.training import Task

    if values.preprocessing not in NAMED:
        raise DataError(
            f"With --dataset, --preprocessing must say what the model is fed: {', '.join(NAMED)}. "
            f"Received: {values.preprocessing}."
        )
    reporter = TerminalReporter()
    reporter.message("loading data")
    dataset = load_data(
        values.dataset, data_dir=values.data_dir, settings=DataSettings(), input_shape=shape[1:], seed=values.seed
    )
    inputs = NAMED[values.preprocessing].apply(dataset.test.inputs)
    found = {}
    for name, path in models.items():
        result = score(Task(metric=values.metric), dataset.test.targets, predict(path, inputs, kernels=values.kernels))
        found[name] = {result.name: result.value, "standard_error": result.standard_error}
    return found


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
