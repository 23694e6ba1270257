"""Post-training quantization: the number format of the file is chosen by calibration alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from tfcompress import keras_door as kd
from tfcompress.convert import litert
from tfcompress.convert.converter import float_tflite
from tfcompress.convert.settings import ConversionSettings
from tfcompress.evaluate.prediction import predict
from tfcompress.models.loading import clone
from tfcompress.models.rewrites import CALIBRATING, rewrite
from tfcompress.techniques._integer_form import (
    CONTAINER_BITS,
    Bits,
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
from tfcompress.techniques._loss_rise import loss_rise
from tfcompress.techniques._ranges import (
    DEFAULT_PERCENTILE,
    Percentile,
    RangeChoice,
    RangeMethod,
    percentile_problems,
)
from tfcompress.techniques._sixteen_bits import LossBound, fewest_within
from tfcompress.techniques._weight_ranges import WeightRanges, clipped_by_squared_error
from tfcompress.techniques.base import (
    BY_CALIBRATION,
    StepPlan,
    Technique,
    Verdict,
    select_layers,
    value_for,
)
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.promises import SHARED, Promise
from tfcompress.vocabulary.state import LitertQuantizer, NumberFormat, State

_WOULD_UNSHARE = (
    "{name} would break the promise of shared values: it gives every channel its own range. "
    "Remedy: use the technique quantization, with fit.epochs 0 when no training is wanted"
)

_NO_LITERT = "{name}: backend: litert needs the package ai-edge-quantizer. Remedy: pip install 'tfcompress[litert]'"

_CALIBRATING = (
    "ranges",
    "weight_bits",
    "per_layer",
    "weight_granularity",
    "weight_ranges",
    "rounding",
    "bias_correction",
)
"""The values that the converter's own calibration does not know."""
_BY_LITERT_TOO = ("weight_bits", "weight_granularity")
_BY_LITERT_ALONE = ("algorithm", "sixteen_bit_layers")


