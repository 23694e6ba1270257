"""The calls of TensorFlow's converter that are known to be safe."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.convert.settings import ConversionSettings
from tfcompress.native_output import captured_stderr
from tfcompress.vocabulary.errors import ConversionError
from tfcompress.vocabulary.state import NumberFormat

# As the compiler writes the place of an operation: fused["Svd:", callsite("model/layer/Svd@...
_REFUSED = re.compile(r'fused\["(\w+):", callsite\("([^"@/]+/[^"@]+)@')


def float_tflite(model: Any) -> bytes:
    """The float32 .tflite of a Keras model: the reference that an artifact is compared with."""
    return _run(kd.tf.lite.TFLiteConverter.from_keras_model(_of_known_batch(model)))


def quantized_tflite(
    model: Any, number_format: NumberFormat, settings: ConversionSettings, calibration: np.ndarray
) -> bytes:
    """The .tflite of a Keras model in `number_format`, with its tensor names.

    Ranges that quantization-aware training learned are kept; the others come from `calibration`.

    Args:
        model: a tf_keras model, plain or quantized by tfmot.
        number_format: the arithmetic of the file.
        settings: input and output types.
        calibration: the model's inputs, float32 or int32 `[n, ...]`.

    Raises:
        ConversionError: the converter refused the model; with its last lines.
    """
    tf = kd.tf
    converter = tf.lite.TFLiteConverter.from_keras_model(_of_known_batch(model))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if number_format == "float16":
        converter.target_spec.supported_types = [tf.float16]
    elif number_format in ("int8", "int16x8"):
        # Token ids must come as the integers that the model takes.
        samples = calibration.astype(model.inputs[0].dtype.as_numpy_dtype)
        converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
        converter.target_spec.supported_ops = [_operators(number_format)]
        if settings.allow_float:
            converter.target_spec.supported_ops.append(tf.lite.OpsSet.TFLITE_BUILTINS)
        input_type, output_type = settings.io_types(number_format)
        converter.inference_input_type = getattr(tf, input_type)
        converter.inference_output_type = getattr(tf, output_type)
    return _run(converter)


def with_preprocessing(model: Any, scale: np.ndarray, offset: np.ndarray) -> Any:
    """`model` behind ``raw * scale + offset``, so that it takes raw values of the same shape."""
    keras = kd.keras
    raw = keras.Input(model.input_shape[1:], name="raw")
    scaled = raw * np.asarray(scale, np.float32)
    if np.any(offset):
        scaled = scaled + np.asarray(offset, np.float32)
    return keras.Model(raw, model(scaled), name=model.name)


def _of_known_batch(model: Any) -> Any:
    """`model`, for one sample where it has an LSTM: of an open batch .tflite has no operator for it."""
    keras = kd.keras
    if model.input_shape[0] is not None or not any(
        isinstance(layer, keras.layers.LSTM) for layer in model._flatten_layers()
    ):
        return model
    one = keras.Input(
        model.input_shape[1:], batch_size=1, dtype=model.inputs[0].dtype, name=f"one_{model.input_names[0]}"
    )
    return keras.Model(one, model(one), name=model.name)


def _operators(number_format: NumberFormat) -> Any:
    ops = kd.tf.lite.OpsSet
    if number_format == "int16x8":
        return ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    return ops.TFLITE_BUILTINS_INT8


def _run(converter: Any) -> bytes:
    with warnings.catch_warnings(), captured_stderr() as last_lines:
        warnings.simplefilter("ignore")
        try:
            return bytes(converter.convert())
        except Exception as error:  # the converter raises bare Exceptions of its own making
            failure, said = error, [*last_lines(), *str(error).splitlines()]
    raise ConversionError(
        "TensorFlow's converter refused the model:\n  "
        + "\n  ".join(_reasons(said))
        + "\nRemedy: replace the layers concerned, or leave what they do to the program that runs the file."
    ) from failure


def _reasons(said: list[str]) -> list[str]:
    """The operators that the converter names, or else its last lines."""
    named = dict.fromkeys(match for line in said for match in _REFUSED.findall(line))
    if named:
        return [f"{operator} at {place}: .tflite has no such operator" for operator, place in named]
    lines = [line.strip()[:300] for line in said if line.strip()]
    return list(dict.fromkeys(line for line in lines if "error" in line.lower()))[-5:] or lines[-5:]
