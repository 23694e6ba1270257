"""Ranks by what each costs in outputs and gains in size: measured one layer at a time, then chosen greedily."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.loading import clone
from tfcompress.techniques._factorable import Choice, CountName, Factorable
from tfcompress.techniques._factorization import composed

_ENERGIES = (0.99, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
_SAMPLES = 64
Step = tuple[float, int, Choice]
"""The error of the model's outputs, what the layers in the place of one cost, and how it is factored."""


def measured_steps(
    model: Any, layers: Sequence[Factorable], multiple_of: int, count: CountName, samples: np.ndarray
) -> dict[str, list[Step]]:
    """For every layer the ways to factor it, from the most energy to the least, and what each does to the outputs.

    The error is the mean squared difference of the model's outputs with this one layer factored from those with none,
    over at most 64 samples: a sum over layers of such errors foresees that of all together while they are small.

    Args:
        model: it is not touched.
        layers: of it.
        multiple_of: of the ranks.
        count: what a step is to gain.
        samples: inputs of the model, `[n, ...]`.
    """
    model, inputs = clone(model), kd.tf.constant(samples[:_SAMPLES])
    outputs = kd.tf.function(lambda: kd.tf.nest.flatten(model(inputs, training=False)))
    whole = [output.numpy() for output in outputs()]

    def error(layer: Factorable, choice: Choice) -> float:
        kernel = model.get_layer(layer.name).kernel
        before = kernel.numpy()
        kernel.assign(composed(layer.ways[choice.method].factors(*choice.ranks).kernels).reshape(before.shape))
        changed = [output.numpy() for output in outputs()]
        kernel.assign(before)
        return float(sum(np.square(new - old).mean() for new, old in zip(changed, whole, strict=True)))

    return {
        layer.name: [
            (error(layer, choice), int(layer.cost(count, *choice)), choice)
            for choice in _choices(layer, multiple_of, count)
        ]
        for layer in layers
    }


def _choices(layer: Factorable, multiple_of: int, count: CountName) -> Iterator[Choice]:
    found = (layer.at_energy(energy, multiple_of, count) for energy in _ENERGIES)
    yield from dict.fromkeys(choice for choice in found if choice is not None)


def greedy(
    whole: Mapping[str, int], steps: Mapping[str, Sequence[Step]], met: Callable[[Mapping[str, Choice]], bool]
) -> dict[str, Choice]:
    """Choices that meet a bound: again and again the step of any layer with the least added error for what it gains.

    Args:
        whole: what each layer costs, by name.
        steps: by layer.
        met: whether the bound is met with these choices.

    Returns:
        How each layer is factored; those left whole are missing. Where no step is left, the bound may not be met.

    Example:
        >>> steps = {"a": [(0.1, 50, Choice("svd", (8,)))], "b": [(0.4, 50, Choice("svd", (8,)))]}
        >>> greedy({"a": 100, "b": 100}, steps, lambda chosen: len(chosen) == 1)
        {'a': Choice(method='svd', ranks=(8,))}
    """
    now: dict[str, Step] = {}
    while not met({name: choice for name, (_, _, choice) in now.items()}):
        offers = []
        for name, own in steps.items():
            error, cost, _ = now.get(name, (0.0, whole[name], None))
            offers += [((step[0] - error) / (cost - step[1]), name, step) for step in own if step[1] < cost]
        if not offers:
            break
        _, name, step = min(offers, key=lambda offer: offer[0])
        now[name] = step
    return {name: choice for name, (_, _, choice) in now.items()}
