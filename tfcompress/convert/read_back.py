"""Promises read back from the flatbuffer: the last check, on the integers that ship."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tfcompress import keras_door as kd
from tfcompress.convert.flatbuffer import Flatbuffer, Tensor
from tfcompress.models.graph import consumers
from tfcompress.vocabulary.errors import PromiseError
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import State

# Where a weighted operator has its weight among its inputs, and which of its axes is that of the output channels.
_WEIGHT_INPUT = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 1,
    "FULLY_CONNECTED": 1,
    "TRANSPOSE_CONV": 1,
    "BATCH_MATMUL": 1,
    "CONV_3D": 1,
    "GATHER": 0,
}
_CHANNEL_AXIS = {"DEPTHWISE_CONV_2D": 3, "CONV_3D": 4, "GATHER": 1}
# A separable convolution becomes two operators with one layer's name.
_OPERATORS_OF = {"depthwise_kernel": ("DEPTHWISE_CONV_2D",), "pointwise_kernel": ("CONV_2D", "FULLY_CONNECTED")}
_WRAPPER_PREFIX = "quant_"


@dataclass(frozen=True)
class PromiseFound:
    """A promise and the number that the file shows for it."""

    promise: Promise
    found: float

    @property
    def kept(self) -> bool:
        """Whether the file honours the promise."""
        return self.promise.is_kept_by(self.found)


def read_promises(flat: Flatbuffer, state: State) -> tuple[PromiseFound, ...]:
    """What the file shows for each promise of `state`.

    Args:
        flat: the converted file, with its tensor names.
        state: the state it was converted from.

    Raises:
        PromiseError: a promised weight cannot be found in the file, or not uniquely.
    """
    return tuple(_read(flat, state, promise) for promise in state.promises)


def require_kept(found: tuple[PromiseFound, ...]) -> None:
    """Refuse a file that breaks a promise.

    Raises:
        PromiseError: naming every broken promise: weight, promised, found.
    """
    broken = [
        f"{p.weight}: {p.made_by} promised {p.kind} {p.bound:g}, the file has {f.found:g}"
        for f, p in ((f, f.promise) for f in found)
        if not f.kept
    ]
    if broken:
        raise PromiseError("The file breaks what earlier steps promised:\n  " + "\n  ".join(broken))


def _read(flat: Flatbuffer, state: State, promise: Promise) -> PromiseFound:
    weight, channel_axis = find_weight(flat, state.lineage.place(promise.weight), state.model)
    # A table that is gathered from has an asymmetric range, in which zero is not the integer 0.
    zero = weight.zero_points[0] if weight.zero_points.size else 0
    # Input channels are the last axis of every kernel that has groups of them; those of a convolution over patches are
    # the last of its taps and channels.
    values = weight.data.reshape(_shape_of_patches(weight, state.lineage.place(promise.weight), state.model))
    return PromiseFound(promise, promise.found_in(values - zero, channel_axis=channel_axis, input_axis=-1))


def _shape_of_patches(weight: Tensor, place: str, model: Any) -> tuple[int, ...]:
    """`[out, taps, in]` of a convolution's weight that the file has as `[out, taps x in]`; its own of others."""
    layer, _, attribute = place.rpartition("/")
    found = next((part for part in model.layers if part.name in (layer, _WRAPPER_PREFIX + layer)), None)
    kernel = getattr(getattr(found, "layer", found), attribute, None)
    if len(weight.shape) != 2 or kernel is None or len(kernel.shape) != 4:
        return weight.shape
    return weight.shape[0], -1, kernel.shape[-2]


def find_weight(flat: Flatbuffer, place: str, model: Any) -> tuple[Tensor, int]:
    """The constant of the file that holds a Keras weight, and its output-channel axis.

    The converter builds a constant's name from the names of the layers it came from; the weight of a layer is
    the weight operand of an operator whose constant names the layer.

    Args:
        flat: a file with its tensor names.
        place: the weight's name in the converted model, ``"<layer>/<attribute>"``.
        model: the converted model.

    Raises:
        PromiseError: no constant, or more than one, names the layer.
    """
    layer, _, attribute = place.rpartition("/")
    names = _names_in_file(model, layer)
    found: dict[int, tuple[Tensor, int]] = {}
    for op in flat.operators:
        if op.name in _WEIGHT_INPUT and op.name in _OPERATORS_OF.get(attribute, _WEIGHT_INPUT):
            tensor = flat.constant_behind(op.inputs[_WEIGHT_INPUT[op.name]])
            if tensor is not None and names & set(tensor.name.replace(";", "/").split("/")):
                found[tensor.index] = (tensor, _CHANNEL_AXIS.get(op.name, 0))
    if len(found) != 1:
        raise PromiseError(
            f"The promised weight {place} must be one constant of the converted file, to be read back; "
            f"{len(found)} constants carry the name of its layer. A grouped convolution, a layer called twice, or "
            f"one with the same weights as another loses its name. Remedy: exclude {layer} from the steps that "
            "promise, or give it weights of its own."
        )
    return next(iter(found.values()))


def _names_in_file(model: Any, layer: str) -> set[str]:
    """What the converter may call the weight of `layer`: by its name, or by a BatchNormalization merged into it."""
    own = {layer, _WRAPPER_PREFIX + layer}
    behind = (c for part in model.layers if part.name in own for c in consumers(model, part))
    merged = {c.name for c in behind if isinstance(getattr(c, "layer", c), kd.keras.layers.BatchNormalization)}
    return own | merged
