"""The calls of TensorFlow's converter that are known to be safe, made in a child process."""

from __future__ import annotations

import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import numpy as np

from tfcompress import contained
from tfcompress import keras_door as kd
from tfcompress._contained_worker import at
from tfcompress.convert.settings import ConversionSettings
from tfcompress.models.recurrent import unrolled
from tfcompress.native_output import captured_stderr
from tfcompress.vocabulary.errors import ConversionError
from tfcompress.vocabulary.state import NumberFormat

# As the compiler writes the place of an operation: fused["Svd:", callsite("model/layer/Svd@...
_REFUSED = re.compile(r'fused\["(\w+):", callsite\("([^"@/]+/[^"@]+)@')


_FOR_FILE = ContextVar("for_file", default=False)


def is_for_file() -> bool:
    """Whether what is computed now becomes a file: a layer then leaves out what imitates the file's own arithmetic."""
    return _FOR_FILE.get()


def warm_up() -> None:
    """Let the child process import TensorFlow, which takes seconds, while this one does something else."""
    contained.warm_up(_import_tensorflow)


def float_tflite(model: Any, settings: ConversionSettings | None = None) -> bytes:
    """The float32 .tflite of a Keras model: the reference that an artifact is compared with.

    Args:
        model: a tf_keras model.
        settings: the limits of the conversion. Defaults to none.

    Raises:
        ConversionError: the converter refused the model, crashed, or exceeded a limit.
    """
    return _contained(model, None, settings or ConversionSettings(), None)


def quantized_tflite(
    model: Any, number_format: NumberFormat, settings: ConversionSettings, calibration: np.ndarray
) -> bytes:
    """The .tflite of a Keras model in `number_format`, with its tensor names.

    Ranges that quantization-aware training learned are kept; the others come from `calibration`.

    Args:
        model: a tf_keras model, plain or quantized by tfmot.
        number_format: the arithmetic of the file.
        settings: input and output types, and the limits of the conversion.
        calibration: the model's inputs, float32 or int32 `[n, ...]`.

    Raises:
        ConversionError: the converter refused the model, crashed, or exceeded a limit; with its last lines.
        ModelError: a GRU or SimpleRNN has too many steps.
    """
    samples = None
    if number_format in ("int8", "int16x8"):
        # Token ids must come as the integers that the model takes.
        samples = calibration.astype(model.inputs[0].dtype.as_numpy_dtype)
    return _contained(model, number_format, settings, samples)


def with_preprocessing(model: Any, scale: np.ndarray, offset: np.ndarray) -> Any:
    """`model` behind ``raw * scale + offset``, so that it takes raw values of the same shape."""
    keras = kd.keras
    raw = keras.Input(model.input_shape[1:], name="raw")
    scaled = raw * np.asarray(scale, np.float32)
    if np.any(offset):
        scaled = scaled + np.asarray(offset, np.float32)
    return keras.Model(raw, model(scaled), name=model.name)


def _of_known_batch(model: Any) -> Any:
    """`model`, for one sample where it has an LSTM, or a Dense over a sequence.

    Of an open batch .tflite has no operator for an LSTM. A Dense over a sequence it multiplies in a shape computed as
    it runs, on a grid other than the trained one, and adds the bias to what is rounded already.
    """
    keras = kd.keras
    if model.input_shape[0] is not None or not any(map(_wants_known_batch, model._flatten_layers())):
        return model
    one = keras.Input(
        model.input_shape[1:], batch_size=1, dtype=model.inputs[0].dtype, name=f"one_{model.input_names[0]}"
    )
    return keras.Model(one, model(one), name=model.name)


def _wants_known_batch(layer: Any) -> bool:
    layers = kd.keras.layers
    # A layer that was never called, or with several shapes, has no one input shape.
    shape = getattr(layer, "input_shape", None) or ()
    over_a_sequence = isinstance(getattr(layer, "layer", layer), layers.Dense) and len(shape) > 2
    return over_a_sequence or isinstance(layer, layers.LSTM)


def _contained(
    model: Any, number_format: NumberFormat | None, settings: ConversionSettings, samples: np.ndarray | None
) -> bytes:
    """Convert in the child, from a SavedModel: that is what the converter makes of a Keras model itself.

    The child needs none of the caller's own layers then.
    """
    warm_up()
    with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder:
        _save(_of_known_batch(unrolled(model)), folder, exact=number_format is None)
        return contained.call(
            _convert,
            folder,
            number_format,
            settings,
            samples,
            stage=f"Converting {model.name} to {number_format or 'float32'}",
            error=ConversionError,
            remedy="replace the layers that loop (an RNN over cells: by a GRU, SimpleRNN or LSTM, not stateful and "
            "over a known number of steps), or those added last.",
            limits=contained.Limits(settings.time_limit_s, settings.memory_limit_mb),
        )


def _import_tensorflow() -> None:
    """In the child: all that comes before the first conversion, and is not counted against its time limit."""
    # TensorFlow imports a Keras only to offer it, which takes a third of its import; no conversion needs one.
    for name in ("keras", "tf_keras"):
        sys.modules.setdefault(name, None)
    kd.tf.config.list_logical_devices()
    for name in ("keras", "tf_keras"):
        if sys.modules[name] is None:
            del sys.modules[name]


