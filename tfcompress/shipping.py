"""From a finished state to the file that ships: converted, proven, its promises read back, stripped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress.convert.c_array import micro_operators
from tfcompress.convert.converter import quantized_tflite, with_preprocessing
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.litert import litert_tflite
from tfcompress.convert.patches import int4_as_fully_connected
from tfcompress.convert.proof import Proof, prove_integer, require_integer
from tfcompress.convert.read_back import PromiseFound, find_weight, read_promises, require_kept
from tfcompress.convert.settings import ConversionSettings
from tfcompress.convert.strip import strip_names
from tfcompress.vocabulary.errors import ConversionError, RecipeError
from tfcompress.vocabulary.preprocessing import Preprocessing
from tfcompress.vocabulary.state import State


@dataclass(frozen=True)
class Shipment:
    """A converted file and what was proven of it while it still had its names.

    Args:
        content: what ships.
        named: the same file with its tensor names.
        proof: that it is integer.
        promises: what it shows of them.
    """

    content: bytes
    named: bytes
    proof: Proof
    promises: tuple[PromiseFound, ...]


def ship(state: State, settings: ConversionSettings, preprocessing: Preprocessing, calibration: np.ndarray) -> Shipment:
    """Convert `state` and prove the result.

    Args:
        state: a state whose number format has been chosen.
        settings: the form of the file.
        preprocessing: put into the file where `settings` ask for it.
        calibration: raw training inputs `[n, ...]`.

    Raises:
        ConversionError: the converter refused, or an operator that was to be integer is not.
        PromiseError: the file breaks a promise.
        RecipeError: no step has chosen a number format.
    """
    content, flat, proof = _proven(state, settings, preprocessing, calibration)
    promises = read_promises(flat, state)
    require_kept(promises)
    return Shipment(strip_names(content) if settings.strip_names else content, content, proof, promises)


def rehearse(
    state: State, settings: ConversionSettings, preprocessing: Preprocessing, calibration: np.ndarray
) -> bytes:
    """Convert a model that is yet to be trained, so that what cannot ship is known before the training.

    Takes the arguments of `ship`; the promises of `state` need not be true yet, but their weights must be found.

    Returns:
        The file as it would ship, of values that are still to change.

    Raises:
        ConversionError, PromiseError, RecipeError: as `ship` would, hours later.
    """
    content, flat, _ = _proven(state, settings, preprocessing, calibration)
    for promise in state.promises:
        find_weight(flat, state.lineage.place(promise.weight), state.model)
    if settings.c_array:
        micro_operators(content)
    return strip_names(content) if settings.strip_names else content


def _proven(
    state: State, settings: ConversionSettings, preprocessing: Preprocessing, calibration: np.ndarray
) -> tuple[bytes, Flatbuffer, Proof]:
    if state.number_format is None:
        raise RecipeError("No step has chosen the file's arithmetic. Remedy: add quantization, or post_training.")
    model, samples = state.model, preprocessing.apply(calibration)
    if settings.preprocessing_in_graph and model.inputs[0].dtype.is_integer:
        raise RecipeError(
            f"conversion.preprocessing_in_graph needs an input of real numbers, and the model's is of "
            f"{model.inputs[0].dtype.name}, which is fed unchanged. Remedy: leave it off."
        )
    if settings.preprocessing_in_graph:
        model = with_preprocessing(model, preprocessing.scale, preprocessing.offset)
        samples = _with_byte_range(calibration).astype(np.float32)
    if state.litert is None:
        content = quantized_tflite(model, state.number_format, settings, samples)
    else:
        content = litert_tflite(model, state.litert, settings, samples, state.model)
    if settings.int4_convolutions == "fully_connected":
        content = int4_as_fully_connected(content)
    flat = Flatbuffer(content)
    proof = prove_integer(flat)
    if state.number_format in ("int8", "int16x8") and not settings.allow_float:
        require_integer(proof)
    _require_types(flat, _ends(model, settings.io_types(state.number_format)))
    return content, flat, proof


def _ends(model: Any, types: tuple[str, str]) -> tuple[str, str]:
    """What the file's ends must be: `types`, but integers of the model's own (token ids in, an index out) stay."""
    fed, given_back = model.inputs[0].dtype, model.outputs[0].dtype
    return (
        fed.name if fed.is_integer else types[0],
        given_back.name if given_back.is_integer else types[1],
    )


def _require_types(flat: Flatbuffer, wanted: tuple[str, str]) -> None:
    found = tuple(ends[0].dtype.lower() for ends in (flat.inputs, flat.outputs))
    if found != wanted:
        raise ConversionError(
            f"The file must have an input of {wanted[0]} and an output of {wanted[1]}, as asked; the converter made "
            f"{found[0]} and {found[1]}. Remedy: other conversion.input_type and conversion.output_type."
        )


def _with_byte_range(raw: np.ndarray) -> np.ndarray:
    """`raw` with a 0 and a 255 in the first sample where it holds bytes.

    The input then has the scale 1, and a file of uint8 input takes bytes as they are.
    """
    if raw.dtype != np.uint8:
        return raw
    samples = raw.copy()
    ends = samples[0].reshape(-1)
    ends[0], ends[-1] = 0, 255
    return samples
