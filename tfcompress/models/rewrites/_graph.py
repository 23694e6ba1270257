"""A Sequential or Functional model as the list of its calls, and a model made anew from them with some replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.graph import moves_values
from tfcompress.models.loading import copied_layer, set_weights

Builder = Callable[..., Any]
"""Takes the new tensors that a call is given, gives back what stands for its outputs."""
TensorKey = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer in a graph: a shared layer has several."""

    layer: Any
    node: Any

    @property
    def inputs(self) -> list[Any]:
        """The tensors it takes, without constants."""
        return self.node.keras_inputs

    @property
    def outputs(self) -> list[Any]:
        """The tensors it gives."""
        return kd.tf.nest.flatten(self.node.outputs)

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of its first output, batch included."""
        return tuple(self.outputs[0].shape)

    @property
    def masked(self) -> bool:
        """Whether a mask comes with its inputs, which layers of other shapes would lose."""
        return any(getattr(tensor, "_keras_mask", None) is not None for tensor in self.inputs)


class Graph:
    """The calls of a model, each after those it takes tensors from.

    Args:
        model: a Sequential or Functional tf_keras model.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        by_depth = model._nodes_by_depth
        self.calls = [Call(node.layer, node) for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
        self._source = {key_of(tensor): call for call in self.calls for tensor in call.outputs}
        self._names = {layer.name for layer in model.layers}

    @cached_property
    def _users(self) -> dict[TensorKey, list[Call]]:
        users: dict[TensorKey, list[Call]] = {}
        for call in self.calls:
            for tensor in call.inputs:
                users.setdefault(key_of(tensor), []).append(call)
        return users

    def of(self, *classes: type) -> list[Call]:
        """The calls of layers that are exactly of one of `classes`."""
        return [call for call in self.calls if type(call.layer) in classes]

    def calls_of(self, layer: Any) -> list[Call]:
        """The calls of `layer`."""
        return [call for call in self.calls if call.layer is layer]

    def called_once(self, call: Call) -> bool:
        """Whether this is the only call of its layer."""
        return len(self.calls_of(call.layer)) == 1

    def source(self, call: Call, index: int = 0) -> Call:
        """The call that gives the input `index` of `call`."""
        return self._source[key_of(call.inputs[index])]

    def sources(self, call: Call) -> list[Call]:
        """The calls that give the inputs of `call`."""
        return [self._source[key_of(tensor)] for tensor in call.inputs]

    def users(self, call: Call) -> list[Call]:
        """The calls that take outputs of `call`, one entry for each time."""
        return [user for tensor in call.outputs for user in self._users.get(key_of(tensor), [])]

    def takers(self, call: Call) -> list[Call]:
        """The calls that take what `call` gives, be it in another arrangement; for a nested model, those within it."""
        found = []
        for user in self.users(call):
            if moves_values(user.layer):
                found += self.takers(user)
            elif isinstance(user.layer, kd.keras.Model):
                inner = Graph(user.layer)
                found += [taker for entry in self.entries(call, user) for taker in inner.takers(inner.of_input(entry))]
            else:
                found.append(user)
        return found

    def entries(self, call: Call, user: Call) -> list[int]:
        """Which inputs of the nested model that `user` calls are outputs of `call`."""
        return [index for index, source in enumerate(self.sources(user)) if source is call]

    def of_input(self, index: int) -> Call:
        """The call that gives the model's input `index`."""
        return self._source[key_of(self.model.inputs[index])]

    def is_output(self, call: Call) -> bool:
        """Whether the model gives back an output of `call`."""
        ends = {key_of(tensor) for tensor in self.model.outputs}
        return any(key_of(tensor) in ends for tensor in call.outputs)

    def sole_user(self, call: Call) -> Call | None:
        """The one call that takes what `call` gives; None where there are more, or the model gives it back."""
        users = self.users(call)
        return users[0] if len(users) == 1 and not self.is_output(call) else None

    def has(self, name: str) -> bool:
        """Whether a layer, old or planned, goes by `name`."""
        return name in self._names

    def name(self, wanted: str) -> str:
        """`wanted` as the name of a new layer, numbered where it is taken, and from now on taken."""
        name, number = wanted, 1
        while name in self._names:
            name, number = f"{wanted}_{number}", number + 1
        self._names.add(name)
        return name


def takers_of_inputs(model: Any) -> list[list[Any]]:
    """For each input of `model` the layers that take it, be it in another arrangement; within nested models, theirs."""
    graph = Graph(model)
    return [[call.layer for call in graph.takers(graph.of_input(index))] for index in range(len(model.inputs))]


class Part:
    """A new layer and the weights it is to have.

    Args:
        layer: a new Keras layer, not yet built.
        weights: its weights in Keras' order, or by attribute where only some are given. Defaults to none.
    """

    def __init__(self, layer: Any, weights: list[np.ndarray] | Mapping[str, np.ndarray] = ()) -> None:
        self.layer = layer
        self._weights = weights

    @classmethod
    def copy(cls, layer: Any, /, **changes: Any) -> Part:
        """A copy of `layer` with its weights, and with `changes` of its config."""
        return cls(copied_layer(layer, **changes), layer.get_weights())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        outputs = self.layer(*args, **kwargs)
        if isinstance(self._weights, Mapping):
            for attribute, value in self._weights.items():
                getattr(self.layer, attribute).assign(value)
        else:
            set_weights(self.layer, self._weights)
        return outputs


class Replay:
    """Calls layers of a graph again on new tensors: copies of them, or what replaces them.

    Args:
        copies: the copy of a layer by the layer's id; layers not in it are copied when they are met, and added.
        builders: what replaces a call.
    """

    def __init__(self, copies: dict[int, Part], builders: Mapping[Call, Builder]) -> None:
        self._copies = copies
        self._builders = builders

    def run(self, graph: Graph, inputs: Iterable[Any], training: bool | None = None) -> Any:
        """The new outputs of the model of `graph`, in its structure.

        Args:
            graph: of the model to call again.
            inputs: its new input tensors.
            training: what its layers that ask whether they are trained are told, where not told in the graph.
        """
        new = {key_of(old): tensor for old, tensor in zip(graph.model.inputs, inputs, strict=True)}
        for call in graph.calls:
            if call.node.is_input:
                continue
            if call in self._builders:
                made = self._builders[call](*(new[key_of(tensor)] for tensor in call.inputs))
            else:
                made = self._again(call, new, training)
            new.update(zip(map(key_of, call.outputs), kd.tf.nest.flatten(made), strict=True))
        return kd.tf.nest.map_structure(lambda tensor: new[key_of(tensor)], _outputs(graph.model))

    def _again(self, call: Call, new: Mapping[TensorKey, Any], training: bool | None) -> Any:
        copy = self._copies.get(id(call.layer))
        if copy is None:
            copy = self._copies[id(call.layer)] = Part.copy(call.layer)
        args, kwargs = arguments(call, new)
        if training is not None and call.layer._expects_training_arg:
            kwargs = {"training": training, **kwargs}
        return copy(*args, **kwargs)


def arguments(call: Call, new: Mapping[TensorKey, Any]) -> tuple[Any, Any]:
    """The positional and named arguments of `call`, with `new` tensors for those of its graph."""

    def renewed(value: Any) -> Any:
        return new[key_of(value)] if is_symbolic(value) else value

    return kd.tf.nest.map_structure(renewed, (tuple(call.node.call_args), dict(call.node.call_kwargs)))


def rebuilt(graph: Graph, builders: Mapping[Call, Builder], copies: dict[int, Part]) -> Any:
    """The model of `graph` made anew, with equal weights, some calls replaced. It is Functional and uncompiled."""
    model = graph.model
    old_inputs = [tensor._keras_history.layer for tensor in model.inputs]
    new_inputs = [(copies.get(id(layer)) or Part.copy(layer)).layer.output for layer in old_inputs]
    outputs = Replay(copies, builders).run(graph, new_inputs)
    given = {key_of(old): tensor for old, tensor in zip(model.inputs, new_inputs, strict=True)}
    inputs = kd.tf.nest.map_structure(lambda tensor: given[key_of(tensor)], _inputs(model))
    return kd.keras.Model(inputs, outputs, name=model.name)


def _inputs(model: Any) -> Any:
    return model.inputs[0] if isinstance(model, kd.keras.Sequential) else model._nested_inputs


def _outputs(model: Any) -> Any:
    return model.outputs[0] if isinstance(model, kd.keras.Sequential) else model._nested_outputs


def is_symbolic(value: Any) -> bool:
    """Whether `value` is a tensor of a graph, not a constant."""
    return hasattr(value, "_keras_history")


def key_of(tensor: Any) -> TensorKey:
    """What tells `tensor` from all others of its graph."""
    layer, node_index, tensor_index = tensor._keras_history
    return id(layer), node_index, tensor_index


def attribute_of(weight: Any) -> str:
    """The attribute of its layer that a variable is: `kernel` of `conv/kernel:0`."""
    return weight.name.partition(":")[0].rpartition("/")[2]


def same(tensor: Any) -> Any:
    """What stands for a layer that is left out."""
    return tensor
