"""Quantization-aware training: weights of 2...8 bits and 8-bit activations, emulated while the model trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from tfcompress import keras_door as kd
from tfcompress.models.graph import consumers
from tfcompress.product_codes import sub_vectors
from tfcompress.techniques._bit_allocation import (
    Budget,
    allocated,
    loss_increases,
    options,
    require_within_reach,
)
from tfcompress.techniques._integer_form import (
    CONTAINER_BITS,
    Storage,
    bits_out_of_reach,
    channel_axes,
    container_bits,
    integer_form,
    listed,
    quantizable_weights,
    settled,
    unsupported,
    verdict_on,
)
from tfcompress.techniques._levels import Levels, levels_at, require_widths
from tfcompress.techniques._ranges import DEFAULT_PERCENTILE, Percentile, RangeChoice, RangeMethod, percentile_problems
from tfcompress.techniques.base import NO, StepPlan, Technique, Verdict, select_layers, value_for
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.promises import SHARED, Promise
from tfcompress.vocabulary.state import State

Bits = Annotated[int, Field(ge=1, le=8)]


class Quantization(Technique):
    """Train with the rounding of the integer file in the loop, on tfmot's `quantize_apply`.

    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
    (2018). Zeros and shared values that earlier steps promised are kept (PQAT, CQAT, PCQAT) without being told
    to; a weight with shared values gets one range for all its channels, so that equal values stay equal
    integers. With `fit: {epochs: 0}` it is calibration alone that keeps the promises.

    A layer that tfmot cannot wrap (an LSTM, attention, an Embedding) is trained in float among the others, and gets
    8 bits by calibration when the model is converted; the file is integer throughout all the same.

    With few bits, learned steps lose least, and the first and last layers are worth 8: `Quantization(weight_bits=2,
    step_size="learned", per_layer={"stem": 8, "classifier": 8})`. Which layers need their bits can be measured instead:
    `budget`.

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
    budget: Budget | None = None
    """In place of `weight_bits`: the widths of layers without a `per_layer` value follow from what each loses when it
    alone is rounded, within a share of the size, e.g. `{bits_share: 0.4}`, or an increase of the loss."""
    levels: Levels = "uniform"
    """Which integers weights may be: `uniform`; `power_of_two` (2...4 bits; Zhou et al. 2017); `additive_powers`, sums
    of two of them (2...5 bits; Li et al. 2020); `ternary` (2 bits; Li and Liu 2016); `binary` (1 bit, and no zero;
    Rastegari et al. 2016). Layers of more bits than these have stay uniform. Defaults to `uniform`."""
    step_size: Literal["range", "learned"] = "range"
    """The distance between levels: `range`, so that the largest weight is the largest level (ternary and binary ones
    have a rule of their own); `learned` with the weights, which beyond it are clipped (LSQ, Esser et al. 2020).
    Defaults to `range`."""
    activation_ranges: Literal["observed", "learned"] = "observed"
    """Ranges of activations start at what calibration shows; `observed` ones then follow the moving average of what
    training sees, `learned` ones are trained with the weights, and may clip (as in PACT and LSQ+; Choi et al. 2018,
    Bhalgat et al. 2020). Defaults to `observed`."""
    ranges: RangeMethod = "min_max"
    """How the ranges of activations are chosen that training starts from: ``min_max``, ``percentile``,
    ``moving_average``, ``mse`` or ``entropy``. Defaults to min_max."""
    percentile: Percentile = DEFAULT_PERCENTILE
    """Of an activation's values at either end, for ``ranges: percentile``. Defaults to 99.99."""
    low_bit_storage: Storage = "speed"
    """Where up to 4 bits are stored: `size` in INT4 tensors, half the bytes; `speed` in INT4 only for Dense,
    whose kernels run it, and in int8 for convolutions, whose INT4 kernels are about five times slower (but see
    ``conversion.int4_convolutions``). Transposed convolutions have none and stay in int8."""

    @model_validator(mode="after")
    def _values_agree(self) -> Quantization:
        if problems := percentile_problems(self.ranges, self.percentile):
            raise ValueError("\n".join(problems))
        if self.budget is not None and self.weight_bits != CONTAINER_BITS:
            raise ValueError("weight_bits and budget exclude one another. Remedy: budget.choices, or per_layer")
        chosen = [self.weight_bits] if self.budget is None else self.budget.choices
        require_widths([*chosen, *self.per_layer.values()], self.levels)
        return self

    def verdicts(self, model: Any) -> tuple[Verdict, ...]:
        """Which layers are trained as integers, and which are left to calibration."""
        return tuple(verdict_on(model, layer) for layer in model.layers)

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
                f"this model has none:\n  {listed(state.model, left.values())}\n"
                "Remedy: use the technique post_training, which calibrates them all."
            )
        found = [
            *bits_out_of_reach(state.model, self.per_layer),
            *self._unshared(state),
            *self._unshared_by_calibration(state, left),
            *self._without_zero(state, weights),
        ]
        if found:
            raise RecipeError(
                f"{self.name}: quantization-aware training cannot take {len(found)} layer(s) of this model as "
                f"the recipe wants them:\n  {listed(state.model, found)}"
            )
        for pattern in self.per_layer:
            select_layers(list(weights), [pattern], where=f"{self.name}.per_layer")
        if self.budget is not None:
            require_within_reach(self.budget, self._options(self.budget, state, weights), self.name)

    def prepare(self, state: State, plan: StepPlan) -> State:
        """A tfmot-quantized copy of the model, its activation ranges started from calibration data."""
        from tfcompress.techniques import _fake_quant

        weights = quantizable_weights(state.model)
        bits = self._bits(state, weights, plan)
        grids = {layer: self._grid(state, layer, attribute, bits[layer]) for layer, attribute in weights.items()}
        model = integer_form(state.model, grids, learned_ranges=self.activation_ranges == "learned")
        _fake_quant.calibrate(model, plan.calibration, RangeChoice(self.ranges, self.percentile))
        return state.evolve(model=model)

    def finish(self, state: State) -> State:
        """The trained model, still emulating integers, its weights exactly as the file is to hold them."""
        return settled(state, self.name)

    def _bits(self, state: State, weights: Mapping[str, str], plan: StepPlan) -> dict[str, int]:
        """The width of each layer; what a budget decides is decided once in a run's life."""
        budget = self.budget
        if budget is None:
            return {layer: value_for(layer, self.weight_bits, self.per_layer) for layer in weights}

        def measure() -> dict[str, Any]:
            choices = self._options(budget, state, weights)
            increases = loss_increases(state.model, self._choices(budget, state, weights), weights, plan)
            measured = {
                layer: {str(option.bits): increase for option, increase in zip(widths, increases[layer], strict=True)}
                for layer, widths in choices.items()
            }
            return {"bits": allocated(budget, choices, increases, self.name), "loss_increases": measured}

        return plan.once(measure)["bits"]

    def _choices(self, budget: Budget, state: State, weights: Mapping[str, str]) -> dict[str, dict[int, Any]]:
        """By layer and width, the grids that a budget chooses from."""
        given = {layer: value_for(layer, None, self.per_layer) for layer in weights}
        return {
            layer: {
                bits: self._grid(state, layer, attribute, bits)
                for bits in (budget.choices if given[layer] is None else [given[layer]])
            }
            for layer, attribute in weights.items()
        }

    def _options(self, budget: Budget, state: State, weights: Mapping[str, str]) -> dict[str, Any]:
        sizes = {
            name: getattr(state.model.get_layer(name), weight).shape.num_elements() for name, weight in weights.items()
        }
        return options(budget, self._choices(budget, state, weights), sizes)

    def _grid(self, state: State, layer: str, attribute: str, bits: int) -> Any:
        from tfcompress.techniques._weight_grid import WeightGrid

        keras_layer = state.model.get_layer(layer)
        values = getattr(keras_layer, attribute).numpy()
        name = state.lineage.origin(f"{layer}/{attribute}")
        levels = levels_at(self.levels, bits)
        shared = state.promises_of(name, *SHARED)
        keeps_zeros = state.promises_of(name, "zeros", "group_zeros")
        return WeightGrid(
            bits=bits,
            container_bits=container_bits(keras_layer, bits, self.low_bit_storage, levels),
            channel_axes=channel_axes(keras_layer),
            shared_range=any(p.scope != "channel" for p in shared),
            levels=levels,
            learned_step=self.step_size == "learned",
            zero_mask=(values != 0) if keeps_zeros else None,
            cluster_index=_cluster_index(values, shared[0]) if shared else None,
        )

    def _without_zero(self, state: State, weights: Mapping[str, str]) -> list[Verdict]:
        """The layers whose promised zeros two levels around zero cannot hold."""
        if self.levels != "binary":
            return []
        narrowest = self.weight_bits if self.budget is None else self.budget.choices[0]
        return [
            Verdict(
                name,
                NO,
                "its zeros are to stay, but levels=binary has no zero",
                f"levels=ternary, or more bits for it: per_layer={{{name}: 2}}",
            )
            for name, attribute in weights.items()
            if value_for(name, narrowest, self.per_layer) == 1
            and state.promises_of(state.lineage.origin(f"{name}/{attribute}"), "zeros", "group_zeros")
        ]

    def _unshared(self, state: State) -> list[Verdict]:
        """The layers whose promised shared values a BatchNormalization behind them would undo."""
        return [
            Verdict(
                name,
                NO,
                "its values are to stay shared, but the BatchNormalization behind it has a factor for each channel, "
                "which its one scale cannot take up",
                "leave it out of the step that shares them",
            )
            for name, attribute in quantizable_weights(state.model).items()
            if channel_axes(state.model.get_layer(name)) == 0
            and any(
                isinstance(consumer, kd.keras.layers.BatchNormalization)
                for consumer in consumers(state.model, state.model.get_layer(name))
            )
            and any(
                p.scope != "channel" for p in state.promises_of(state.lineage.origin(f"{name}/{attribute}"), *SHARED)
            )
        ]

    def _unshared_by_calibration(self, state: State, left: Mapping[str, Verdict]) -> list[Verdict]:
        """The layers left to calibration whose promised shared values the converter's scales would undo."""
        shared = {p.weight for p in state.promises if p.kind in SHARED and p.scope != "channel"}
        layers = dict.fromkeys(state.lineage.place(weight).rpartition("/")[0] for weight in shared)
        return [
            Verdict(
                name,
                NO,
                "its values are to stay shared, but it is quantized by calibration, which gives every channel a scale "
                f"of its own: {left[name].reason}",
                f"leave it out of the step that shares them, or {left[name].remedy}",
            )
            for name in layers
            # The rows of an Embedding are gathered from a table of one scale.
            if name in left and not isinstance(state.model.get_layer(name), kd.keras.layers.Embedding)
        ]


def _cluster_index(values: np.ndarray, promise: Promise) -> np.ndarray:
    """Which of a weight's shared values each element has; per channel (last axis), numbered apart."""
    if promise.kind == "codewords":
        return _code_word_index(values, promise.group)
    if promise.scope == "tensor":
        return np.unique(values, return_inverse=True)[1].reshape(values.shape).astype(np.int32)
    index, offset = np.zeros(values.shape, np.int32), 0
    for channel in range(values.shape[-1]):
        levels, local = np.unique(values[..., channel], return_inverse=True)
        index[..., channel] = local.reshape(values.shape[:-1]) + offset
        offset += len(levels)
    return index


def _code_word_index(values: np.ndarray, group: int) -> np.ndarray:
    """Which place of which of a kernel's code words each element has."""
    vectors = sub_vectors(values, group, axis=-2)
    words = np.unique(vectors.reshape(-1, group), axis=0, return_inverse=True)[1].reshape(vectors.shape[:-1])
    index = words[..., None] * group + np.arange(group)
    return np.moveaxis(index.reshape(*words.shape[:-1], -1), -1, -2).astype(np.int32)
