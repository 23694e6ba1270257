"""Mixed precision: while a step trains, layers compute in 16 bits; what is trained and kept are float32 weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tfcompress import keras_door as kd
from tfcompress.models.graph import producers
from tfcompress.vocabulary.training import Precision

_KINDS = frozenset(
    {"activation", "attention", "convolutional", "core", "merging", "normalization", "pooling", "regularization"}
    | {"reshaping"}
)
"""The folders of Keras' layers that compute in 16 bits; recurrent and preprocessing layers are not among them."""

_HOMES = ("tfcompress", "tensorflow_model_optimization")
"""Of the wrappers that a technique puts around layers."""


def in_precision(network: Any, model: Any, precision: Precision) -> Any:
    """A network that is trained like `network`, in whose training steps the layers of `model` compute in `precision`.

    Micikevicius et al., "Mixed Precision Training" (2018). Nothing of it is seen outside of a training step: policies,
    variables and whatever a wrapper makes of them (masks, centroids, code words) stay float32, and evaluation between
    epochs is of the model as it ships. What stays float32 in training too: the last layer with weights and all behind
    it, as Keras recommends for outputs; recurrent layers; and layers and operations whose code is not Keras' own.

    Args:
        network: what is to be fitted: `model`, or a network of its layers that has a training step of its own.
        model: with the wrappers that a technique has put around its layers.
        precision: of the layers.
    """
    if precision == "float32":
        return network
    if network is model:
        network = kd.keras.Model(inputs=model.inputs, outputs=model.output, name=model.name)
    train_step, lowered, inside = network.train_step, contextlib.ExitStack(), []

    def train_in_precision(data: Any) -> Any:
        # Keras runs it once for each graph that it traces: layers are as they were before the graph is run. Where
        # replicas trace theirs in turn, one begins before another has ended.
        if not inside:
            lowered.enter_context(computing_in(model, precision))
        inside.append(data)
        try:
            return train_step(data)
        finally:
            inside.pop()
            if not inside:
                lowered.close()

    network.train_step = train_in_precision
    return network


def scaled(optimizer: Any, precision: Precision) -> Any:
    """`optimizer`, and around it in `mixed_float16` the scaling of the loss that keeps small gradients from zero."""
    if precision != "mixed_float16":
        return optimizer
    return kd.keras.mixed_precision.LossScaleOptimizer(optimizer)


def scale_variables(optimizer: Any) -> list[Any]:
    """What loss scaling remembers from step to step, which Keras does not count among an optimizer's variables."""
    state = getattr(optimizer, "_loss_scale", None)
    return [] if state is None else [state.current_loss_scale, state.counter]


@contextlib.contextmanager
def computing_in(model: Any, precision: Precision) -> Iterator[None]:
    """While the block runs, the layers of `model` compute in `precision`; see `in_precision` for those that do not."""
    policy = kd.keras.mixed_precision.Policy(precision)
    last = _last_layers(model)
    with contextlib.ExitStack() as stack:
        for layer, wrappers in _leaves(model).items():
            lowered = last.isdisjoint((layer, *wrappers)) and _computes_in_16_bits(layer)
            if not lowered:
                stack.enter_context(_with_attributes(layer, {"call": _casting(layer, (), "float32")}))
                continue
            for part in (*wrappers, *layer._flatten_layers()):
                stack.enter_context(_under(part, policy))
            for part in layer._flatten_layers():
                call = _casting(part, _cast_weights(part), policy.compute_dtype)
                stack.enter_context(_with_attributes(part, {"call": call}))
        yield


def _casting(layer: Any, weights: tuple[str, ...], dtype: str) -> Callable[..., Any]:
    """The layer's `call` on inputs, and weights by attribute, that are cast to `dtype`.

    Not by Keras' own casting variables: wrappers call their layer with tensors in the place of its variables, which
    have to be cast as well.
    """
    call, attributes = layer.call, vars(layer)

    def cast(value: Any) -> Any:
        is_float = kd.tf.is_tensor(value) and value.dtype.is_floating
        return kd.tf.cast(value, dtype) if is_float else value

    def call_in_dtype(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = kd.tf.nest.map_structure(cast, (args, kwargs))
        with _with_attributes(layer, {name: kd.tf.cast(attributes[name], dtype) for name in weights}):
            return call(*args, **kwargs)

    return call_in_dtype


def _cast_weights(layer: Any) -> tuple[str, ...]:
    """The attributes of `layer` that hold weights to be cast: in normalizations and embeddings Keras keeps float32."""
    layers = kd.keras.layers
    by_itself = (layers.BatchNormalization, layers.LayerNormalization, layers.GroupNormalization, layers.Embedding)
    if isinstance(layer, by_itself):
        return ()
    variables = {name: value for name, value in vars(layer).items() if isinstance(value, kd.tf.Variable)}
    return tuple(name for name, value in variables.items() if value.dtype.is_floating)


def _leaves(model: Any) -> dict[Any, tuple[Any, ...]]:
    """Each layer that computes, once, and the models' layers and wrappers that it is inside of."""
    found = {}
    for layer in model.layers:
        if _is_graph(layer):
            found.update(_leaves(layer))
        elif isinstance(layer, kd.keras.layers.Wrapper) and type(layer).__module__.partition(".")[0] in _HOMES:
            found[layer.layer] = (layer,)
        else:
            found[layer] = ()
    return found


def _computes_in_16_bits(layer: Any) -> bool:
    module, _, kind = type(layer).__module__.rpartition(".layers.")
    unknown = (kd.keras.layers.Lambda, *_operation_types())
    return module == "tf_keras.src" and kind.partition(".")[0] in _KINDS and not isinstance(layer, unknown)


def _operation_types() -> tuple[type, ...]:
    from tf_keras.src.layers.core import tf_op_layer

    return tf_op_layer.TFOpLambda, tf_op_layer.ClassMethod, tf_op_layer.InstanceMethod, tf_op_layer.InstanceProperty


def _last_layers(model: Any) -> set[Any]:
    """The last layers of `model` with weights, and those behind them."""
    found, ahead = set(), [model.get_layer(name) for name in model.output_names]
    while ahead:
        layer = ahead.pop()
        if layer in found:
            continue
        found.add(layer)
        if _is_graph(layer):
            found |= _last_layers(layer)
        elif not layer.weights:
            ahead += producers(model, layer)
    return found


def _is_graph(layer: Any) -> bool:
    """Whether `layer` is a model whose layers are called one by one, not by code of its own."""
    return isinstance(layer, kd.keras.Model) and type(layer).__module__.startswith("tf_keras.")


@contextlib.contextmanager
def _under(layer: Any, policy: Any) -> Iterator[None]:
    before = layer.dtype_policy
    layer._set_dtype_policy(policy)
    try:
        yield
    finally:
        layer._set_dtype_policy(before)


@contextlib.contextmanager
def _with_attributes(layer: Any, values: Mapping[str, Any]) -> Iterator[None]:
    # Past Keras' __setattr__, which would stop tracking the variables.
    attributes = vars(layer)
    before = {name: attributes[name] for name in values if name in attributes}
    attributes.update(values)
    try:
        yield
    finally:
        for name in values.keys() - before.keys():
            del attributes[name]
        attributes.update(before)
