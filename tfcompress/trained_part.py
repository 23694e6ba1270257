"""Training of a few of a model's weights: what compression cost is won back without moving the others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

from tfcompress import keras_door as kd
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.training import TrainedPart

Kind = Literal["kernel", "bias", "normalization", "added"]

_KINDS: dict[TrainedPart, frozenset[Kind]] = {
    "all": frozenset({"kernel", "bias", "normalization", "added"}),
    "added": frozenset({"added"}),
    "biases": frozenset({"added", "bias"}),
    "normalizations": frozenset({"added", "normalization"}),
    "biases_and_normalizations": frozenset({"added", "bias", "normalization"}),
}


@contextlib.contextmanager
def normalizations_at_rest(model: Any, part: TrainedPart | None) -> Iterator[None]:
    """While the block runs, normalizations that `part` leaves out normalize as in inference, and learn no statistics.

    Args:
        model: to be trained; compiled inside of the block.
        part: what is trained of it; None for all.
    """
    resting = [] if "normalization" in _KINDS[part or "all"] else _normalizations(model)
    resting = [layer for layer in resting if layer.trainable]
    for layer in resting:
        layer.trainable = False
    try:
        yield
    finally:
        for layer in resting:
            layer.trainable = True


def trained_variables(network: Any, model: Any, part: TrainedPart | None, where: str) -> list[Any]:
    """The variables of `network` that are trained, in its order.

    Args:
        network: what is fitted: `model`, or one of its layers and others (projections of a distillation), which are
            trained in any case.
        model: the model, with the wrappers that a technique has put around its layers.
        part: what is trained of it; None for all. What wrappers add (centroids, code words, adapters, step sizes) is
            trained in any case.
        where: the step's name, for the message.

    Raises:
        RecipeError: nothing is.
    """
    wanted = _KINDS[part or "all"]
    kinds = {variable.ref(): kind for variable, kind in _own(model)}
    chosen = [v for v in network.trainable_variables if kinds.get(v.ref(), "added") in wanted]
    if not chosen and network.trainable_variables:
        raise RecipeError(
            f"{where}.fit.train must leave something to train. Received: {part}, and the model has no such weights. "
            "Remedy: another part, or all."
        )
    return chosen


def lacks(model: Any, part: TrainedPart | None) -> bool:
    """Whether `model`, as it is, has no weight in `part`."""
    return _KINDS[part or "all"].isdisjoint(kind for _, kind in _own(model))


def train_only(optimizer: Any, variables: list[Any]) -> None:
    """Have `optimizer` move `variables` alone, whatever it is given to minimize by."""
    only, minimize = {variable.ref() for variable in variables}, optimizer.minimize

    def minimize_by_some(loss: Any, var_list: Any, tape: Any = None) -> Any:
        return minimize(loss, [variable for variable in var_list if variable.ref() in only], tape=tape)

    # Keras' training steps, and those of distillation, call it on the optimizer that they were compiled with.
    optimizer.minimize = minimize_by_some


def _normalizations(model: Any) -> list[Any]:
    return [layer for layer in model._flatten_layers() if isinstance(layer, _normalization_types())]


def _normalization_types() -> tuple[type, ...]:
    layers = kd.keras.layers
    return (layers.BatchNormalization, layers.LayerNormalization, layers.GroupNormalization)


def _own(model: Any) -> Iterator[tuple[Any, Kind]]:
    """The trainable variables of the layers of `model`, but for those that wrappers added, each with its kind."""
    for layer in model._flatten_layers():
        if isinstance(layer, kd.keras.layers.Wrapper):
            # tfmot's wrapper of quantization takes the kernel over from its layer.
            yield from ((variable, "kernel") for variable, *_ in getattr(layer, "_weight_vars", ()))
        elif isinstance(layer, _normalization_types()):
            yield from ((variable, "normalization") for variable in layer._trainable_weights)
        else:
            for variable in layer._trainable_weights:
                name = variable.name.split("/")[-1].split(":")[0]
                yield variable, "bias" if name == "bias" else "kernel"
