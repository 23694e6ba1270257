"""Which layers are to have 16-bit activations for the loss to stay within a bound, measured on real files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from pydantic import Field

from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.schema import Schema


class LossBound(Schema):
    """How much worse the file may be than the float model.

    Example:
        >>> LossBound(loss_increase=0.01).loss_increase
        0.01
    """

    loss_increase: float = Field(gt=0)
    """By how much the loss on the calibration samples may rise. Without labels it is the divergence from the float
    model's outputs."""


def fewest_within(
    bound: LossBound, layers: Sequence[str], rise: Callable[[tuple[str, ...]], float], where: str
) -> list[str]:
    """Layers that keep the loss within `bound`, the most sensitive ones, as few as that order needs.

    A layer is as sensitive as the loss falls by when it alone has 16 bits. Layers are added in that order, the file
    measured again each time: at most twice as many measurements as there are layers, and two.

    Args:
        bound: on what `rise` gives.
        layers: by name, that can have 16 bits.
        rise: what the loss rises by, of the file in which these layers have 16 bits.
        where: the place in the recipe, for messages.

    Returns:
        Names in the order of `layers`; none where 8 bits will do.

    Raises:
        RecipeError: 16 bits in all of them are not enough; with what the loss rises by then.

    Example:
        >>> costs = {"a": 0.1, "b": 0.4, "c": 0.2}
        >>> fewest_within(LossBound(loss_increase=0.35), list(costs), lambda wide: sum(
        ...     cost for layer, cost in costs.items() if layer not in wide), "here")
        ['b']
    """
    rise = cache(rise)
    if rise(()) <= bound.loss_increase:
        return []
    if rise(tuple(layers)) > bound.loss_increase:
        raise RecipeError(
            f"{where}.loss_increase must be within reach. Received: {bound.loss_increase:g}; with 16 bits in "
            f"{', '.join(layers) or 'no layer'} the loss rises by {rise(tuple(layers)):.4g}, with 8 everywhere by "
            f"{rise(()):.4g}. Remedy: a bound above that, or weight_bits: 8 where it is 4."
        )
    alone = {layer: rise((layer,)) for layer in layers}
    order = sorted(layers, key=alone.__getitem__)
    for count in range(1, len(order)):
        wide = tuple(layer for layer in layers if layer in order[:count])
        if rise(wide) <= bound.loss_increase:
            return list(wide)
    return list(layers)