def _said(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


class PostTraining(Technique):
    """Convert the trained model as it is, its ranges and rounding chosen from calibration samples.

    `int8`: 8-bit weights and activations; `int16x8`: 8-bit weights and 16-bit activations; both full integer.
    `dynamic_range`: 8-bit weights, float activations; `float16`: half-precision weights; neither is integer.

    With no more than that, ranges are the converter's own, from least to largest value. Any other choice of ranges,
    widths or rounding is for `int8`, and is made here: BatchNormalization is folded, weights are put on their grids,
    activations are given the chosen ranges, and the converter keeps both. A Dense or transposed convolution then has
    one scale for all its weights. A layer that tfmot cannot wrap (an LSTM, attention, an Embedding) is left to the
    converter, 8 bits from least to largest value; `tfcompress check` names them.

    ``backend: litert`` has the file made by the LiteRT quantizer (`ai_edge_quantizer`): OCTAV, MSE and GPTQ for the
    scales of weights, 4-bit weights but for depthwise and transposed convolutions, and layers with 16-bit activations.

    Example:
        >>> PostTraining().number_format, PostTraining().calibrates, PostTraining(ranges="mse").calibrates
        ('int8', False, True)
    """

    stage: ClassVar[str] = "quantized"
    trains: ClassVar[bool] = False

    technique: Literal["post_training"] = "post_training"
    number_format: NumberFormat = "int8"
    """The arithmetic of the file. Defaults to int8."""
    ranges: RangeMethod = "min_max"
    """How the ranges of activations are chosen: ``min_max``, ``percentile``, ``moving_average`` (of batches' least and
    largest values), ``mse`` (the least squared error) or ``entropy`` (Kullback-Leibler). Defaults to min_max."""
    percentile: Percentile = DEFAULT_PERCENTILE
    """Of an activation's values at either end, for ``ranges: percentile``. Defaults to 99.99."""
    weight_bits: Bits = 8
    """Bits of the grid of every weight, 2...8: 2**bits - 1 levels around zero. Defaults to 8."""
    per_layer: dict[str, Bits] = Field(default={})
    """Other widths for layers by pattern."""
    weight_granularity: Literal["channel", "tensor"] = "channel"
    """Whether every output channel of a convolution has a scale of its own. Defaults to channel."""
    weight_ranges: WeightRanges = "min_max"
    """The largest magnitude of a weight's grid: ``min_max`` holds all values, ``mse`` clips some where that makes the
    squared error less. Defaults to min_max."""
    low_bit_storage: Storage = "speed"
    """Where up to 4 bits are stored: `size` in INT4 tensors, half the bytes; `speed` in INT4 only for Dense,
    whose kernels run it (but see ``conversion.int4_convolutions``). Defaults to speed."""

    rounding: Literal["nearest", "adaptive"] = "nearest"
    """Whether weights go to the ``nearest`` level, or up or down so that each layer's output comes near the float one:
    ``adaptive`` (Nagel et al., "Up or Down?", 2020). Defaults to nearest."""
    rounding_steps: int = Field(default=2000, ge=1, le=100_000)
    """Of Adam for each layer, for ``rounding: adaptive``. Defaults to 2000."""
    bias_correction: Literal["none", "empirical", "analytic"] = "none"
    """Whether biases take back what the rounding of weights shifts a channel's mean by (Nagel et al. 2019):
    ``empirical``, by the means of the model as far as it is corrected; ``analytic``, by the rounding error's response
    to the float model's mean inputs. Defaults to none."""

    backend: Literal["converter", "litert"] = "converter"
    """What makes the integers: TensorFlow's ``converter``, or the ``litert`` quantizer (the extra of this name), which
    makes them of the float file. Defaults to converter."""
    algorithm: Literal["min_max", "octav", "mse", "gptq"] = "min_max"
    """How the ``litert`` quantizer chooses the scales of weights; ``gptq`` is for Dense layers. Defaults to min_max."""
    sixteen_bit_layers: list[str] | LossBound = Field(default=[])
    """Layers by pattern that the ``litert`` quantizer gives 8-bit weights and 16-bit inputs and outputs, among the
    others of 8 bits; or ``{loss_increase: 0.01}``, the most sensitive ones, as many as that takes: files are made and
    measured on the calibration samples, as the model is fed, before preprocessing is put into the graph. Defaults to
    none."""

    @model_validator(mode="after")
    def _values_agree(self) -> PostTraining:
        problems = percentile_problems(self.ranges, self.percentile)
        if self.rounding == "nearest" and (alone := self._other_than_default(["rounding_steps"])):
            problems.append(f"rounding_steps: for rounding: adaptive alone. Received: {_said(alone)}")
        chosen = self._other_than_default(_CALIBRATING)
        by_litert = {"backend": "litert"} if self.backend == "litert" else {}
        if self.number_format != "int8" and (integers := chosen | by_litert):
            problems.append(
                f"{', '.join(integers)} can be chosen for number_format int8 alone. Received: "
                f"number_format={self.number_format} with {_said(integers)}. Remedy: remove one or the other"
            )
        if by_litert:
            problems += self._problems_with_litert(chosen)
        elif alone := self._other_than_default(_BY_LITERT_ALONE):
            problems.append(f"{', '.join(alone)}: for backend: litert alone. Received: {_said(alone)}")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _problems_with_litert(self, chosen: Mapping[str, Any]) -> list[str]:
        problems = []
        if missing := {name: value for name, value in chosen.items() if name not in _BY_LITERT_TOO}:
            problems.append(
                f"{', '.join(missing)}: for backend: converter alone. Received: backend=litert with {_said(missing)}"
            )
        if self.weight_bits not in (4, 8):
            problems.append(f"weight_bits must be 4 or 8 for backend: litert. Received: {self.weight_bits}")
        return problems

    @property
    def calibrates(self) -> bool:
        """Whether ranges, widths or rounding are chosen here, and not by the converter or the LiteRT quantizer."""
        return self.backend == "converter" and bool(self._other_than_default(_CALIBRATING))

    def _other_than_default(self, names: Sequence[str]) -> dict[str, Any]:
        fields = type(self).model_fields
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value != fields[name].default}

    def verdicts(self, model: Any) -> tuple[Verdict, ...]:
        """Which layers are calibrated here, and which by the converter; nothing where it does all."""
        if not self.calibrates:
            return ()
        found = (verdict_on(model, layer) for layer in model.layers)
        return tuple(
            replace(v, reason=f"its ranges are the converter's, min to max, of 8 bits: {v.reason}")
            if v.outcome == BY_CALIBRATION
            else v
            for v in found
        )

    def layers_with_values(self, model: Any) -> tuple[str, ...]:
        """The layers whose weights can be put on a grid here."""
        return tuple(quantizable_weights(model))

    def problems_after(self, earlier: Sequence[Technique]) -> list[str]:
        """Shared values do not survive a converter that gives every channel a range of its own."""
        if self.number_format == "float16" or not any(step.stage == "shared" for step in earlier):
            return []
        return [_WOULD_UNSHARE.format(name=self.name)]

    def check(self, state: State) -> None:
        """Refuse to undo the shared values of an earlier run, and what the model's layers cannot be given."""
        problems = []
        if self.number_format != "float16" and any(promise.kind in SHARED for promise in state.promises):
            problems.append(_WOULD_UNSHARE.format(name=self.name))
        if self.calibrates:
            problems += self._out_of_reach(state.model)
        if self.backend == "litert":
            problems += [] if litert.is_installed() else [_NO_LITERT.format(name=self.name)]
            self._named_for_sixteen_bits(state.model)
        if problems:
            raise RecipeError("\n".join(problems))

    def _out_of_reach(self, model: Any) -> list[str]:
        weights = quantizable_weights(model)
        if not weights:
            chosen = ", ".join(self._other_than_default(_CALIBRATING))
            return [
                f"{self.name}: {chosen} needs a layer whose weights can be put on a grid, and this model has none:\n  "
                f"{listed(model, unsupported(model))}\nRemedy: leave them out; the converter calibrates all layers."
            ]
        if found := bits_out_of_reach(model, self.per_layer):
            return [f"{self.name}: it cannot take {len(found)} layer(s) as the recipe wants:\n  {listed(model, found)}"]
        for pattern in self.per_layer:
            select_layers(list(weights), [pattern], where=f"{self.name}.per_layer")
        return []

    def prepare(self, state: State, plan: StepPlan) -> State:
        """The number format; and where it `calibrates`, the model as its integer file computes, all ranges chosen."""
        if state.quantization is not None:
            raise RecipeError(f"{self.name}: the model is already quantized by training. Remedy: remove this step.")
        if not self.calibrates and self.backend == "converter":
            return state.evolve(number_format=self.number_format)
        done = rewrite(state.model, CALIBRATING)
        state = state.rewritten(done.model, done.lineage)
        if self.calibrates:
            return state.evolve(model=self._calibrated(state.model, plan))
        how = self._litert(state.model, self._sixteen_bit_layers(state.model, plan))
        return state.evolve(number_format=self.number_format, litert=how)

    def _litert(self, model: Any, wide: Iterable[str]) -> LitertQuantizer:
        """What the LiteRT quantizer is told, the layers `wide` with 16-bit activations."""
        weights = quantizable_weights(model)
        places = tuple(f"{layer}/{weights[layer]}" for layer in wide)
        return LitertQuantizer(self.algorithm, self.weight_bits, self.weight_granularity, places)

    def _named_for_sixteen_bits(self, model: Any) -> list[str]:
        """The layers that the recipe names; none where they are to be found by measurement."""
        patterns = [] if isinstance(self.sixteen_bit_layers, LossBound) else self.sixteen_bit_layers
        return select_layers(list(quantizable_weights(model)), patterns, where=f"{self.name}.sixteen_bit_layers")

    def _sixteen_bit_layers(self, model: Any, plan: StepPlan) -> list[str]:
        """The layers with 16-bit activations."""
        bound = self.sixteen_bit_layers
        if not isinstance(bound, LossBound):
            return self._named_for_sixteen_bits(model)
        # Another measurement might find others, and a run that goes on make another file.
        return plan.once(lambda: self._fewest_within(bound, model, plan))

    def _fewest_within(self, bound: LossBound, model: Any, plan: StepPlan) -> list[str]:
        settings = ConversionSettings()
        content = float_tflite(model, settings)
        rise = loss_rise(predict(content, plan.calibration), plan)

        def measured(wide: tuple[str, ...]) -> float:
            file = litert.litert_of_float(content, self._litert(model, wide), settings, plan.calibration, model)
            return rise(predict(file, plan.calibration))

        places = [f"{layer}/{attribute}" for layer, attribute in quantizable_weights(model).items()]
        layers = [place.rpartition("/")[0] for place in litert.within(content, places, model)]
        return fewest_within(bound, layers, measured, f"{self.name}.sixteen_bit_layers")

    def finish(self, state: State) -> State:
        """The state to ship, its weights exactly as the file is to hold them."""
        if self.calibrates:
            return settled(state, self.name)
        if self.backend == "litert" and self.weight_bits < CONTAINER_BITS:
            return state.evolve(promises=(*state.promises, *self._levels(state)))
        return state

    def _levels(self, state: State) -> Iterator[Promise]:
        """What 4-bit weights are in the LiteRT quantizer's file."""
        of_eight = kd.keras.layers.DepthwiseConv2D, kd.keras.layers.Conv2DTranspose
        for name, attribute in quantizable_weights(state.model).items():
            wide = f"{name}/{attribute}" in state.litert.sixteen_bit
            if not wide and not isinstance(state.model.get_layer(name), of_eight):
                weight = state.lineage.origin(f"{name}/{attribute}")
                yield Promise(weight, "levels", 2**self.weight_bits, "channel", made_by=self.name)

    def _calibrated(self, model: Any, plan: StepPlan) -> Any:
        """The integer form of `model`, whose BatchNormalization is folded."""
        from tfcompress.techniques import _fake_quant
        from tfcompress.techniques._adaptive_rounding import round_adaptively
        from tfcompress.techniques._bias_correction import correct_biases

        weights = quantizable_weights(model)
        grids = {layer: self._grid(model.get_layer(layer)) for layer in weights}
        within = self._in_range(model, weights, grids) if self.weight_ranges == "mse" else model
        quantized = integer_form(within, grids)
        choice = RangeChoice(self.ranges, self.percentile)
        # Ranges are chosen anew whenever weights or biases have changed what flows through.
        _fake_quant.calibrate(quantized, plan.calibration, choice)
        if self.rounding == "adaptive":
            round_adaptively(quantized, model, plan.calibration, steps=self.rounding_steps, seed=plan.seed)
            _fake_quant.calibrate(quantized, plan.calibration, choice)
        if self.bias_correction != "none":
            correct_biases(quantized, model, plan.calibration, self.bias_correction)
            _fake_quant.calibrate(quantized, plan.calibration, choice)
        return quantized

    def _grid(self, layer: Any) -> Any:
        from tfcompress.techniques import _fake_quant

        bits = value_for(layer.name, self.weight_bits, self.per_layer)
        return _fake_quant.WeightGrid(
            bits=bits,
            container_bits=container_bits(layer, bits, self.low_bit_storage),
            channel_axes=channel_axes(layer) if self.weight_granularity == "channel" else 0,
        )

    def _in_range(self, model: Any, weights: Mapping[str, str], grids: Mapping[str, Any]) -> Any:
        """A copy of `model` with every weight in the range of its grid."""
        copy = clone(model)
        for name, attribute in weights.items():
            weight, grid = getattr(copy.get_layer(name), attribute), grids[name]
            weight.assign(clipped_by_squared_error(weight.numpy(), grid.bits, grid.channel_axes))
        return copy
