"""`tfcompress check`: what can be done to a model, and whether a recipe can be carried out on it."""

from __future__ import annotations

import sys

from absl import flags

from tfcompress.cli.common import define_model_and_data, define_overrides, print_table

POSITIONAL = "model"
"""The flag that may be given without its name, first."""


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags."""
    define_model_and_data(values, needs_data=False)
    flags.DEFINE_string(
        "recipe", None, "A recipe to check it for; exit code 1 when it cannot be carried out.", flag_values=values
    )
    define_overrides(values)


def run(values: flags.FlagValues) -> int:
    """Print the report; 1 when the model, or the recipe on it, is refused, 2 for `--set` without `--recipe`."""
    if values["set"].value and not values.recipe:
        print("tfcompress check: --set overrides values of a recipe. Remedy: name it with --recipe.", file=sys.stderr)
        return 2
    # The recipe alone is checked first: a typo should not cost the seconds that TensorFlow takes to load.
    from tfcompress.recipe import load_recipe

    recipe = load_recipe(values.recipe, values["set"].value) if values.recipe else None
    from tfcompress.feasibility import lines, preflight

    report = preflight(
        values.model,
        recipe,
        data=values.dataset,
        data_dir=values.data_dir,
        seed=values.seed,
        unsafe=values.unsafe,
    )
    if report.layers:
        print_table(values.model, ("layer", "class", *report.columns), report.rows, figures=False)
    for line in (*report.converted, *lines(report.findings)):
        print(line)
    problems = report.problems(recipe) if recipe else report.of_model
    for problem in problems:
        print(f"tfcompress: {problem}", file=sys.stderr)
    if recipe and not problems:
        print(f"The recipe {recipe.name} can be carried out.")
    return 1 if problems else 0
