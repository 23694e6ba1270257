"""What of a model computes in integers, with weights on their grids: the part that training and calibration share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from tfcompress import keras_door as kd
from tfcompress.models.graph import calls, consumers, has_kernel, is_masked, producers
from tfcompress.models.recurrent import unrolled
from tfcompress.techniques._levels import Levels, count, magnitudes
from tfcompress.techniques.base import (
    BY_CALIBRATION,
    IN_NESTED_MODEL,
    NOTHING,
    YES,
    Verdict,
    value_for,
)
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import QuantizedWeight, State

Bits = Annotated[int, Field(ge=2, le=8)]
Storage = Literal["speed", "size"]

INT4_BITS, INT4_TOP = 4, 7
"""Integers up to this one, in widths up to that, fit TFLite's INT4 tensors."""
CONTAINER_BITS = 8
"""Width of the integers that hold all others."""


def integer_form(model: Any, grids: Mapping[str, Any], *, learned_ranges: bool = False) -> Any:
    """A copy of `model` that rounds as its file will, wherever tfmot can wrap it.

    Args:
        model: a Sequential or Functional model.
        grids: the `WeightGrid` of each layer among `quantizable_weights`.
        learned_ranges: whether the ranges of activations are to be trained. Defaults to False.

    Raises:
        ModelError: tfmot made another model of it.
    """
    from tfcompress.techniques import _fake_quant
    from tfcompress.techniques._rounded_activations import round_inner_activations
    from tfcompress.techniques._wrapping_proof import prove_wrapped

    wrapped = {layer.name for layer in model.layers if verdict_on(model, layer).outcome == YES}
    # The converter needs loops unrolled, and a quantized model can no longer be rewritten.
    made = _fake_quant.quantized(unrolled(model), wrapped, grids)
    _fake_quant.use_calibrated_activations(made, learned=learned_ranges)
    prove_wrapped(made, model)
    round_inner_activations(made)
    return made


def settled(state: State, made_by: str) -> State:
    """`state` to ship, its weights and biases exactly as the file is to hold them, and the promises of their levels.

    Args:
        state: its model an `integer_form`.
        made_by: the step's name.
    """
    from tfcompress.techniques import _fake_quant
    from tfcompress.techniques._rounded_biases import round_biases

    quantized, promises = {}, []
    for wrapper, weight, quantizer in _fake_quant.weight_quantizers(state.model):
        grid = quantizer.grid
        quantizer.settle(weight)
        name = state.lineage.origin(f"{wrapper.layer.name}/{_fake_quant.attribute_of(weight)}")
        quantized[name] = QuantizedWeight(grid.bits, grid.container_bits, grid.channel_axes)
        number = count(grid.levels, grid.bits)
        if grid.levels != "uniform":
            promises.append(Promise(name, "distinct", number, made_by=made_by))
        elif grid.bits < CONTAINER_BITS:
            promises.append(Promise(name, "levels", number, "channel", made_by=made_by))
    round_biases(state.model)
    return state.evolve(quantization=quantized, number_format="int8", promises=(*state.promises, *promises))


def container_bits(layer: Any, bits: int, storage: Storage, levels: Levels = "uniform") -> int:
    """The width of the integers that hold weights of `bits` in `layer`, stored for ``speed`` or ``size``."""
    layers = kd.keras.layers
    # TFLite's transposed convolution takes no INT4 weights.
    may_be_int4 = isinstance(layer, layers.Dense) or (
        storage == "size" and not isinstance(layer, layers.Conv2DTranspose)
    )
    fits = bits <= INT4_BITS and magnitudes(levels, bits)[-1] <= INT4_TOP
    return INT4_BITS if fits and may_be_int4 else CONTAINER_BITS


def bits_out_of_reach(model: Any, per_layer: Mapping[str, int]) -> list[Verdict]:
    """The layers left to calibration that `per_layer` wants to give bits to."""
    return [
        replace(
            verdict,
            reason=f"per_layer gives it bits, but it is quantized by calibration, to 8: {verdict.reason}",
            remedy=f"a pattern that leaves it out, or {verdict.remedy}",
        )
        for verdict in unsupported(model)
        if value_for(verdict.layer, None, dict(per_layer)) is not None and has_kernel(model.get_layer(verdict.layer))
    ]


