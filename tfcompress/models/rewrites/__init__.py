"""Exact rewrites of Functional and Sequential models: other layers, the same outputs in inference.

`OPENING` are the passes that a run always begins with; `ENABLING` those that make pruning, clustering and
quantization-aware training possible where they were not; `CALIBRATING` those that leave the weights as the file is to
hold them, for rounding them without training; `FASTER` those that are a choice for the shipped file; `CAPACITY` those
that give training more weights; `EXPORT` those that the converter needs. Each tuple is in the order of application.

Example:
    >>> done = rewrite(model, ENABLING)  # doctest: +SKIP
    >>> [change.layer for change in done.changes]  # doctest: +SKIP
    ['inner', 'bn_1']
"""

from tfcompress.models.rewrites._engine import Rewritten, rewrite
from tfcompress.models.rewrites._graph import takers_of_inputs
from tfcompress.models.rewrites._offers import Offer, offers
from tfcompress.models.rewrites.base import names_of

OPENING = names_of("opening")
ENABLING = names_of("enabling")
CALIBRATING = names_of("calibrating")
CAPACITY = names_of("capacity")
FASTER = names_of("faster")
EXPORT = names_of("export")

__all__ = [
    "CALIBRATING",
    "CAPACITY",
    "ENABLING",
    "EXPORT",
    "FASTER",
    "OPENING",
    "Offer",
    "Rewritten",
    "offers",
    "rewrite",
    "takers_of_inputs",
]
