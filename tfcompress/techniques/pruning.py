"""Magnitude pruning: the smallest weights become zero while the rest is trained."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from tfcompress import keras_door as kd
from tfcompress.schedules import Schedule, constant, polynomial
from tfcompress.techniques.base import (
    IN_NESTED_MODEL,
    NO,
    NOTHING,
    YES,
    StepPlan,
    Technique,
    Verdict,
    has_kernel,
    refuse_nested,
    select_layers,
    value_for,
)
from tfcompress.vocabulary.errors import PromiseError, RecipeError
from tfcompress.vocabulary.promises import Promise, broken_by
from tfcompress.vocabulary.state import State

Share = Annotated[float, Field(ge=0, lt=1)]


class Pruning(Technique):
    """Zero the weights of smallest magnitude, gradually, and train the others.

    Zhu and Gupta, "To prune, or not to prune" (2017), on tfmot's pruning wrapper. With `fit: {epochs: 0}` the masks
    are made at once, of the weights as they are, and nothing is trained.

    Example:
        >>> Pruning(final_sparsity=0.9, fit={"epochs": 4}).name
        'pruning'
    """

    stage: ClassVar[str] = "sparse"

    technique: Literal["pruning"] = "pruning"
    schedule: Literal["polynomial", "constant"] | Callable[[Any], Any] = "polynomial"
    """How sparsity grows: `polynomial`, `constant` (final from the start), or in Python any function of the
    optimizer step (the step's first is 1) to a sparsity that has reached `final_sparsity` at `end`."""
    initial_sparsity: Share = 0.0
    """Sparsity at `begin`, for the polynomial schedule. Defaults to 0."""
    final_sparsity: Share = 0.5
    """Share of zeros promised for every pruned weight. Defaults to 0.5."""
    per_layer: dict[str, Share] = Field(default={})
    """Other final sparsities for layers by pattern, e.g. `{conv1: 0.3}`."""
    power: float = Field(default=3.0, gt=0)
    """Exponent of the polynomial schedule. Defaults to 3."""
    begin: float = Field(default=0.0, ge=0, lt=1)
    """Share of the step's training after which pruning begins. Defaults to 0."""
    end: float = Field(default=0.7, gt=0, le=1)
    """Share after which the masks are final. Defaults to 0.7."""
    frequency: int = Field(default=10, ge=1)
    """Optimizer steps between mask updates. Defaults to 10."""
    layers: list[str] | None = None
    """Patterns of the layers to prune. Defaults to all with a kernel; depthwise ones need `depthwise`."""
    exclude: list[str] = Field(default=[])
    """Patterns of layers to leave out."""
    depthwise: bool = False
    """Prune DepthwiseConv2D too. Off by default: few weights, costly to lose."""
    block_size: tuple[int, int] = (1, 1)
    """Zeros come in blocks of (inputs, outputs), in Dense kernels only. Defaults to single weights."""
    n_of_m: tuple[int, int] | None = None
    """(2, 4): two zeros of every four consecutive input channels of Dense, Conv1D and Conv2D kernels, from the
    first step on; takes the place of schedule and `final_sparsity`."""

    @model_validator(mode="after")
    def _values_agree(self) -> Pruning:
        if self.end <= self.begin:
            raise ValueError(f"end must lie behind begin. Received: begin={self.begin}, end={self.end}")
        if min(self.block_size) < 1:
            raise ValueError(f"block_size must hold two numbers of at least 1. Received: {self.block_size}")
        if self.n_of_m is not None:
            zeros, group = self.n_of_m
            fields = type(self).model_fields
            replaced = ("final_sparsity", "initial_sparsity", "per_layer", "schedule")
            ignored = [name for name in replaced if getattr(self, name) != fields[name].default]
            if ignored:
                raise ValueError(f"n_of_m takes the place of {', '.join(ignored)}. Remedy: remove one or the other")
            if not 0 < zeros < group:
                raise ValueError(f"n_of_m must be (zeros, group) with 0 < zeros < group. Received: {self.n_of_m}")
            if self.block_size != (1, 1):
                raise ValueError("n_of_m and block_size exclude one another. Remedy: remove one of them")
        return self

    def verdicts(self, model: Any) -> tuple[Verdict, ...]:
        """Which layers can be given zeros."""
        return tuple(self._verdict(model, layer) for layer in model.layers)

    def layers_with_values(self, model: Any) -> tuple[str, ...]:
        """The layers to prune."""
        return tuple(self._kernels(model))

    def check(self, state: State) -> None:
        """Refuse patterns that match no layer, and layers that the pattern of zeros does not fit."""
        self._kernels(state.model)

    def promised(self, state: State) -> tuple[Promise, ...]:
        """Zeros in every pruned weight."""
        return tuple(self._promise(state, name, attribute) for name, attribute in self._kernels(state.model).items())

    def prepare(self, state: State, plan: StepPlan) -> State:
        """A copy of the model with tfmot's pruning wrapper around every layer to be pruned."""
        from tfcompress.models.loading import clone
        from tfcompress.techniques._magnitude import PruneExactly

        source = clone(state.model)
        kernels = self._kernels(source)
        begin, end = self._span(plan)

        def wrap(layer: Any) -> Any:
            if layer.name not in kernels:
                return layer
            if _is_depthwise(layer):
                layer.get_prunable_weights = lambda: [layer.depthwise_kernel]
            schedule = self._step_schedule(layer.name, begin, end)
            return PruneExactly(
                layer, pruning_schedule=schedule, block_size=self.block_size, sparsity_m_by_n=self.n_of_m
            )

        model = kd.keras.models.clone_model(source, clone_function=wrap)
        if plan.epochs == 0:
            for layer in _wrappers(model):
                layer.make_masks()
        return state.evolve(model=model)

    def callbacks(self, state: State) -> list[Any]:
        """tfmot's step counter; without it the wrapper refuses to train."""
        del state
        return [kd.tfmot.sparsity.keras.UpdatePruningStep()]

    def first_selectable_epoch(self, plan: StepPlan) -> int:
        """The epoch in which the last masks are made."""
        last = 1 if self.n_of_m is not None else self._span(plan)[1]
        return (last - 1) // plan.steps_per_epoch

    def finish(self, state: State) -> State:
        """The plain model again, with its zeros promised."""
        from tfcompress.models.loading import clone

        for layer in _wrappers(state.model):
            layer.apply_mask()
        # Cloned, for stripping leaves layers that remember the graphs they were in before.
        stripped = clone(kd.tfmot.sparsity.keras.strip_pruning(state.model))
        promises, broken = [], []
        for name, attribute in self._kernels(stripped).items():
            promises.append(self._promise(state, name, attribute))
            broken += broken_by(getattr(stripped.get_layer(name), attribute).numpy(), promises[-1:])
        if broken:
            raise PromiseError(f"{self.name}: after training, " + "; ".join(broken) + ".")
        return state.evolve(model=stripped, promises=(*state.promises, *promises))

    def _promise(self, state: State, layer: str, attribute: str) -> Promise:
        weight = state.lineage.origin(f"{layer}/{attribute}")
        if self.n_of_m is not None:
            zeros, group = self.n_of_m
            return Promise(weight, "group_zeros", zeros, group=group, made_by=self.name)
        target = value_for(layer, self.final_sparsity, self.per_layer)
        return Promise(weight, "zeros", target, made_by=self.name)

    def _span(self, plan: StepPlan) -> tuple[int, int]:
        begin = max(1, round(self.begin * plan.total_steps))
        return begin, max(begin, round(self.end * plan.total_steps))

    def _step_schedule(self, layer: str, begin: int, end: int) -> Any:
        from tfcompress.techniques._magnitude import StepSchedule

        target = value_for(layer, self.final_sparsity, self.per_layer)
        sparsity: Schedule
        if callable(self.schedule):
            chosen = self.schedule
            # Unlike `min`, NumPy's hands NaN on, to be refused.
            sparsity = lambda step: np.minimum(chosen(step), target)  # noqa: E731
        elif self.schedule == "constant" or begin == end:
            sparsity = constant(target)
        else:
            sparsity = polynomial(min(self.initial_sparsity, target), target, begin, end, self.power)
        schedule = StepSchedule(sparsity, begin, end, self.frequency)
        if not (schedule.values >= 0).all() or schedule.values[-1] < target:
            raise RecipeError(
                f"{self.name}: schedule must give numbers of at least 0 and end at the sparsity of the layer, "
                f"{target:g} for {layer}. Received: from {schedule.values.min():g} to {schedule.values[-1]:g}."
            )
        return schedule

    def _kernels(self, model: Any) -> dict[str, str]:
        """The chosen layers and the name of the weight to prune in each."""
        refuse_nested(model, self.name)
        if not self.depthwise:
            self._refuse_depthwise(model)
        prunable = {layer.name: _kernel(layer) for layer in model.layers if self._cannot(layer) is None}
        if self.layers is None and self.n_of_m is not None:
            # Stems read 1 or 3 channels; a pattern by groups cannot apply there and nobody asked for it.
            prunable = {n: a for n, a in prunable.items() if self._misfit(model, n, a) is None}
        names = select_layers(list(prunable), self.layers, self.exclude, where=self.name)
        for pattern in self.per_layer:
            select_layers(names, [pattern], where=f"{self.name}.per_layer")
        misfits = [m for m in (self._misfit(model, n, prunable[n]) for n in names) if m]
        if misfits or not names:
            raise RecipeError(f"{self.name}: {'; '.join(misfits) or 'no layer of this model can be pruned'}.")
        return {name: prunable[name] for name in names}

    def _verdict(self, model: Any, layer: Any) -> Verdict:
        if not has_kernel(layer) or _registered(layer) == []:
            return Verdict(layer.name, NOTHING)
        cannot = self._cannot(layer)
        if cannot is None and (misfit := self._misfit(model, layer.name, _kernel(layer))):
            cannot = misfit, "another pattern of zeros for this layer, or exclude it"
        return Verdict(layer.name, NO, *cannot) if cannot else Verdict(layer.name, YES)

    def _cannot(self, layer: Any) -> tuple[str, str] | None:
        """Why layers of this type are not pruned, and what would change that; None when they can be."""
        if isinstance(layer, kd.keras.Model):
            return IN_NESTED_MODEL
        if _kernel(layer) is None:
            return "tfmot prunes no single kernel of this type of layer", "leave it dense, or replace it"
        if _is_depthwise(layer) and not self.depthwise:
            return "DepthwiseConv2D layers are pruned only where depthwise is true", f"set {self.name}.depthwise=true"
        if self.block_size != (1, 1) and not isinstance(layer, kd.keras.layers.Dense):
            return "zeros in blocks are for Dense kernels", f"leave {self.name}.block_size at (1, 1)"
        return None

    def _refuse_depthwise(self, model: Any) -> None:
        """Say so when a pattern chooses nothing but depthwise layers, which are off."""
        for pattern in (*(self.layers or ()), *self.exclude, *self.per_layer):
            matched = [layer for layer in model.layers if fnmatchcase(layer.name, pattern)]
            if matched and all(_is_depthwise(layer) for layer in matched):
                raise RecipeError(
                    f"{self.name}: DepthwiseConv2D layers are pruned only where depthwise is true. Received: the "
                    f"pattern {pattern}, which chooses {', '.join(layer.name for layer in matched)}. "
                    f"Remedy: set {self.name}.depthwise=true, or remove the pattern."
                )

    def _misfit(self, model: Any, name: str, attribute: str) -> str | None:
        layer = model.get_layer(name)
        inputs, outputs = getattr(layer, attribute).shape[-2:]
        height, width = self.block_size
        if inputs % height or outputs % width:
            return f"block_size {self.block_size} must divide the kernel of {name}, {inputs} x {outputs}"
        if self.n_of_m is None:
            return None
        layers = kd.keras.layers
        if type(layer) not in (layers.Dense, layers.Conv1D, layers.Conv2D):
            return f"n_of_m is for Dense, Conv1D and Conv2D; {name} is a {type(layer).__name__}"
        if inputs % self.n_of_m[1]:
            return f"n_of_m {self.n_of_m} needs input channels in groups of {self.n_of_m[1]}; {name} has {inputs}"
        return None


def _is_depthwise(layer: Any) -> bool:
    return isinstance(layer, kd.keras.layers.DepthwiseConv2D)


def _registered(layer: Any) -> list[str] | None:
    """The kernels of `layer` by tfmot's registry, and of the depthwise ones; None where it knows no such layer."""
    from tensorflow_model_optimization.python.core.sparsity.keras.prune_registry import PruneRegistry

    if _is_depthwise(layer):
        return ["depthwise_kernel"]
    # Recurrent layers are not in the registry's map, though it supports them.
    return PruneRegistry._LAYERS_WEIGHTS_MAP.get(type(layer))


def _kernel(layer: Any) -> str | None:
    """The name of the one kernel of `layer`; None where it has not one."""
    names = _registered(layer) or []
    return names[0] if len(names) == 1 else None


def _wrappers(model: Any) -> list[Any]:
    from tfcompress.techniques._magnitude import PruneExactly

    return [layer for layer in model.layers if isinstance(layer, PruneExactly)]