def channel_axes(layer: Any) -> int:
    """How many of the last axes of the layer's weight number channels that have a scale each in a .tflite file.

    Dense and transposed convolutions have none: their converted form takes one scale from training.
    """
    layers = kd.keras.layers
    if isinstance(layer, layers.DepthwiseConv2D):
        return 2
    if isinstance(layer, layers.Conv2D) and not isinstance(layer, layers.Conv2DTranspose):
        return 1
    return 0


def quantizable_weights(model: Any) -> dict[str, str]:
    """The layers whose weights are trained as integers, and the attribute that holds each weight."""
    from tfcompress.techniques import _fake_quant

    registry = _fake_quant.Registry({})
    trained = [layer for layer in model.layers if verdict_on(model, layer).outcome == YES]
    found = {layer.name: _fake_quant.weight_attribute(registry, layer) for layer in trained}
    return {name: attribute for name, attribute in found.items() if attribute}


def unsupported(model: Any) -> list[Verdict]:
    """The layers that cannot be trained as integers and are left to calibration."""
    return [v for v in (verdict_on(model, layer) for layer in model.layers) if v.outcome == BY_CALIBRATION]


def verdict_on(model: Any, layer: Any) -> Verdict:
    """Whether `layer` is made integer here, or left to the converter's calibration, and why."""
    if isinstance(layer, kd.keras.layers.InputLayer):
        return Verdict(layer.name, NOTHING)
    left = _left_to_calibration(model, layer)
    return Verdict(layer.name, BY_CALIBRATION, *left) if left else Verdict(layer.name, YES)


def _left_to_calibration(model: Any, layer: Any) -> tuple[str, str] | None:
    """Why `layer` cannot be trained as integers, and what would change that; None when it can."""
    from tfcompress.techniques import _fake_quant

    layers = kd.keras.layers
    activation = getattr(getattr(layer, "activation", None), "__name__", None)
    if calls(model, layer) > 1:
        return "it is called more than once", "give each call a layer of its own"
    if is_masked(model, layer):
        return "a mask reaches it, which tfmot's wrapper does not take", "do without mask_zero and Masking"
    if isinstance(layer, layers.BatchNormalization):
        reason = "BatchNormalization is trained as integers only right behind a linear convolution or Dense, itself so"
        return None if _folds(model, layer) else (reason, "put it there")
    if isinstance(layer, (layers.SeparableConv1D, layers.SeparableConv2D)):
        same = "write it as a DepthwiseConv2D and a 1x1 Conv2D, which is the same network"
        return "it has two kernels, and tfmot's wrapper takes one", same
    if isinstance(layer, kd.keras.Model):
        return IN_NESTED_MODEL
    if not _fake_quant.Registry({}).supports(layer):
        return "this type of layer has no integer form in training", "replace it by layers that have"
    if activation not in _fake_quant.ACTIVATIONS:
        known = ", ".join(sorted(a for a in _fake_quant.ACTIVATIONS if a))
        return f"the activation {activation} has no integer form in training", f"choose one that has: {known}"
    return None


def _folds(model: Any, batch_norm: Any) -> bool:
    layers = kd.keras.layers
    linear = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)
    sources = producers(model, batch_norm)
    return (
        len(sources) == 1
        and isinstance(sources[0], linear)
        and sources[0].activation.__name__ == "linear"
        and len(consumers(model, sources[0])) == 1
        and _left_to_calibration(model, sources[0]) is None
    )


def listed(model: Any, verdicts: Iterable[Verdict]) -> str:
    """A line for each of `verdicts` on layers of `model`, in one text."""
    return "\n  ".join(
        f"{v.layer} ({type(model.get_layer(v.layer)).__name__}): {v.reason}. Remedy: {v.remedy}" for v in verdicts
    )
