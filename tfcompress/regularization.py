"""Penalties on the kernels of a model, as part of the training of any step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfcompress import keras_door as kd
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.regularization import Regularization

_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel")


def regularized(network: Any, model: Any, settings: Regularization, *, where: str) -> Any:
    """A network that is trained like `network`, with the penalty in its loss; its layers are the same.

    Args:
        network: what is to be fitted: `model`, or a network of its layers that has a training step of its own.
        model: whose kernels are drawn towards zero; it keeps nothing of the penalty.
        settings: which penalty.
        where: the step's name, for the message.

    Raises:
        RecipeError: nothing in `model` that is trained has a kernel.
    """
    kernels = list(_trained_kernels(model))
    if not kernels:
        raise RecipeError(
            f"{where}: regularization is of trained kernels, and the model has none. Remedy: leave it out."
        )
    if network is model:
        network = kd.keras.Model(inputs=model.inputs, outputs=model.output, name=model.name)
    network.add_loss(lambda: settings.strength * kd.tf.add_n([_PENALTIES[settings.kind](*own) for own in kernels]))
    return network


def _trained_kernels(model: Any) -> Iterator[tuple[Any, tuple[int, ...]]]:
    """Each kernel that is trained, and the axes of the weights that make one output channel."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _trained_kernels(layer)
            continue
        # In a wrapper, the layer that it wraps says what its axes are.
        plain = getattr(layer, "layer", layer)
        for weight in layer.trainable_weights:
            name = weight.name.rpartition("/")[2].partition(":")[0]
            if name in _KERNELS:
                rank = weight.shape.rank
                channel_axes = _channel_axes(plain, name, rank)
                yield weight, tuple(axis for axis in range(rank) if axis not in channel_axes)


def _channel_axes(layer: Any, name: str, rank: int) -> tuple[int, ...]:
    layers = kd.keras.layers
    if name == "depthwise_kernel" or isinstance(layer, layers.DepthwiseConv1D | layers.DepthwiseConv2D):
        return rank - 2, rank - 1
    if isinstance(layer, layers.Conv1DTranspose | layers.Conv2DTranspose | layers.Conv3DTranspose):
        return (rank - 2,)
    return (rank - 1,)


def _l1(weight: Any, _: tuple[int, ...]) -> Any:
    return kd.tf.reduce_sum(kd.tf.abs(weight))


def _group_lasso(weight: Any, axes: tuple[int, ...]) -> Any:
    tf = kd.tf
    squares = tf.reduce_sum(tf.square(weight), axis=axes)
    # The slope of a square root at 0 is infinite; a channel that is gone is to stay where it is.
    gone = tf.equal(squares, 0)
    return tf.reduce_sum(tf.where(gone, 0.0, tf.sqrt(tf.where(gone, 1.0, squares))))


_PENALTIES = {"l1": _l1, "group_lasso": _group_lasso}
