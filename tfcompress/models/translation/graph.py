"""The graph of a Keras 3 model, walked call by call, as a tf_keras Functional model: `translate`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.translation.calls import Call, filled
from tfcompress.models.translation.comparison import Pair, Step, compare
from tfcompress.models.translation.layers import copy_weights, make_layer
from tfcompress.models.translation.operators import translate_operator
from tfcompress.models.translation.refusal import UntranslatableError
from tfcompress.vocabulary.errors import ModelError


def translate(model: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """A tf_keras model that computes what a Keras 3 model computes, proven at every layer.

    Layer by layer, the tf_keras class of the same name is made with the same configuration, name and weights; both
    models then run on random input, and every layer's outputs are compared.

    Args:
        model: a built Keras 3 Sequential or Functional model with any number of inputs and outputs, shared layers,
            nested models, and operators in the graph. It is not changed. Weights of another float type than float32
            become float32.
        custom_objects: tf_keras classes and functions in place of those of `model` that tf_keras does not have, by
            the names of the Keras 3 ones. Defaults to none.

    Returns:
        An uncompiled Functional `tf_keras.Model` of the same name, a Sequential model's included.

    Raises:
        ModelError: `model` has no graph of layers; or layers have no counterpart, all named with reason and remedy;
            or the largest relative difference of a layer's outputs is above 1e-4, the first such layer named.

    Example:
        >>> import keras  # doctest: +SKIP
        >>> translate(keras.applications.MobileNetV2(weights=None))  # doctest: +SKIP
        <tf_keras.src.engine.functional.Functional object at ...>
    """
    translated, pairs = build(model, custom_objects)
    compare(pairs)
    return translated


def build(model: Any, custom_objects: Mapping[str, Any] | None = None) -> tuple[Any, list[Pair]]:
    """`translate` without its proof: the tf_keras model, and the tensors to be compared, of each nested model too."""
    _refuse_graphless(model)
    translator = _Translator(dict(custom_objects or {}))
    translated = translator.model(_in_float32(model))
    if translator.problems:
        raise ModelError(
            f"Every layer of a Keras 3 model must have a counterpart in tf_keras. In model {model.name!r}: "
            + "; ".join(translator.problems)
            + "."
        )
    return translated, translator.pairs


def _graph(model: Any) -> Any:
    """The Functional graph of a Keras 3 model; None when it has none."""
    functional = kd.keras_3.src.models.functional.Functional
    if isinstance(model, kd.keras_3.Sequential):
        return model._functional
    return model if isinstance(model, functional) and type(model).call is functional.call else None


def _refuse_graphless(model: Any) -> None:
    if _graph(model) is not None:
        return
    if isinstance(model, kd.keras_3.Sequential):
        raise ModelError(
            f"A Sequential model must know its input shape, and {model.name!r} does not. "
            "Call `model.build((None, ...))` first, or begin it with `keras.Input`."
        )
    raise ModelError(
        f"A model must be Sequential or Functional. {type(model).__name__} {model.name!r} is a subclassed model, which "
        "has no graph of layers to work on. Rebuild it with `keras.Model(inputs, outputs)`."
    )


def _in_float32(model: Any) -> Any:
    """`model`, or a copy of it that computes in float32 when some layer does not: the proof needs equal numbers."""
    layers = list(model._flatten_layers())
    # Those are refused later, one by one.
    foreign = any(
        getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False) for layer in layers
    )
    policies = {layer.dtype_policy.name for layer in layers}
    if foreign or not any("float" in policy and policy != "float32" for policy in policies):
        return model

    def in_float32(layer: Any) -> Any:
        config = layer.get_config()
        return type(layer).from_config(config | {"dtype": "float32"} if "dtype" in config else config)

    copy = kd.keras_3.models.clone_model(model, clone_function=in_float32, recursive=True)
    copy.set_weights([np.asarray(value, np.float32) for value in model.get_weights()])
    return copy


@dataclass
class _Node:
    """One call of a layer or operator: what it is called with, without what tf_keras works out by itself."""

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Any]


class _Translator:
    """Makes the counterparts of layers, once each, and gathers what cannot be done."""

    def __init__(self, custom_objects: dict[str, Any]) -> None:
        self.custom_objects = custom_objects
        self.problems: list[str] = []
        self.pairs: list[Pair] = []
        self._made: dict[int, Any] = {}
        self._place: tuple[str, ...] = ()

    def model(self, source: Any) -> Any:
        """The counterpart of a whole model, outer or nested; None once there are problems."""
        graph = _graph(source)
        known = {id(tensor): _input(tensor) for tensor in graph.inputs}
        inputs = filled(graph._inputs_struct, known)
        steps = []
        for node in _needed(graph):
            call, found = self._called(node, known)
            known.update(zip(map(id, node.outputs), found, strict=True))
            if call is not None:
                steps.append(Step("/".join((*self._place, node.operation.name)), node.outputs, found, call))
        if self.problems:
            return None
        translated = kd.keras.Model(inputs, filled(graph._outputs_struct, known), name=source.name)
        if not source.trainable:
            translated.trainable = False
        self.pairs.append(Pair(graph, translated, steps))
        return translated

    def _called(self, node: _Node, known: Mapping[int, Any]) -> tuple[Call | None, list[Any]]:
        """The counterpart called on the counterparts of its inputs: the call, and its outputs."""
        operation = node.operation
        try:
            call = self._call(node)
            if call is not None:
                outputs = call.on(known)
                if isinstance(operation, kd.keras_3.layers.Layer) and id(operation) not in self._made:
                    self._made[id(operation)] = call.layer
                    if not _is_model(operation):
                        copy_weights(operation, call.layer)
                return call, outputs
        except UntranslatableError as error:
            self._refuse(operation, error.reason, error.remedy)
        except Exception as error:  # What tf_keras raises at arguments that it does not take has no common class.
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            self._refuse(operation, f"tf_keras refuses it: {reason}", "Replace it in the Keras 3 model")
        # Stand-ins, so that the rest is walked and all problems are named at once.
        return None, [kd.keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype) for tensor in node.outputs]

    def _call(self, node: _Node) -> Call | None:
        """The counterpart with its arguments; None for a nested model in which there are problems."""
        operation = node.operation
        if not isinstance(operation, kd.keras_3.layers.Layer):
            return translate_operator(operation, node.args, node.kwargs)
        target = self._made.get(id(operation))
        if target is None:
            target = self._nested(operation) if _is_model(operation) else make_layer(operation, self.custom_objects)
        return None if target is None else Call(target, node.args, node.kwargs)

    def _nested(self, operation: Any) -> Any:
        if _graph(operation) is None:
            raise UntranslatableError(
                "it is a subclassed model, which has no graph of layers",
                "Rebuild it with `keras.Model(inputs, outputs)`",
            )
        outer, self._place = self._place, (*self._place, operation.name)
        try:
            return self.model(operation)
        finally:
            self._place = outer

    def _refuse(self, operation: Any, reason: str, remedy: str) -> None:
        place = "/".join((*self._place, operation.name))
        problem = f"{place} ({type(operation).__name__}): {reason}. {remedy}"
        if problem not in self.problems:
            self.problems.append(problem)


def _is_model(operation: Any) -> bool:
    return isinstance(operation, kd.keras_3.Model)


def _input(tensor: Any) -> Any:
    operation = tensor._keras_history.operation
    name = operation.name if isinstance(operation, kd.keras_3.layers.InputLayer) else tensor.name
    dtype = "float32" if "float" in tensor.dtype else tensor.dtype
    return kd.keras.Input(batch_shape=tensor.shape, dtype=dtype, name=name)


def _needed(graph: Any) -> list[_Node]:
    """The calls that the outputs depend on, each behind those that it depends on."""
    calls = [
        _node(node)
        for depth in sorted(graph._nodes_by_depth, reverse=True)
        for node in graph._nodes_by_depth[depth]
        if not node.is_input
    ]
    given = {id(tensor) for tensor in graph.inputs}
    wanted, needed = {id(tensor) for tensor in graph.outputs}, []
    for node in reversed(calls):
        produced = {id(tensor) for tensor in node.outputs}
        if produced & wanted and not produced & given:
            needed.append(node)
            wanted.update(map(id, _tensors((node.args, node.kwargs))))
    return needed[::-1]


def _node(node: Any) -> _Node:
    args, kwargs = node.arguments.args, node.arguments.kwargs
    if isinstance(node.operation, kd.keras_3.layers.Layer):
        args, kwargs = _by_name(node.operation, args, kwargs)
    return _Node(node.operation, args, kwargs, node.outputs)


def _by_name(layer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with all but the first by name, because tf_keras orders some otherwise.

    Left out are those at their defaults, and masks that Keras passed on by itself, as tf_keras does too.
    """
    signature = inspect.signature(layer.call)
    bound = signature.bind(*args, **kwargs)
    implied = {id(getattr(tensor, "_keras_mask", None)) for tensor in _tensors((args, kwargs))}
    positional, named = (), {}
    for place, (name, value) in enumerate(bound.arguments.items()):
        parameter = signature.parameters[name]
        masks = list(_tensors(value)) if "mask" in name else []
        if parameter.kind == parameter.VAR_POSITIONAL:
            positional += value
        elif parameter.kind == parameter.VAR_KEYWORD:
            named |= value
        elif not place:
            positional += (value,)
        elif value is not None and value is not parameter.default and not (masks and {*map(id, masks)} <= implied):
            named[name] = value
    return positional, named


def _tensors(structure: Any) -> Iterator[Any]:
    """The Keras 3 tensors in nested lists, tuples and dicts."""
    if isinstance(structure, dict):
        structure = tuple(structure.values())
    if isinstance(structure, list | tuple):
        for value in structure:
            yield from _tensors(value)
    elif isinstance(structure, kd.keras_3.KerasTensor):
        yield structure
