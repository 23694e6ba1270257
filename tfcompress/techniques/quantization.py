"""Quantization-aware training: weights of 2...8 bits and 8-bit activations, emulated while the model trains."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from tfcompress import keras_door as kd
from tfcompress.models.graph import calls, consumers, producers
from tfcompress.techniques.base import StepPlan, Technique, select_layers, value_for
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

    Example:
        >>> Quantization(weight_bits=8, per_layer={"conv*": 4}).per_layer
        {'conv*': 4}
    """

    stage: ClassVar[str] = "quantized"

    technique: Literal["quantization"] = "quantization"
    weight_bits: Bits = 8
    """Bits of every weight's grid, 2...8: 2**bits - 1 levels around zero. Defaults to 8."""
    per_layer: dict[str, Bits] = Field(default={})
    """Other widths for layers by pattern."""
    low_bit_storage: Literal["speed", "size"] = "speed"
    """Where up to 4 bits are stored: `size` in INT4 tensors, half the bytes; `speed` in INT4 only for Dense,
    whose kernels run it, and in int8 for convolutions, whose INT4 kernels are about five times slower. Transposed
    convolutions have none and stay in int8."""

    def check(self, state: State) -> None:
        """Refuse layers that cannot be trained as integers, and patterns that match none."""
        self._refuse(state)

    def prepare(self, state: State, plan: StepPlan) -> State:
        """A tfmot-quantized copy of the model, its activation ranges started from calibration data."""
        from tfcompress.models.loading import clone
        from tfcompress.techniques import _fake_quant
        from tfcompress.techniques._batch_norm import fold_where_scales_are_shared

        weights = quantizable_weights(state.model)
        grids = {layer: self._grid(state, layer, attribute) for layer, attribute in weights.items()}
        tfmot = kd.tfmot.quantization.keras
        with tfmot.quantize_scope():
            annotated = tfmot.quantize_annotate_model(fold_where_scales_are_shared(clone(state.model)))
            model = tfmot.quantize_apply(annotated, scheme=_fake_quant.Scheme(grids))
        _fake_quant.use_calibrated_activations(model)
        _fake_quant.calibrate(model, plan.calibration)
        return state.evolve(model=model)

    def finish(self, state: State) -> State:
        """The trained model, still emulating integers, its weights exactly as the file is to hold them."""
        from tfcompress.techniques import _fake_quant

        quantized, promises = {}, []
        for wrapper, weight, quantizer in _fake_quant.weight_quantizers(state.model):
            grid = quantizer.grid
            _fake_quant.settle(weight, quantizer)
            name = f"{wrapper.layer.name}/{_fake_quant.attribute_of(weight)}"
            quantized[name] = QuantizedWeight(grid.bits, grid.container_bits, grid.channel_axes)
            if grid.bits < CONTAINER_BITS:
                promises.append(Promise(name, "levels", 2**grid.bits - 1, "channel", made_by=self.name))
        return state.evolve(quantization=quantized, number_format="int8", promises=(*state.promises, *promises))

    def _grid(self, state: State, layer: str, attribute: str) -> Any:
        from tfcompress.techniques import _fake_quant

        keras_layer = state.model.get_layer(layer)
        values = getattr(keras_layer, attribute).numpy()
        name = f"{layer}/{attribute}"
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

    def _refuse(self, state: State) -> None:
        for pattern in self.per_layer:
            select_layers(list(quantizable_weights(state.model)), [pattern], where=f"{self.name}.per_layer")
        found = [*unsupported(state.model), *self._unshared(state)]
        reasons = [f"{layer.name} ({type(layer).__name__}): {why}" for layer, why in found]
        if reasons:
            raise RecipeError(
                f"{self.name}: quantization-aware training cannot take {len(reasons)} layer(s) of this model:\n  "
                + "\n  ".join(reasons)
                + "\nRemedy: replace them, or use the technique post_training, which needs no training."
            )

    def _unshared(self, state: State) -> list[tuple[Any, str]]:
        """The layers whose promised shared values a BatchNormalization behind them would undo."""
        why = (
            "its values are to stay shared, but the BatchNormalization behind it has a factor for each channel, which "
            "its one scale cannot take up; leave it out of the clustering"
        )
        return [
            (state.model.get_layer(name), why)
            for name, attribute in quantizable_weights(state.model).items()
            if channel_axes(state.model.get_layer(name)) == 0
            and any(
                isinstance(consumer, kd.keras.layers.BatchNormalization)
                for consumer in consumers(state.model, state.model.get_layer(name))
            )
            and any(p.scope == "tensor" for p in state.promises_of(f"{name}/{attribute}", "distinct"))
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
    found = {layer.name: _fake_quant.weight_attribute(registry, layer) for layer in model.layers}
    return {name: attribute for name, attribute in found.items() if attribute}


def unsupported(model: Any) -> list[tuple[Any, str]]:
    """The layers that tfmot's scheme cannot train as integers, each with the reason."""
    from tfcompress.techniques import _fake_quant

    layers = kd.keras.layers
    registry = _fake_quant.Registry({})
    found = []
    for layer in model.layers:
        activation = getattr(getattr(layer, "activation", None), "__name__", None)
        if isinstance(layer, layers.InputLayer):
            continue
        if calls(model, layer) > 1:
            found.append((layer, "it is called more than once; give each call a layer of its own"))
        elif isinstance(layer, layers.BatchNormalization):
            if not _folds(model, layer):
                found.append((layer, "BatchNormalization must stand right behind a linear convolution or Dense"))
        elif isinstance(layer, (layers.SeparableConv1D, layers.SeparableConv2D)):
            found.append((layer, "write it as a DepthwiseConv2D and a 1x1 Conv2D, which is the same network"))
        elif not registry.supports(layer):
            found.append((layer, "this type of layer has no integer form in training"))
        elif activation not in _fake_quant.ACTIVATIONS:
            known = ", ".join(sorted(a for a in _fake_quant.ACTIVATIONS if a))
            found.append((layer, f"the activation {activation} has no integer form in training; {known} have"))
    return found


def _folds(model: Any, batch_norm: Any) -> bool:
    layers = kd.keras.layers
    linear = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)
    sources = producers(model, batch_norm)
    return (
        len(sources) == 1
        and isinstance(sources[0], linear)
        and sources[0].activation.__name__ == "linear"
        and len(consumers(model, sources[0])) == 1
    )
