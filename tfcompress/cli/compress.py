"""`tfcompress compress`: run a recipe."""

from __future__ import annotations

from absl import flags

from tfcompress.cli.common import TerminalReporter, define_model_and_data, define_recipe, define_strategy, print_table

RESUMES = True
"""Whether the command goes on where it was interrupted."""


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags."""
    define_model_and_data(values)
    define_recipe(values)
    define_strategy(values)
    flags.DEFINE_string(
        "out", None, "The run's folder. Default: tflite_models/<model>-<dataset>-<recipe>.", flag_values=values
    )
    flags.DEFINE_multi_string(
        "reuse",
        [],
        "Folder of an earlier run: leading steps that are the same there are not trained again. Repeatable.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "dry_run",
        False,
        "Print the recipe as it would run, with expected bytes and time.",
        flag_values=values,
    )
    flags.DEFINE_bool("allow_float", False, "Short for --set conversion.allow_float=true.", flag_values=values)
    flags.DEFINE_bool("c_array", False, "Short for --set conversion.c_array=true.", flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Compress, and print the evidence; or print the plan."""
    overrides = [
        *values["set"].value,
        *(f"conversion.{name}=true" for name in ("allow_float", "c_array") if values[name].value),
    ]
    # The recipe alone is checked first: a typo should not cost the seconds that TensorFlow takes to load.
    from tfcompress.recipe import load_recipe

    recipe = load_recipe(values.recipe, overrides)
    arguments = {
        "data_dir": values.data_dir,
        "seed": values.seed,
        "unsafe": values.unsafe,
    }
    if values.dry_run:
        from tfcompress.dry_run import dry_run

        with TerminalReporter() as reporter:
            plan = dry_run(values.model, values.dataset, recipe, reporter=reporter, **arguments)
        print(plan)
        return
    from tfcompress.card import figures
    from tfcompress.pipeline import compress

    options = arguments | {"out": values.out, "reuse": values.reuse, "strategy": values.strategy}
    with TerminalReporter() as reporter:
        result = compress(values.model, values.dataset, recipe, reporter=reporter, **options)
    if result is None:
        return
    evidence = result.evidence
    print_table(f"{result.artifact}", ("", "float", "artifact"), figures(evidence))
    if evidence.promises:
        rows = [(p.weight, f"{p.kind} {p.promised:g}", f"{p.found:.4g}", "kept") for p in evidence.promises]
        print_table("Promises, read back from the file", ("weight", "promised", "found", ""), rows)
