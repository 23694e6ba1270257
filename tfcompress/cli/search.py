"""`tfcompress search`: find the Pareto front of a recipe with holes."""

from __future__ import annotations

from absl import flags

from tfcompress.cli.common import TerminalReporter, define_model_and_data, define_recipe, print_table

RESUMES = True
"""Whether the command goes on where it was interrupted."""

BOUNDS = {
    "max_drop": ("drop_points", "Most that the metric may be worse than the float file's, points."),
    "max_bytes": ("bytes", "Most bytes of the file."),
    "max_deflated_bytes": ("deflated_bytes", "Most bytes of the file after DEFLATE."),
    "max_latency_ratio": ("latency_ratio", "Most latency, as a share of the float file's on this machine."),
    "max_arena_bytes": ("arena_bytes", "Most bytes of activations."),
    "min_accuracy": ("accuracy", "Least metric."),
}
"""Flags of bounds, each with its measure."""


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags."""
    define_model_and_data(values)
    define_recipe(values, default="bits_and_sparsity")
    flags.DEFINE_list(
        "objectives",
        ["deflated_bytes", "accuracy"],
        "Measures to make as good as can be, the most important first: accuracy, drop_points, bytes, deflated_bytes, "
        "latency_ratio, arena_bytes, macs, bit_operations.",
        flag_values=values,
    )
    for name, (_, words) in BOUNDS.items():
        flags.DEFINE_float(name, None, words, flag_values=values)
    flags.DEFINE_integer("max_trials", 30, "Filled recipes to run.", flag_values=values, lower_bound=1)
    _define_executor(values)
    flags.DEFINE_string(
        "oracle", "pareto", "Who proposes: pareto, random, bayesian, hyperband or grid.", flag_values=values
    )
    flags.DEFINE_string(
        "sensitivity",
        None,
        "The folder of a sensitivity analysis, which tells the oracle pareto what to try first.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "out",
        None,
        "The search's folder. Default: tflite_models/<model>-<dataset>-<recipe>-search.",
        flag_values=values,
    )


def _define_executor(values: flags.FlagValues) -> None:
    flags.DEFINE_integer(
        "workers",
        None,
        "Trials at a time, each a process. Default: 1, on Ray as many as the cluster has room for.",
        flag_values=values,
        lower_bound=1,
    )
    flags.DEFINE_enum(
        "executor", "local", ["local", "ray"], "Processes of this machine, or a Ray cluster.", flag_values=values
    )
    flags.DEFINE_string(
        "ray_address",
        None,
        "host:port of the Ray cluster that this machine is part of, or ray://host:port of any. Default: found here.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "cpus_per_trial", None, "CPUs that a trial asks Ray for. Default: 1.", flag_values=values, lower_bound=1
    )
    flags.DEFINE_float("gpus_per_trial", None, "GPUs, also a share of one. Default: 0.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    """Search, and print the front; 1 when no file is within the bounds."""
    from tfcompress.tuning.search import search

    with TerminalReporter() as reporter:
        found = search(
            values.model,
            values.dataset,
            values.recipe,
            objectives=values.objectives,
            bounds={
                measure: values[name].value for name, (measure, _) in BOUNDS.items() if values[name].value is not None
            },
            max_trials=values.max_trials,
            oracle=values.oracle,
            workers=values.workers,
            executor=values.executor,
            ray_address=values.ray_address,
            cpus_per_trial=values.cpus_per_trial,
            gpus_per_trial=values.gpus_per_trial,
            sensitivity=values.sensitivity,
            out=values.out,
            overrides=values["set"].value,
            data_dir=values.data_dir,
            seed=values.seed,
            unsafe=values.unsafe,
            reporter=reporter,
        )
    shown = list(dict.fromkeys([*found.goal.objectives, *found.goal.bounds]))
    rows = [
        (
            str(result.trial.number) + (" (best)" if result == found.best else ""),
            *(f"{result.measured[name]:,.6g}" for name in shown),
            f"{result.trial.tested['accuracy']:.4f}" if "accuracy" in result.trial.tested else "",
            result.trial.reason,
        )
        for result in found.front
    ]
    print_table(f"{found.folder}: the front", ("trial", *shown, "accuracy on the test split", "bounds"), rows)
    if found.best is None:
        print("Every trial failed; search.json has the reasons.")
        return 1
    print("\n".join(f"{name}: {value}" for name, value in found.best.values.items()))
    print(found.best.artifact)
    if not found.within_bounds:
        print(f"No file is within the bounds. The nearest {found.best.trial.reason}.")
        return 1
    return 0
