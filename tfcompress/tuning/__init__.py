"""The search: a recipe with holes, filled, run and measured until the front of the best files is known."""
