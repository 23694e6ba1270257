"""The calls of TensorFlow's converter that are known to be safe."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.convert.settings import ConversionSettings
from tfcompress.vocabulary.errors import ConversionError
from tfcompress.vocabulary.state import NumberFormat


def float_tflite(model: Any) -> bytes:
    """The float32 .tflite of a Keras model: the reference that an artifact is compared with."""
    return _run(kd.tf.lite.TFLiteConverter.from_keras_model(model))


def quantized_tflite(
    model: Any, number_format: NumberFormat, settings: ConversionSettings, calibration: np.ndarray
) -> bytes:
    """The .tflite of a Keras model in `number_format`, with its tensor names.

    Ranges that quantization-aware training learned are kept; the others come from `calibration`.

    Args:
        model: a tf_keras model, plain or quantized by tfmot.
        number_format: the arithmetic of the file.
        settings: input and output types.
        calibration: the model's inputs, float32 `[n, ...]`.

    Raises:
        ConversionError: the converter refused the model; with its last lines.
    """
    tf = kd.tf
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if number_format == "float16":
        converter.target_spec.supported_types = [tf.float16]
    elif number_format in ("int8", "int16x8"):
        converter.representative_dataset = lambda: ([sample[None]] for sample in calibration)
        converter.target_spec.supported_ops = [_operators(number_format)]
        if settings.allow_float:
            converter.target_spec.supported_ops.append(tf.lite.OpsSet.TFLITE_BUILTINS)
        converter.inference_input_type = _io_type(settings.input_type, number_format)
        converter.inference_output_type = _io_type(settings.output_type, number_format)
    return _run(converter)


def with_preprocessing(model: Any, scale: np.ndarray, offset: np.ndarray) -> Any:
    """`model` behind ``raw * scale + offset``, so that it takes raw values of the same shape."""
    keras = kd.keras
    raw = keras.Input(model.input_shape[1:], name="raw")
    scaled = raw * np.asarray(scale, np.float32)
    if np.any(offset):
        scaled = scaled + np.asarray(offset, np.float32)
    return keras.Model(raw, model(scaled), name=model.name)


def _operators(number_format: NumberFormat) -> Any:
    ops = kd.tf.lite.OpsSet
    if number_format == "int16x8":
        return ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    return ops.TFLITE_BUILTINS_INT8


def _io_type(name: str, number_format: NumberFormat) -> Any:
    if number_format == "int16x8" and name != "float32":
        return kd.tf.int16
    return getattr(kd.tf, name)


def _run(converter: Any) -> bytes:
    with warnings.catch_warnings(), _native_output() as last_lines:
        warnings.simplefilter("ignore")
        try:
            return bytes(converter.convert())
        except Exception as error:  # the converter raises bare Exceptions of its own making
            failure, native = error, last_lines()
    lines = [line for line in (*str(failure).splitlines(), *native) if "error" in line.lower()]
    detail = "\n  ".join(dict.fromkeys(line.strip()[:300] for line in lines[-5:])) or str(failure)[:500]
    raise ConversionError(f"TensorFlow's converter refused the model:\n  {detail}") from failure


@contextlib.contextmanager
def _native_output() -> Iterator[Any]:
    """Catch what native code writes to stderr meanwhile, and give it as lines on request."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as caught:
        saved = os.dup(2)
        os.dup2(caught.fileno(), 2)

        def lines() -> list[str]:
            caught.seek(0)
            return caught.read().decode(errors="replace").splitlines()

        try:
            yield lines
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
