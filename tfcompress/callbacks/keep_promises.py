"""Training that leaves alone what earlier steps promised of the weights that no wrapper looks after."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from tfcompress import keras_door as kd
from tfcompress.vocabulary.state import State


def keep_promises(state: State) -> list[Any]:
    """The Keras callback that keeps the promises of plain layers while the model of `state` trains; none is needed
    where there are none.

    Wrappers keep those of the layers they wrap. A layer that a step leaves as it is - excluded from clustering, or
    without support for quantization-aware training - trains freely, and would lose its zeros and shared values: after
    every batch its zeros are zero again, and weights of few values have the ones they had.

    Args:
        state: prepared for training, its weights as the earlier steps left them.

    Example:
        >>> model.fit(x, y, callbacks=keep_promises(state))  # doctest: +SKIP
    """
    masks, values = {}, {}
    for promise in state.promises:
        # Training moves weights, not their number.
        if promise.kind == "channels":
            continue
        layer, _, attribute = state.lineage.place(promise.weight).rpartition("/")
        if layer not in {own.name for own in state.model.layers}:
            continue
        variable = attrgetter(attribute)(state.model.get_layer(layer))
        if promise.kind in ("zeros", "group_zeros"):
            masks[variable.ref()] = kd.tf.cast(variable != 0, variable.dtype)
        else:
            values[variable.ref()] = kd.tf.identity(variable)
    if not masks and not values:
        return []

    def again(*_: Any) -> None:
        for reference, mask in masks.items():
            variable = reference.deref()
            variable.assign(variable * mask)
        for reference, value in values.items():
            reference.deref().assign(value)

    return [kd.keras.callbacks.LambdaCallback(on_train_batch_end=again)]
