"""Where a .tflite file departs from the Keras model that it came from, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.evaluate.interpreter import ModelFile, in_child, open_interpreter, read
from tfcompress.evaluate.prediction import tensor_type


@dataclass(frozen=True)
class LayerError:
    """How far a layer's output in the file is from that in the Keras model.

    Args:
        layer: the Keras layer.
        relative: root mean square of the difference over that of the Keras output, all samples together; 0.01 is
            1 %. Infinite where the Keras output is all zeros and the file's is not.
        steps: mean absolute difference in steps of the file's tensor; 0 where the file computes it in float.
    """

    layer: str
    relative: float
    steps: float

    @property
    def sqnr_db(self) -> float:
        """The signal-to-quantization-noise ratio, in decibels."""
        return math.inf if self.relative == 0 else -20 * math.log10(self.relative)


def layer_errors(
    content: bytes, model: Any, samples: np.ndarray, file_samples: np.ndarray | None = None
) -> tuple[LayerError, ...]:
    """The error of every layer whose output is a tensor of the file, in the order the file computes them.

    A tensor belongs to the layer that its name begins with; a layer that the converter fused with the next (a
    convolution with its ReLU) has none of its own. The built-in kernels run, for a delegate keeps no tensors between.

    Args:
        content: a .tflite file with its tensor names.
        model: the tf_keras model that it was converted from.
        samples: the model's inputs, `[n, ...]`; a few dozen are enough.
        file_samples: the file's inputs for the same samples, where it does the preprocessing. Defaults to `samples`.

    Raises:
        EvaluationError: the file cannot be run, or crashed LiteRT.
        ConversionError: the bytes are no .tflite file.

    Example:
        >>> departure(layer_errors(content, model, inputs[:32])).layer  # doctest: +SKIP
        'bidirectional'
    """
    tensors = _tensors_of_layers(Flatbuffer(content), model)
    if not tensors:
        return ()
    file = read(content)
    fed = samples if file_samples is None else file_samples
    found = in_child(_values, file, fed, tuple(tensors.values()), where=file.where, doing="Reading the layers of")
    outputs = kd.keras.Model(model.inputs, [model.get_layer(name).output for name in tensors])
    expected = outputs.predict(samples, batch_size=len(samples) if model.input_shape[0] is None else 1, verbose=0)
    expected = [expected] if len(tensors) == 1 else expected
    return tuple(
        _error(name, np.asarray(wanted, np.float64), values.reshape(np.shape(wanted)), step)
        for name, wanted, (values, step) in zip(tensors, expected, found, strict=True)
    )


def departure(errors: Sequence[LayerError]) -> LayerError:
    """The layer at which the error rises most above that of all layers before it.

    Args:
        errors: at least one, in the order of computation.
    """
    before = 0.0
    rises = []
    for error in errors:
        rises.append(error.relative - before)
        before = max(before, error.relative)
    return errors[rises.index(max(rises))]


def _tensors_of_layers(flat: Flatbuffer, model: Any) -> dict[str, int]:
    """The index of each layer's output tensor: the last that carries the layer's name and has its shape."""
    # A layer used twice has no one output.
    layers = {layer.name: layer for layer in model.layers if len(layer.inbound_nodes) == 1}
    outputs = dict(zip((tensor.index for tensor in flat.outputs), model.output_names, strict=True))
    found: dict[str, int] = {}
    for operator in flat.operators:
        for index in operator.outputs:
            parts = flat.tensors[index].name.split(";")[0].split("/")
            named = outputs.get(index) or next((part for part in parts if part in layers), None)
            if named in layers and _fits(flat.tensors[index].shape, layers[named].output_shape):
                found.pop(named, None)
                found[named] = index
    return found


def _fits(shape: Sequence[int], output_shape: Any) -> bool:
    """Whether a tensor of a file can be a layer's output; those of several outputs are left out."""
    return isinstance(output_shape, tuple) and tuple(shape[1:]) == output_shape[1:]


def _values(file: ModelFile, samples: np.ndarray, indices: Sequence[int]) -> list[tuple[np.ndarray, float]]:
    """The real numbers of each tensor for all samples, and its step; in the child."""
    interpreter = open_interpreter(file, kernels="builtin", keep_all=True)
    source = interpreter.get_input_details()[0]
    types = {details["index"]: tensor_type(details) for details in interpreter.get_tensor_details()}
    stored = types[source["index"]].encode(samples)
    pieces: list[list[np.ndarray]] = [[] for _ in indices]
    for sample in stored:
        interpreter.reset_all_variables()
        interpreter.set_tensor(source["index"], np.repeat(sample[None], source["shape"][0], axis=0))
        interpreter.invoke()
        for place, index in enumerate(indices):
            pieces[place].append(types[index].decode(interpreter.get_tensor(index)[0]))
    steps = [types[index].scale if types[index].is_quantized else 0.0 for index in indices]
    return [(np.stack(piece), step) for piece, step in zip(pieces, steps, strict=True)]


def _error(layer: str, expected: np.ndarray, actual: np.ndarray, step: float) -> LayerError:
    noise, signal = (float(np.sqrt(np.mean(np.square(values)))) for values in (expected - actual, expected))
    relative = noise / signal if signal else (math.inf if noise else 0.0)
    return LayerError(layer, relative, float(np.mean(np.abs(expected - actual))) / step if step else 0.0)
