"""`tfcompress train`: train a network of the zoo, or go on training a model."""

from __future__ import annotations

from absl import flags

from tfcompress.cli.common import TerminalReporter, define_model_and_data, define_recipe, define_strategy

RESUMES = True
"""Whether the command goes on where it was interrupted."""


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags."""
    define_model_and_data(values)
    define_recipe(values, default="ptq_int8")
    define_strategy(values)
    flags.DEFINE_string(
        "out", None, "The run's folder. Default: tflite_models/<model>-<dataset>-<recipe>-train.", flag_values=values
    )


def run(values: flags.FlagValues) -> None:
    """Train as the recipe's `task`, `data` and `train` say, and save `model.keras`."""
    from tfcompress.recipe import load_recipe

    recipe = load_recipe(values.recipe, values["set"].value)
    from tfcompress.pipeline import train

    with TerminalReporter() as reporter:
        trained = train(
            values.model,
            values.dataset,
            recipe,
            data_dir=values.data_dir,
            out=values.out,
            seed=values.seed,
            strategy=values.strategy,
            unsafe=values.unsafe,
            reporter=reporter,
        )
    if trained is not None:
        print(trained)
