"""Running a .tflite file over many samples, in real numbers on both sides."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.evaluate.interpreter import Kernels, ModelFile, in_child, open_interpreter, read
from tfcompress.vocabulary.errors import EvaluationError
from tfcompress.vocabulary.reporter import Progress, unheard


@dataclass(frozen=True)
class TensorType:
    """What one end of a graph takes or gives.

    Args:
        dtype: NumPy's name of the element type, e.g. `int8`.
        shape: the shape for one run, the batch first; -1 for a size that the file leaves open.
        scale: size of one quantization step; 0 where the numbers are not quantized.
        zero_point: the integer that stands for 0.
    """

    dtype: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int

    @property
    def is_quantized(self) -> bool:
        """Whether integers stand for real numbers by `scale` and `zero_point`."""
        return self.scale != 0 and np.issubdtype(self.dtype, np.integer)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """`values` as the tensor stores them.

        Quantized: `round(value / scale) + zero_point`, halves away from zero and saturated, in float32, as
        TFLite's QUANTIZE operator does it. Otherwise a cast; token ids keep their value.

        Example:
            >>> TensorType("int8", (1,), 0.5, 1).encode(np.array([0.25, -0.25, 1e9]))
            array([  2,   0, 127], dtype=int8)
        """
        if not self.is_quantized:
            return np.asarray(values, self.dtype)
        steps = np.asarray(values, np.float32) / np.float32(self.scale)
        # The half is added in float64: in float32 it would carry the largest number below 0.5 over to 1.
        whole = np.copysign(np.floor(np.abs(steps.astype(np.float64)) + 0.5), steps)
        limits = np.iinfo(self.dtype)
        return np.clip(whole + self.zero_point, limits.min, limits.max).astype(self.dtype)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """The float32 numbers that `stored` stands for.

        Example:
            >>> TensorType("int8", (1,), 0.5, 1).decode(np.array([2, 0], np.int8))
            array([ 0.5, -0.5], dtype=float32)
        """
        if not self.is_quantized:
            return np.asarray(stored, np.float32)
        return (stored.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)


@dataclass(frozen=True)
class IoTypes:
    """What a .tflite file takes and gives."""

    input: TensorType
    output: TensorType


def io_types(model: Path | bytes | ModelFile) -> IoTypes:
    """The types of the one input and the one output of `model`.

    Raises:
        EvaluationError: the file cannot be read, or has several inputs or outputs.
    """
    return _io_types(read(model), "xnnpack")


def output_step(model: Path | bytes | ModelFile) -> float:
    """The output's quantization step: the smallest difference that the file can express; 0 for float outputs."""
    output = io_types(model).output
    return output.scale if output.is_quantized else 0.0


def predict(
    model: Path | bytes | ModelFile,
    inputs: np.ndarray,
    *,
    batch_size: int = 64,
    kernels: Kernels = "xnnpack",
    threads: int = os.cpu_count() or 1,
    progress: Progress = unheard,
) -> np.ndarray:
    """The outputs of `model` for `inputs`, both in real numbers whatever the file's own types are.

    Inputs are quantized and outputs dequantized with the scales and zero points that the file states
    (`TensorType.encode`, `TensorType.decode`). The graph is resized to the batch; one that cannot be, such as one
    that reshapes to a fixed batch, runs at the batch it was made for. State (of an LSTM) is reset before each run.

    Args:
        model: the path of a .tflite file with one input and one output, or its bytes, or both as `read` gives them.
        inputs: `[n, ...]`, preprocessed as the float model expects; not yet quantized.
        batch_size: samples a run. Defaults to 64.
        kernels: which kernels run the graph. Defaults to `xnnpack`.
        threads: threads that the kernels may use. Defaults to the machine's.
        progress: told of the samples done after every run. Defaults to silence.

    Returns:
        float32 `[n, ...]`.

    Raises:
        EvaluationError: the file cannot be read or run, or the inputs do not fit it.

    Example:
        >>> predict(Path("model_int8.tflite"), images)[0].argmax()  # doctest: +SKIP
        7
    """
    inputs = np.asarray(inputs)
    file = read(model)
    types = _io_types(file, kernels)
    _check_inputs(inputs, types.input, file.where)
    stored = types.input.encode(inputs)
    batches = tuple(dict.fromkeys((min(batch_size, len(stored)), types.input.shape[0])))
    arguments = (file, stored, batches, kernels, threads)
    return types.output.decode(in_child(_run, *arguments, where=file.where, doing="Running", progress=progress))


