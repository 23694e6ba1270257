"""Which residual blocks to remove: one after the other, the cheapest first. Plain numbers, without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

Score = Callable[[frozenset[str]], float]
"""Takes the names of the blocks that are removed, gives how badly the model does without them."""
Left = Callable[[Collection[str]], Sequence[str]]
"""Takes the names of the blocks that are removed, gives those of the others."""


def cheapest(count: int, left: Left, score: Score) -> tuple[str, ...]:
    """The names of `count` blocks, each the one without which the model does best once those before it are gone.

    Fewer where there are no more; of equal ones the first.

    Args:
        count: of blocks to remove.
        left: which there still are: a block within another goes with it.
        score: of the model without some.
    """
    removed: tuple[str, ...] = ()
    while len(removed) < count and (candidates := left(removed)):
        removed += (min(candidates, key=lambda name: score(frozenset((*removed, name)))),)
    return removed


def cheapest_within(
    bound: float, left: Left, score: Score, figure: Callable[[Collection[str]], float], gains: Mapping[str, float]
) -> tuple[str, ...] | None:
    """The names of blocks without which a figure is within `bound`, each the cheapest for what it gains.

    The next to go is the one that costs least by what the figure gains; one that costs nothing goes before. At the
    end, those that turned out not to be needed stay, the last chosen first.

    Args:
        bound: not to be exceeded.
        left, score: see `cheapest`.
        figure: of the model without some.
        gains: by name, what the figure falls by without that block alone; blocks without a gain stay.

    Returns:
        None where the figure exceeds `bound` without all blocks that gain.
    """
    removed: tuple[str, ...] = ()
    now = score(frozenset())
    while figure(removed) > bound:
        costs = {name: score(frozenset((*removed, name))) - now for name in left(removed) if gains[name] > 0}
        if not costs:
            return None
        chosen = min(costs, key=lambda name: _price(costs[name], gains[name]))
        removed, now = (*removed, chosen), now + costs[chosen]
    for name in reversed(removed):
        others = tuple(other for other in removed if other != name)
        if figure(others) <= bound:
            removed = others
    return removed


def _price(cost: float, gain: float) -> tuple[float, float]:
    """What orders blocks: cost by gain; without which the model does better, the more of both the sooner."""
    return (cost / gain if cost > 0 else cost * gain, -gain)