def _save(model: Any, folder: str, *, exact: bool) -> None:
    """Write the inference of `model` as a SavedModel: one function and its variables.

    Keras' own way traces each layer for itself as well, which the converter has no use for: it takes five times as
    long, and gives the same .tflite.

    Args:
        model: whose inference is meant.
        folder: to write.
        exact: whether the file is to hold every weight as it is, and not in integers.
    """
    tf = kd.tf
    options = tf.saved_model.SaveOptions(save_debug_info=True)
    with warnings.catch_warnings(), captured_stderr():
        warnings.simplefilter("ignore")
        try:
            inference = _inference(model)
            module = tf.Module()
            # A SavedModel holds the variables that it is told of; a layer may use others than it has as attributes.
            module.used = inference.graph.variables
            with nullcontext() if exact else _of_different_values(module.used):
                tf.saved_model.save(module, folder, signatures=inference, options=options)
        except (OSError, tf.errors.OpError) as error:
            raise ConversionError(
                f"Cannot write the model for its conversion. {folder}: {str(error).strip()}\n"
                "Remedy: make room there, or set TMPDIR to another folder."
            ) from error
        except Exception as error:  # a model's own layers may raise anything
            raise ConversionError(
                f"A model must be one that TensorFlow can save, to be converted. {model.name}: {error}\n"
                "Remedy: keep the variables that a layer uses as its attributes, and its computation in TensorFlow."
            ) from error


@contextmanager
def _of_different_values(variables: Sequence[Any]) -> Iterator[None]:
    """While it lasts, the last value of every vector of equal values is the next float.

    A constant of equal values is one number to the converter: it quantizes a trained bias like that on the scale of
    the first channel, and the file then reads it on each channel's own, which gives all others another bias.
    """
    vectors = {id(v): (v, v.numpy()) for v in variables if v.shape.rank == 1 and v.dtype.is_floating}
    equal = [(v, values) for v, values in vectors.values() if len(values) > 1 and np.ptp(values) == 0 != values[0]]
    try:
        for variable, values in equal:
            variable.assign([*values[:-1], np.nextafter(values[-1], np.inf, dtype=values.dtype)])
        yield
    finally:
        for variable, values in equal:
            variable.assign(values)


def _inference(model: Any) -> Any:
    """`model` outside training as a concrete function with its inputs' and outputs' names."""
    tf = kd.tf
    signature = [
        tf.TensorSpec(tensor.shape, tensor.dtype, name)
        for tensor, name in zip(model.inputs, model.input_names, strict=True)
    ]

    @tf.function(input_signature=signature)
    def infer(*inputs: Any) -> dict[str, Any]:
        outputs = tf.nest.flatten(model(list(inputs) if len(inputs) > 1 else inputs[0], training=False))
        return dict(zip(model.output_names, outputs, strict=True))

    token = _FOR_FILE.set(True)
    try:
        return infer.get_concrete_function()
    finally:
        _FOR_FILE.reset(token)


def _convert(
    folder: str, number_format: NumberFormat | None, settings: ConversionSettings, samples: np.ndarray | None
) -> bytes:
    """The .tflite of the SavedModel in `folder`; in the child."""
    tf = kd.tf
    at("reading the graph")
    with warnings.catch_warnings(), captured_stderr() as last_lines:
        warnings.simplefilter("ignore")
        try:
            converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
            _set_up(converter, number_format, settings, samples)
            at("compiling the graph")
            return bytes(converter.convert())
        except Exception as error:  # the converter raises bare Exceptions of its own making
            failure, said = error, [*last_lines(), *str(error).splitlines()]
    raise ConversionError(
        "TensorFlow's converter refused the model:\n  "
        + "\n  ".join(_reasons(said))
        + "\nRemedy: replace the layers concerned, or leave what they do to the program that runs the file."
    ) from failure


def _set_up(
    converter: Any, number_format: NumberFormat | None, settings: ConversionSettings, samples: np.ndarray | None
) -> None:
    tf = kd.tf
    if number_format is None:
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if number_format == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if samples is not None:
        converter.representative_dataset = lambda: _one_by_one(samples)
        converter.target_spec.supported_ops = [_operators(number_format)]
        if settings.allow_float:
            converter.target_spec.supported_ops.append(tf.lite.OpsSet.TFLITE_BUILTINS)
        input_type, output_type = settings.io_types(number_format)
        converter.inference_input_type = getattr(tf, input_type)
        converter.inference_output_type = getattr(tf, output_type)


def _one_by_one(samples: np.ndarray) -> Iterator[list[np.ndarray]]:
    """What the converter calibrates with: batches of one."""
    at("calibrating")
    for sample in samples:
        yield [sample[None]]
    at("quantizing")


def _operators(number_format: NumberFormat) -> Any:
    ops = kd.tf.lite.OpsSet
    if number_format == "int16x8":
        return ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    return ops.TFLITE_BUILTINS_INT8


def _reasons(said: list[str]) -> list[str]:
    """The operators that the converter names, or else its last lines."""
    named = dict.fromkeys(match for line in said for match in _REFUSED.findall(line))
    if named:
        return [f"{operator} at {place}: .tflite has no such operator" for operator, place in named]
    lines = [line.strip()[:300] for line in said if line.strip()]
    return list(dict.fromkeys(line for line in lines if "error" in line.lower()))[-5:] or lines[-5:]
