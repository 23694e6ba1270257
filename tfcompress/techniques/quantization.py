"""Quantization-aware training: weights of 2...8 bits and 8-bit activations, emulated while the model trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from tfcompress import keras_door as kd
from tfcompress.models.graph import calls, consumers, is_masked, producers
from tfcompress.models.recurrent import unrolled
from tfcompress.techniques.base import (
    BY_CALIBRATION,
    IN_NESTED_MODEL,
    NO,
    NOTHING,
    YES,
    StepPlan,
    Technique,
    Verdict,
    has_kernel,
    select_layers,
    value_for,
)
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import QuantizedWeight, State

Bits = Annotated[int, Field(ge=2, le=8)]

INT4_BITS = 4
"""Widths up to this one fit TFLite's INT4 tensors."""
CONTAINER_BITS = 8
"""Width of the integers that hold all others."""


class Quantization(Technique):
    """Train with the rounding of the integer file in the loop, on tfmot's `quantize_apply`.

    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
    (2018). Zeros and shared values that earlier steps promised are kept (PQAT, CQAT, PCQAT) without being told
    to; a weight with shared values gets one range for all its channels, so that equal values stay equal
    integers. With `fit: {epochs: 0}` it is calibration alone that keeps the promises.

    A layer that tfmot cannot wrap (an LSTM, attention, an Embedding) is trained in float among the others, and gets
    8 bits by calibration when the model is converted; the file is integer throughout all the same.

    Example:
        >>> Quantization(weight_bits=8, per_layer={"conv*": 4}).per_layer
        {'conv*': 4}
    """

    stage: ClassVar[str] = "quantized"
    open_ended: ClassVar[bool] = True

    technique: Literal["quantization"] = "quantization"
    weight_bits: Bits = 8
    """Bits of the grid of every weight trained as integers, 2...8: 2**bits - 1 levels around zero. Defaults to 8."""
    per_layer: dict[str, Bits] = Field(default={})
    """Other widths for layers by pattern."""
    low_bit_storage: Literal["speed", "size"] = "speed"
    """Where up to 4 bits are stored: `size` in INT4 tensors, half the bytes; `speed` in INT4 only for Dense,
    whose kernels run it, and in int8 for convolutions, whose INT4 kernels are about five times slower. Transposed
    convolutions have none and stay in int8."""

    def verdicts(self, model: Any) -> tuple[Verdict, ...]:
        """Which layers are trained as integers, and which are left to calibration."""
        return tuple(_verdict(model, layer) for layer in model.layers)

    def layers_with_values(self, model: Any) -> tuple[str, ...]:
        """The layers whose weights are trained as integers."""
        return tuple(quantizable_weights(model))

    def check(self, state: State) -> None:
        """Refuse a model without a weight to train as integers, and what its other layers cannot be given."""
        weights = quantizable_weights(state.model)
        left = {verdict.layer: verdict for verdict in unsupported(state.model)}
        if not weights:
            raise RecipeError(
                f"{self.name}: quantization-aware training needs a layer whose weights it can train as integers, and "
                f"this model has none:\n  {_listed(state.model, left.values())}\n"
                "Remedy: use the technique post_training, which calibrates them all."
            )
        found = [
            *self._bits_out_of_reach(state.model, left),
            *self._unshared(state),
            *self._unshared_by_calibration(state, left),
        ]
        if found:
            raise RecipeError(
                f"{self.name}: quantization-aware training cannot take {len(found)} layer(s) of this model as "
                f"the recipe wants them:\n  {_listed(state.model, found)}"
            )
        for pattern in self.per_layer:
            select_layers(list(weights), [pattern], where=f"{self.name}.per_layer")

    def prepare(self, state: State, plan: StepPlan) -> State:
        """A tfmot-quantized copy of the model, its activation ranges started from calibration data."""
        from tfcompress.techniques import _fake_quant
        from tfcompress.techniques._rounded_activations import round_inner_activations

        weights = quantizable_weights(state.model)
        grids = {layer: self._grid(state, layer, attribute) for layer, attribute in weights.items()}
        trained = {verdict.layer for verdict in self.verdicts(state.model) if verdict.outcome == YES}
        # The converter needs loops unrolled, and a quantized model can no longer be rewritten.
        model = _fake_quant.quantized(unrolled(state.model), trained, grids)
        _fake_quant.use_calibrated_activations(model)
        round_inner_activations(model)
        _fake_quant.calibrate(model, plan.calibration)
        return state.evolve(model=model)

    def finish(self, state: State) -> State:
        """The trained model, still emulating integers, its weights exactly as the file is to hold them."""
        from tfcompress.techniques import _fake_quant

        quantized, promises = {}, []
        for wrapper, weight, quantizer in _fake_quant.weight_quantizers(state.model):
            grid = quantizer.grid
            _fake_quant.settle(weight, quantizer)
            name = state.lineage.origin(f"{wrapper.layer.name}/{_fake_quant.attribute_of(weight)}")
            quantized[name] = QuantizedWeight(grid.bits, grid.container_bits, grid.channel_axes)
            if grid.bits < CONTAINER_BITS:
                promises.append(Promise(name, "levels", 2**grid.bits - 1, "channel", made_by=self.name))
        return state.evolve(quantization=quantized, number_format="int8", promises=(*state.promises, *promises))

    def _grid(self, state: State, layer: str, attribute: str) -> Any:
        from tfcompress.techniques import _fake_quant

        keras_layer = state.model.get_layer(layer)
        values = getattr(keras_layer, attribute).numpy()
        name = state.lineage.origin(f"{layer}/{attribute}")
        bits = value_for(layer, self.weight_bits, self.per_layer)
        as_int4 = bits <= INT4_BITS and self._may_be_int4(keras_layer)
        distinct = state.promises_of(name, "distinct")
        keeps_zeros = state.promises_of(name, "zeros", "group_zeros")
        return _fake_quant.WeightGrid(
            bits=bits,
            container_bits=INT4_BITS if as_int4 else CONTAINER_BITS,
            channel_axes=channel_axes(keras_layer),
            shared_range=any(p.scope == "tensor" for p in distinct),
            zero_mask=(values != 0) if keeps_zeros else None,
            cluster_index=_cluster_index(values, distinct[0].scope) if distinct else None,
        )

    def _may_be_int4(self, layer: Any) -> bool:
        layers = kd.keras.layers
        # TFLite's transposed convolution takes no INT4 weights.
        return isinstance(layer, layers.Dense) or (
            self.low_bit_storage == "size" and not isinstance(layer, layers.Conv2DTranspose)
        )

    def _bits_out_of_reach(self, model: Any, left: Mapping[str, Verdict]) -> list[Verdict]:
        """The layers left to calibration that `per_layer` wants to give bits to."""
        return [
            replace(
                verdict,
                reason=f"per_layer gives it bits, but it is quantized by calibration, to 8: {verdict.reason}",
                remedy=f"a pattern that leaves it out, or {verdict.remedy}",
            )
            for name, verdict in left.items()
            if value_for(name, None, self.per_layer) is not None and has_kernel(model.get_layer(name))
        ]

    def _unshared(self, state: State) -> list[Verdict]:
        """The layers whose promised shared values a BatchNormalization behind them would undo."""
        return [
            Verdict(
                name,
                NO,
                "its values are to stay shared, but the BatchNormalization behind it has a factor for each channel, "
                "which its one scale cannot take up",
                "leave it out of the clustering",
            )
            for name, attribute in quantizable_weights(state.model).items()
            if channel_axes(state.model.get_layer(name)) == 0
            and any(
                isinstance(consumer, kd.keras.layers.BatchNormalization)
                for consumer in consumers(state.model, state.model.get_layer(name))
            )
            and any(
                p.scope == "tensor" for p in state.promises_of(state.lineage.origin(f"{name}/{attribute}"), "distinct")
            )
        ]

    def _unshared_by_calibration(self, state: State, left: Mapping[str, Verdict]) -> list[Verdict]:
        """The layers left to calibration whose promised shared values the converter's scales would undo."""
        shared = {p.weight for p in state.promises if p.kind == "distinct" and p.scope == "tensor"}
        layers = dict.fromkeys(state.lineage.place(weight).rpartition("/")[0] for weight in shared)
        return [
            Verdict(
                name,
                NO,
                "its values are to stay shared, but it is quantized by calibration, which gives every channel a scale "
                f"of its own: {left[name].reason}",
                f"leave it out of the clustering, or {left[name].remedy}",
            )
            for name in layers
            # The rows of an Embedding are gathered from a table of one scale.
            if name in left and not isinstance(state.model.get_layer(name), kd.keras.layers.Embedding)
        ]


