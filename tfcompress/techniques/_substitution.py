"""Layers that compute with other values than those of their variables, while they train."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from tfcompress import keras_door as kd


@contextlib.contextmanager
def computing_with(layer: Any, tensors: Mapping[str, Any]) -> Iterator[None]:
    """While the block runs, `layer` has `tensors`, by attribute, in the place of its variables."""
    # Past Keras' __setattr__, which would stop tracking the variables.
    attributes = vars(layer)
    variables = {name: attributes[name] for name in tensors}
    attributes.update(tensors)
    try:
        yield
    finally:
        attributes.update(variables)


class Substitution(kd.keras.layers.Wrapper):
    """A layer one of whose weights is computed from variables of this wrapper: a subclass says how in `effective`.

    The layer keeps its variables, in their order; the substituted one is not trained. When training is over, `stripped`
    gives the model without wrappers.

    Args:
        layer: a Keras layer that is built.
        attribute: of `layer`, which holds the weight.
        prefix: of the wrapper's name, before that of the layer.
    """

    def __init__(self, layer: Any, attribute: str, prefix: str) -> None:
        super().__init__(layer, name=f"{prefix}_{layer.name}")
        self.attribute = attribute

    @property
    def variable(self) -> Any:
        """The variable of the layer that something else stands for."""
        return getattr(self.layer, self.attribute)

    def effective(self) -> Any:
        """What the layer computes with: a tensor of the variable's shape."""
        raise NotImplementedError

    def call(self, inputs: Any) -> Any:
        """The layer's output."""
        with computing_with(self.layer, {self.attribute: self.effective()}):
            return self.layer.call(inputs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The layer's own, so that an Embedding masks as before."""
        return self.layer.compute_mask(inputs, mask)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The layer's own."""
        return self.layer.compute_output_shape(input_shape)

    @property
    def trainable_weights(self) -> list[Any]:
        """The wrapper's own and the layer's but the substituted one; none when the layer is frozen."""
        rest = [weight for weight in self.layer.trainable_weights if weight is not self.variable]
        return [*self._trainable_weights, *rest] if self.layer.trainable else []

    @property
    def non_trainable_weights(self) -> list[Any]:
        """All that do not train."""
        trained = {id(weight) for weight in self.trainable_weights}
        own = [*self._trainable_weights, *self._non_trainable_weights, *self.layer.weights]
        return [weight for weight in own if id(weight) not in trained]


def stripped(model: Any) -> Any:
    """A copy of `model` without wrappers, with the weights that its layers compute with; `model` stays as it is."""
    from tfcompress.models.loading import clone

    wrappers = [layer for layer in model.layers if isinstance(layer, Substitution)]
    shared = kd.keras.models.clone_model(
        model, clone_function=lambda layer: layer.layer if isinstance(layer, Substitution) else layer
    )
    # Cloned once more, for the first copy shares its layers with the model that was trained.
    copy = clone(shared)
    for wrapper in wrappers:
        getattr(copy.get_layer(wrapper.layer.name), wrapper.attribute).assign(wrapper.effective())
    return copy
