"""A quantized model and the float one that it was made of, run on the same samples, layer by layer.

Corrections without training look at one layer at a time, in order, and what they change in one is in the inputs of
the next. Run so, each layer of both models is computed once, whatever their depth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.loading import copied_layer
from tfcompress.models.rewrites._graph import Call, Graph, TensorKey, arguments, key_of
from tfcompress.techniques._fake_quant import attribute_of, weight_quantizers
from tfcompress.techniques._weight_grid import WeightQuantizer, constrain, fake_quantize

BATCH = 64
"""Samples at a time."""


@dataclass(frozen=True)
class Counterparts:
    """One quantized layer, the float layer that it was made of, and what each is fed.

    Args:
        wrapper: tfmot's wrapper around the quantized layer.
        weight: the variable behind the quantized weight.
        quantizer: of that weight.
        layer: the layer of the same name in the float model.
        quantized_inputs: what the quantized model feeds `wrapper`, float32 `[samples, ...]`.
        float_inputs: what the float model feeds `layer`, of the same shape.
    """

    wrapper: Any
    weight: Any
    quantizer: WeightQuantizer
    layer: Any
    quantized_inputs: np.ndarray
    float_inputs: np.ndarray

    @property
    def name(self) -> str:
        """The name of the layer."""
        return self.layer.name

    @property
    def float_kernel(self) -> Any:
        """The weight as the float layer has it."""
        return getattr(self.layer, attribute_of(self.weight))

    @property
    def quantized_kernel(self) -> Any:
        """The weight as the quantized layer computes with it."""
        grid = self.quantizer.grid
        return fake_quantize(constrain(self.weight, grid), grid)


def counterparts(quantized: Any, model: Any, samples: np.ndarray) -> Iterator[Counterparts]:
    """Every quantized layer with a weight and its float original, in the order in which they are computed.

    What is done to the weights of a quantized layer before the next is asked for is in the inputs of those behind it.

    Args:
        quantized: a tfmot-quantized model, its activation ranges calibrated.
        model: the float model that it was made of, with the same names of layers.
        samples: preprocessed inputs, float32 `[samples, ...]`.
    """
    graph, original = Graph(quantized), Graph(model)
    values, float_values = _Values(graph, samples), _Values(original, samples)
    known = {id(wrapper): (weight, quantizer) for wrapper, weight, quantizer in weight_quantizers(quantized)}
    float_calls = {call.layer.name: call for call in original.calls}
    for call in graph.calls:
        if id(call.layer) in known:
            float_call = float_calls[call.layer.layer.name]
            fed, float_fed = values.fed_to(call), float_values.fed_to(float_call)
            yield Counterparts(call.layer, *known[id(call.layer)], float_call.layer, fed, float_fed)


def linear_part(layer: Any) -> Callable[[Any, Any], Any]:
    """What `layer` computes before bias and activation, as a function of its inputs and of its kernel."""
    copy = copied_layer(layer, activation="linear", use_bias=False)
    attribute = "depthwise_kernel" if hasattr(layer, "depthwise_kernel") else "kernel"

    def response(inputs: Any, kernel: Any) -> Any:
        setattr(copy, attribute, kernel)
        return copy.call(inputs)

    return response


class _Values:
    """The values of a graph's tensors for some samples, each computed when first asked for and kept while needed."""

    def __init__(self, graph: Graph, samples: np.ndarray) -> None:
        self._graph = graph
        self._known: dict[TensorKey, np.ndarray] = {key_of(graph.model.inputs[0]): samples}
        self._uses_left = Counter(key_of(tensor) for call in graph.calls for tensor in call.inputs)

    def fed_to(self, call: Call) -> np.ndarray:
        """What `call` takes first."""
        self._compute_inputs(call)
        return self._known[key_of(call.inputs[0])]

    def _compute_inputs(self, call: Call) -> None:
        for index, tensor in enumerate(call.inputs):
            if key_of(tensor) not in self._known:
                self._compute(self._graph.source(call, index))

    def _compute(self, call: Call) -> None:
        self._compute_inputs(call)
        inputs = {key_of(tensor): self._known[key_of(tensor)] for tensor in call.inputs}
        count = len(next(iter(inputs.values())))
        parts = [
            _called(call, {key: value[start : start + BATCH] for key, value in inputs.items()})
            for start in range(0, count, BATCH)
        ]
        for tensor, values in zip(call.outputs, zip(*parts, strict=True), strict=True):
            self._known[key_of(tensor)] = np.concatenate(values)
        for tensor in call.inputs:
            self._uses_left[key_of(tensor)] -= 1
            if not self._uses_left[key_of(tensor)]:
                # Of a wide network's first layers, the samples take hundreds of megabytes.
                del self._known[key_of(tensor)]


def _called(call: Call, inputs: dict[TensorKey, np.ndarray]) -> list[np.ndarray]:
    """The outputs of `call` in inference for one batch."""
    args, kwargs = arguments(call, {key: kd.tf.constant(value) for key, value in inputs.items()})
    if call.layer._expects_training_arg:
        kwargs = {**kwargs, "training": False}
    return [output.numpy() for output in kd.tf.nest.flatten(call.layer(*args, **kwargs))]