def _cluster_index(values: np.ndarray, scope: str) -> np.ndarray:
    """Which of a weight's shared values each element has; per channel (last axis), numbered apart."""
    if scope == "tensor":
        return np.unique(values, return_inverse=True)[1].reshape(values.shape).astype(np.int32)
    index, offset = np.zeros(values.shape, np.int32), 0
    for channel in range(values.shape[-1]):
        levels, local = np.unique(values[..., channel], return_inverse=True)
        index[..., channel] = local.reshape(values.shape[:-1]) + offset
        offset += len(levels)
    return index


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
    trained = [layer for layer in model.layers if _verdict(model, layer).outcome == YES]
    found = {layer.name: _fake_quant.weight_attribute(registry, layer) for layer in trained}
    return {name: attribute for name, attribute in found.items() if attribute}


def unsupported(model: Any) -> list[Verdict]:
    """The layers that cannot be trained as integers and are left to calibration."""
    return [v for v in (_verdict(model, layer) for layer in model.layers) if v.outcome == BY_CALIBRATION]


def _verdict(model: Any, layer: Any) -> Verdict:
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


def _listed(model: Any, verdicts: Iterable[Verdict]) -> str:
    return "\n  ".join(
        f"{v.layer} ({type(model.get_layer(v.layer)).__name__}): {v.reason}. Remedy: {v.remedy}" for v in verdicts
    )
