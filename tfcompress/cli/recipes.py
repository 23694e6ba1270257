"""`tfcompress recipes`: list the recipes that ship."""

from __future__ import annotations

from absl import flags

from tfcompress.cli.common import print_table


def define_flags(values: flags.FlagValues) -> None:
    """None of its own."""
    del values


def run(values: flags.FlagValues) -> None:
    """Print a line for each recipe."""
    del values
    from tfcompress.recipe import load_recipe, shipped

    rows = []
    for name in shipped():
        recipe = load_recipe(name)
        rows.append((name, " -> ".join(step.name for step in recipe.steps), recipe.description))
    print_table("Recipes: tfcompress compress --recipe=NAME", ("name", "steps", "what it is for"), rows, figures=False)
