"""Full-integer files by the LiteRT quantizer, from float ones; made in a child process."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfcompress import contained
from tfcompress.convert.converter import float_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.read_back import find_weight
from tfcompress.convert.settings import ConversionSettings
from tfcompress.vocabulary.errors import ConversionError, PromiseError
from tfcompress.vocabulary.state import LitertQuantizer

PACKAGE = "ai_edge_quantizer"

_FOUR_BIT = ("CONV_2D", "FULLY_CONNECTED")
_EIGHT_BIT = ("DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE")


def is_installed() -> bool:
    """Whether the LiteRT quantizer, an extra of this package, can be imported."""
    return importlib.util.find_spec(PACKAGE) is not None


def litert_tflite(
    model: Any, how: LitertQuantizer, settings: ConversionSettings, calibration: np.ndarray, layers: Any = None
) -> bytes:
    """The full-integer .tflite of a Keras model, with its tensor names: see `litert_of_float`.

    Args:
        model: a float tf_keras model.
        how, settings, calibration: likewise.
        layers: the model whose layers `how` names, where `model` only holds it. Defaults to `model`.

    Raises:
        ConversionError, PromiseError: likewise; or the converter refused the model.
    """
    return litert_of_float(float_tflite(model, settings), how, settings, calibration, layers or model)


def litert_of_float(
    content: bytes, how: LitertQuantizer, settings: ConversionSettings, calibration: np.ndarray, model: Any
) -> bytes:
    """The full-integer .tflite of a float one, with its tensor names.

    Depthwise and transposed convolutions have 8-bit weights whatever is asked, for it has no others for them. An
    algorithm that is not made for an operator (GPTQ, but for a Dense) leaves it to min-max.

    Args:
        content: of the float file.
        how: algorithm, widths, and what has 16-bit activations.
        settings: the limits of the conversion.
        calibration: the model's inputs, `[n, ...]`.
        model: the tf_keras model whose layers `how` names.

    Raises:
        ConversionError: the quantizer refused the model, crashed, or exceeded a limit.
        PromiseError: the weight of a layer of 16 bits is not found in the float file.
    """
    flat = Flatbuffer(content)
    return contained.call(
        _quantize,
        content,
        how,
        [_output_of(flat, place, model) for place in how.sixteen_bit],
        calibration.astype(model.inputs[0].dtype.as_numpy_dtype),
        stage=f"Quantizing {model.name} by LiteRT",
        error=ConversionError,
        remedy="backend: converter.",
        limits=contained.Limits(settings.time_limit_s, settings.memory_limit_mb),
    )


def within(content: bytes, places: Sequence[str], model: Any) -> list[str]:
    """The weights whose operators are found in the file and do not give its outputs, which keep the type asked for.

    Args:
        content: of the float file.
        places: ``"<layer>/<attribute>"`` each.
        model: the tf_keras model that these are of.
    """
    flat = Flatbuffer(content)
    ends = {tensor.name for tensor in flat.outputs}
    return [place for place in places if _found_output_of(flat, place, model) not in (None, *ends)]


def _found_output_of(flat: Flatbuffer, place: str, model: Any) -> str | None:
    """As `_output_of`; None where the weight cannot be told."""
    try:
        return _output_of(flat, place, model)
    except PromiseError:
        return None


def _output_of(flat: Flatbuffer, place: str, model: Any) -> str:
    """The name of the tensor that the operator with the weight at `place` gives."""
    weight, _ = find_weight(flat, place, model)
    operator = next(op for op in flat.operators if weight.index in op.inputs)
    return flat.tensors[operator.outputs[0]].name


def _quantize(content: bytes, how: LitertQuantizer, sixteen_bit: Sequence[str], samples: np.ndarray) -> bytes:
    """The quantized file; in the child."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer

    signature, ends = next(iter(Interpreter(model_content=content).get_signature_list().items()))
    data = {signature: [{ends["inputs"][0]: sample[None]} for sample in samples]}
    try:
        # It prints a summary.
        with contextlib.redirect_stdout(io.StringIO()):
            made = quantizer.Quantizer(bytearray(content))
            _set_up(made, how, sixteen_bit)
            return bytes(made.quantize(made.calibrate(data)).quantized_model)
    except (ValueError, RuntimeError, KeyError) as error:
        raise ConversionError(
            f"The LiteRT quantizer refused the model: {error}\nRemedy: backend: converter, or another algorithm."
        ) from error


def _set_up(made: Any, how: LitertQuantizer, sixteen_bit: Sequence[str]) -> None:
    """Tell the quantizer what to do; what is told later replaces what was told of the same operator."""
    from ai_edge_quantizer import algorithm_manager, qtyping

    names, algorithms = qtyping.TFLOperationName, algorithm_manager.AlgorithmName
    algorithm = _ALGORITHMS[how.algorithm]
    granularity = getattr(qtyping.QuantGranularity, f"{how.weight_granularity}wise".upper())
    min_max = algorithms.MIN_MAX_UNIFORM_QUANT
    made.add_static_config(".*", names.ALL_SUPPORTED, 8, 8, granularity, min_max)
    chosen = getattr(algorithms, algorithm)
    supported = algorithm_manager.get_supported_ops(chosen)
    for operators, bits in ((_FOUR_BIT, how.weight_bits), (_EIGHT_BIT, 8)):
        for name in map(names, operators):
            own = chosen if name in supported else min_max
            made.add_static_config(".*", name, 8, bits, granularity, own)
    for tensor in sixteen_bit:
        made.add_static_config(f"^{re.escape(tensor)};?$", names.ALL_SUPPORTED, 16, 8, granularity, min_max)


_ALGORITHMS = {"min_max": "MIN_MAX_UNIFORM_QUANT", "octav": "OCTAV", "mse": "MSE", "gptq": "GPTQ"}