def _run(
    file: ModelFile, stored: np.ndarray, batches: Sequence[int], kernels: Kernels, threads: int, progress: Progress
) -> np.ndarray:
    """Raw outputs `[n, ...]` for raw inputs, at the first of the batch sizes that the graph runs at."""
    refusals = []
    for batch in batches:
        try:
            return _run_batched(file, stored, batch, kernels, threads, progress)
        except _CannotBatch as refusal:
            refusals.append(f"at batch {batch}: {refusal}")
    raise EvaluationError(f"A model must run at the batch it was made for. {file.where}, {'; '.join(refusals)}.")


@lru_cache(maxsize=1)
def _opened(file: ModelFile, shape: tuple[int, ...], kernels: Kernels, threads: int) -> Any:
    """An interpreter with an input of `shape`; the last one is kept, for a teacher is asked batch after batch."""
    interpreter = open_interpreter(file, threads=threads, kernels=kernels, allocate=False)
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], shape)
    interpreter.allocate_tensors()
    return interpreter


class _CannotBatch(Exception):  # noqa: N818 - a signal, no failure
    """The graph does not run at the batch asked for."""


def _run_batched(
    file: ModelFile, stored: np.ndarray, batch: int, kernels: Kernels, threads: int, progress: Progress
) -> np.ndarray:
    """Raw outputs `[n, ...]` for raw inputs, `batch` at a time."""
    pieces = []
    try:
        interpreter = _opened(file, (batch, *stored.shape[1:]), kernels, threads)
        input_index = interpreter.get_input_details()[0]["index"]
        output_index = interpreter.get_output_details()[0]["index"]
        for start in range(0, len(stored), batch):
            piece = stored[start : start + batch]
            # The last piece is filled up with its own last sample: cheaper and safer than another resize.
            filled = np.concatenate([piece, np.repeat(piece[-1:], batch - len(piece), axis=0)])
            interpreter.reset_all_variables()
            interpreter.set_tensor(input_index, filled)
            interpreter.invoke()
            output = interpreter.get_tensor(output_index)
            if output.shape[:1] != (batch,):
                raise _CannotBatch(f"{batch} samples gave an output of shape {output.shape}")
            pieces.append(output[: len(piece)])
            progress(start + len(piece), len(stored))
    except (RuntimeError, ValueError) as error:
        raise _CannotBatch(str(error)) from error
    return np.concatenate(pieces)


def _check_inputs(inputs: np.ndarray, expected: TensorType, where: str) -> None:
    """Refuse inputs that the file cannot take, all reasons at once."""
    problems = []
    shape = expected.shape[1:]
    if inputs.ndim != len(expected.shape) or any(
        size not in (-1, got) for size, got in zip(shape, inputs.shape[1:], strict=False)
    ):
        problems.append(f"each of shape {shape}, and came with {inputs.shape[1:]}")
    if inputs.ndim == 0 or len(inputs) == 0:
        problems.append("at least one, and there are none")
    if not (np.issubdtype(inputs.dtype, np.number) or inputs.dtype == bool):
        problems.append(f"numbers, and came as {inputs.dtype}")
    elif not np.isfinite(inputs).all():
        problems.append("finite, and hold NaN or infinities")
    elif np.issubdtype(expected.dtype, np.integer) and not expected.is_quantized:
        limits = np.iinfo(expected.dtype)
        if (inputs != np.floor(inputs)).any():
            problems.append(f"whole numbers for an unquantized {expected.dtype} input, and hold fractions")
        elif inputs.size and (inputs.min() < limits.min or inputs.max() > limits.max):
            problems.append(f"within {expected.dtype}, and reach from {inputs.min()} to {inputs.max()}")
    if problems:
        raise EvaluationError(
            f"Inputs of {where} must be {'; '.join(problems)}. Preprocess them as for the float model."
        )


def _io_types(file: ModelFile, kernels: Kernels) -> IoTypes:
    return in_child(_read_io_types, file, kernels, where=file.where, doing="Opening")


def _read_io_types(file: ModelFile, kernels: Kernels) -> IoTypes:
    interpreter = open_interpreter(file, kernels=kernels)
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(inputs) != 1 or len(outputs) != 1:
        raise EvaluationError(
            f"A model must have one input and one output to be evaluated. {file.where} has "
            f"{len(inputs)} inputs and {len(outputs)} outputs. Give each output a model of its own."
        )
    return IoTypes(tensor_type(inputs[0]), tensor_type(outputs[0]))


def tensor_type(details: Mapping[str, Any]) -> TensorType:
    """The type of a tensor from what LiteRT tells of it."""
    scale, zero_point = details["quantization"]
    shape, signature = details["shape"], details["shape_signature"]
    # The batch is always resized, so that the size the file was made with says more than its being open.
    own = [int(size) for size in (signature if len(signature) == len(shape) else shape)]
    own[:1] = [int(size) for size in shape[:1]]
    return TensorType(np.dtype(details["dtype"]).name, tuple(own), float(scale), int(zero_point))
