"""Pruning: the least important weights become zero while the rest is trained."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from tfcompress import keras_door as kd
from tfcompress.models.graph import has_kernel
from tfcompress.schedules import Schedule, constant, half_cosine, polynomial
from tfcompress.techniques._masks import Distribution, Importance, Regrow, erdos_renyi_kernel, fewest_zeros
from tfcompress.techniques.base import (
    IN_NESTED_MODEL,
    NO,
    NOTHING,
    YES,
    StepPlan,
    Technique,
    Verdict,
    refuse_nested,
    select_layers,
    value_for,
)
from tfcompress.vocabulary.errors import PromiseError, RecipeError
from tfcompress.vocabulary.promises import Promise, broken_by
from tfcompress.vocabulary.state import State

Share = Annotated[float, Field(ge=0, lt=1)]

_NOTHING_MOVED = (
    "importance movement is gathered by training before the first zeros. Received: n_of_m, or a sparsity above 0 at "
    "the first step. Remedy: a later begin, or a schedule that grows from 0"
)


class Pruning(Technique):
    """Zero the weights that matter least, gradually, and train the others.

    Zhu and Gupta, "To prune, or not to prune" (2017), on tfmot's pruning wrapper. With `fit: {epochs: 0}` the masks
    are made at once, of the weights as they are, and nothing is trained. With `regrow` and `schedule: constant` it is
    dynamic sparse training; with a schedule that grows, pruning whose errors are mended on the way (Liu et al.,
    "Sparse Training via Boosting Pruning Plasticity with Neuroregeneration", 2021).

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
    """Share of zeros promised for every pruned weight, or by another `distribution` for all of them together.
    Defaults to 0.5."""
    importance: Importance = "magnitude"
    """What tells which weights stay: their `magnitude`; `gradient`, the mean over batches of 32 of |weight x gradient|
    (Lee et al., "SNIP", 2019; Molchanov et al., "Importance Estimation for Neural Network Pruning", 2019); `movement`,
    minus the sum of weight x gradient over the steps of this training (Sanh et al., "Movement Pruning", 2020; a
    weight that is zero gathers nothing); `fisher`, the square of the weight times the mean over samples of the
    squared gradient (LeCun et al., "Optimal Brain Damage", 1990, with the diagonal of Theis et al., "Faster gaze
    prediction with dense networks and Fisher pruning", 2018); or `random`, as a control. `gradient` and `fisher` are of
    the task's loss on the calibration samples, at every update of the masks. Defaults to `magnitude`."""
    distribution: Distribution = "uniform"
    """How zeros are spread over layers: `uniform`, each has the same share; `erk`, by the dimensions of the kernels
    (Evci et al., "Rigging the Lottery", 2020); `global`, the least important weights of all go; `lamp`, the same by
    magnitudes that are made comparable (Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", 2021).
    Defaults to `uniform`."""
    at_least: float = Field(default=0.1, ge=0, le=1)
    """By `erk`, `global` and `lamp`, every layer keeps at least this share of what `uniform` would leave it, and one
    weight. Defaults to 0.1."""
    regrow: Regrow = "none"
    """What tells which zeros become weights again, as many as make way for them at each update of the masks: the
    `gradient` of the task's loss on the calibration samples (Evci et al., "Rigging the Lottery", 2020), or the
    `momentum` of the optimizer (Dettmers and Zettlemoyer, "Sparse Networks from Scratch", 2019, without moving weights
    between layers). They begin at 0. Defaults to `none`."""
    regrow_share: float = Field(default=0.3, gt=0, lt=1)
    """Share of a layer's kept weights that makes way at `begin`; it falls along half a cosine to 0 at `end`. Defaults
    to 0.3."""
    per_layer: dict[str, Share] = Field(default={})
    """Other final sparsities for layers by pattern, e.g. `{conv1: 0.3}`; these do not compete with others."""
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
        if misfits := self._misfits_of_choices():
            raise ValueError("; ".join(misfits))
        if min(self.block_size) < 1:
            raise ValueError(f"block_size must hold two numbers of at least 1. Received: {self.block_size}")
        if self.n_of_m is not None:
            zeros, group = self.n_of_m
            fields = type(self).model_fields
            replaced = ("final_sparsity", "initial_sparsity", "per_layer", "schedule", "distribution", "regrow")
            ignored = [name for name in replaced if getattr(self, name) != fields[name].default]
            if ignored:
                raise ValueError(f"n_of_m takes the place of {', '.join(ignored)}. Remedy: remove one or the other")
            if not 0 < zeros < group:
                raise ValueError(f"n_of_m must be (zeros, group) with 0 < zeros < group. Received: {self.n_of_m}")
            if self.block_size != (1, 1):
                raise ValueError("n_of_m and block_size exclude one another. Remedy: remove one of them")
        return self

    def _misfits_of_choices(self) -> list[str]:
        """What is wrong with importance, distribution and regrowth together."""
        wrong = []
        if self.distribution == "lamp" and self.importance != "magnitude":
            wrong.append(
                "distribution lamp makes magnitudes comparable. Received: importance "
                f"{self.importance}. Remedy: distribution global"
            )
        needs_steps = ["importance movement"] if self.importance == "movement" else []
        needs_steps += [f"regrow {self.regrow}"] if self.regrow != "none" else []
        if needs_steps and self.fit.epochs == 0:
            wrong.append(f"{' and '.join(needs_steps)} can only be told while the model trains. Received: fit.epochs 0")
        if self.importance == "movement" and self._zeros_at_once:
            wrong.append(_NOTHING_MOVED)
        if self.importance == "movement" and self.fit.precision == "mixed_float16":
            wrong.append(
                "importance movement sums gradients, which mixed_float16 scales, by a factor that changes. Received: "
                "fit.precision mixed_float16. Remedy: mixed_bfloat16 or float32, or importance gradient"
            )
        if self.regrow == "momentum" and self.fit.optimizer == "rmsprop":
            wrong.append(
                "regrow momentum needs an optimizer that keeps one. Received: fit.optimizer rmsprop. "
                "Remedy: adam, adamw or sgd, or regrow gradient"
            )
        return wrong

    def problems_on_replicas(self) -> list[str]:
        """Movement is gathered within the training step, by one replica for itself."""
        if self.importance != "movement":
            return []
        return [f"{self.name}: importance movement is gathered on one device. Remedy: importance gradient or fisher"]

    @property
    def _zeros_at_once(self) -> bool:
        """Whether the first masks have zeros before anything is trained."""
        from_the_first = self.schedule == "constant" or self.initial_sparsity > 0
        return self.n_of_m is not None or (self.begin == 0 and from_the_first)

    def verdicts(self, model: Any) -> tuple[Verdict, ...]:
        """Which layers can be given zeros."""
        return tuple(self._verdict(model, layer) for layer in model.layers)

    def layers_with_values(self, model: Any) -> tuple[str, ...]:
        """The layers to prune."""
        return tuple(self._kernels(model))

    def check(self, state: State) -> None:
        """Refuse patterns that match no layer, layers that the pattern of zeros does not fit, and too many zeros."""
        self._targets(state.model, self._kernels(state.model))

    def promised(self, state: State) -> tuple[Promise, ...]:
        """Zeros in every pruned weight; where layers compete, those that it has however the others fare."""
        kernels = self._kernels(state.model)
        shares = self._targets(state.model, kernels) | self._surely_zero(state.model, kernels)
        return tuple(self._promise(state, name, attribute, shares) for name, attribute in kernels.items())

    def prepare(self, state: State, plan: StepPlan) -> State:
        """A copy of the model with tfmot's pruning wrapper around every layer to be pruned.

        Raises:
            RecipeError: what tells which weights stay needs labels, and there are none.
        """
        from tfcompress.models.loading import clone
        from tfcompress.techniques._magnitude import PruneExactly

        source = clone(state.model)
        kernels = self._kernels(source)
        targets = self._targets(source, kernels)

        def wrap(layer: Any) -> Any:
            if layer.name not in kernels:
                return layer
            if _is_depthwise(layer):
                layer.get_prunable_weights = lambda: [layer.depthwise_kernel]
            if not self._by_own_magnitude:
                return PruneExactly(layer, gathers_movement=self.importance == "movement")
            schedule = self._step_schedule(targets[layer.name], plan, layer.name)
            return PruneExactly(
                layer, pruning_schedule=schedule, block_size=self.block_size, sparsity_m_by_n=self.n_of_m
            )

        model = kd.keras.models.clone_model(source, clone_function=wrap)
        if not self._by_own_magnitude:
            model.mask_updates = self._mask_updates(model, source, plan)
        if plan.epochs == 0:
            if self._by_own_magnitude:
                for layer in _wrappers(model):
                    layer.make_masks()
            else:
                model.mask_updates.make(1)
        return state.evolve(model=model)

    def callbacks(self, state: State) -> list[Any]:
        """tfmot's step counter, without which the wrapper refuses to train, and what makes the masks."""
        step_counter = kd.tfmot.sparsity.keras.UpdatePruningStep()
        return [step_counter] if self._by_own_magnitude else [step_counter, state.model.mask_updates.callback()]

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
        kernels = self._kernels(stripped)
        targets = self._targets(stripped, kernels)
        # What competing layers lost is known now.
        competing = {name: mask for name, mask in _masks(state.model).items() if name not in targets}
        shares = targets | {name: np.count_nonzero(mask == 0) / mask.size for name, mask in competing.items()}
        promises, broken = [], self._too_few_zeros(competing.values())
        for name, attribute in kernels.items():
            promises.append(self._promise(state, name, attribute, shares))
            broken += broken_by(getattr(stripped.get_layer(name), attribute).numpy(), promises[-1:])
        if broken:
            raise PromiseError(f"{self.name}: after training, " + "; ".join(broken) + ".")
        return state.evolve(model=stripped, promises=(*state.promises, *promises))

    def _promise(self, state: State, layer: str, attribute: str, shares: Mapping[str, float]) -> Promise:
        weight = state.lineage.origin(f"{layer}/{attribute}")
        if self.n_of_m is not None:
            zeros, group = self.n_of_m
            return Promise(weight, "group_zeros", zeros, group=group, made_by=self.name)
        return Promise(weight, "zeros", shares[layer], made_by=self.name)

    def _too_few_zeros(self, competing: Collection[np.ndarray]) -> list[str]:
        """What to say where the masks of competing layers have not the zeros that were asked for of all together."""
        zeros, count = sum(np.count_nonzero(mask == 0) for mask in competing), sum(mask.size for mask in competing)
        if not count or zeros / count >= self.final_sparsity:
            return []
        return [f"the layers together must have zeros {self.final_sparsity:g}, but have {zeros / count:g}"]

    @property
    def _by_own_magnitude(self) -> bool:
        """Whether every layer's masks are those of its own magnitudes, which its wrapper makes itself."""
        return self.importance == "magnitude" and self.distribution in ("uniform", "erk") and self.regrow == "none"

    def _targets(self, model: Any, kernels: Mapping[str, str]) -> dict[str, float]:
        """The final sparsity of every layer of which it is known before the training."""
        own = {name: value_for(name, None, self.per_layer) for name in kernels}
        free = [name for name in kernels if own[name] is None]
        known = {name: share for name, share in own.items() if share is not None}
        if self.distribution == "uniform" or not free:
            return known | dict.fromkeys(free, self.final_sparsity)
        # Refuses too many zeros, also where how they are spread is known later.
        sizes, least, kept = self._room(model, kernels)
        if self.distribution in ("global", "lamp"):
            return known
        shapes = [getattr(model.get_layer(name), kernels[name]).shape for name in free]
        counts = erdos_renyi_kernel(shapes, [sizes[n] for n in free], kept, [least[n] for n in free])
        return known | {name: (sizes[name] - count) / sizes[name] for name, count in zip(free, counts, strict=True)}

    def _room(self, model: Any, kernels: Mapping[str, str]) -> tuple[dict[str, int], dict[str, int], int]:
        """Of layers without a sparsity of their own, in weights or blocks: the sizes, what each keeps at least, and
        what all keep."""
        block, sparsity = int(np.prod(self.block_size)), np.float64(self.final_sparsity)
        sizes = {
            name: int(np.prod(getattr(model.get_layer(name), attribute).shape)) // block
            for name, attribute in kernels.items()
            if value_for(name, None, self.per_layer) is None
        }
        uniform = {name: size - int(fewest_zeros(sparsity, size)) for name, size in sizes.items()}
        least = {name: max(1, int(self.at_least * count)) for name, count in uniform.items()}
        total = sum(sizes.values())
        kept = total - int(fewest_zeros(sparsity, total))
        if sum(least.values()) > kept:
            raise RecipeError(
                f"{self.name}: every layer must keep a weight or block, and at_least of what uniform would leave it. "
                f"Received: final_sparsity {self.final_sparsity:g}, which leaves {kept} to {len(sizes)} layers, of "
                f"which {sum(least.values())} are spoken for. Remedy: final_sparsity at most "
                f"{(total - sum(least.values())) / total:.6g}, or a smaller at_least."
            )
        return sizes, least, kept

    def _surely_zero(self, model: Any, kernels: Mapping[str, str]) -> dict[str, float]:
        """The share of zeros that each competing layer has even if it keeps all that the others can spare."""
        if self.distribution not in ("global", "lamp"):
            return {}
        sizes, least, kept = self._room(model, kernels)
        most = {name: kept - sum(least.values()) + least[name] for name in sizes}
        return {name: max(0, size - most[name]) / size for name, size in sizes.items()}

    def _span(self, plan: StepPlan) -> tuple[int, int]:
        begin = max(1, round(self.begin * plan.total_steps))
        return begin, max(begin, round(self.end * plan.total_steps))

    def _step_schedule(self, target: float, plan: StepPlan, of: str) -> Any:
        """The sparsity of layers, named `of`, by the optimizer step."""
        from tfcompress.techniques._magnitude import StepSchedule

        begin, end = self._span(plan)
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
                f"{target:g} for {of}. Received: from {schedule.values.min():g} to {schedule.values[-1]:g}."
            )
        return schedule

    def _mask_updates(self, model: Any, source: Any, plan: StepPlan) -> Any:
        """What makes the masks of `model`, wrapped from `source`, where wrappers do not make them themselves."""
        from tfcompress.techniques._mask_updates import MaskRule, MaskUpdates, Pool

        wrappers = {wrapper.layer.name: wrapper for wrapper in _wrappers(model)}
        kernels = self._kernels(source)
        targets = self._targets(source, kernels)
        pools = [
            Pool((wrappers[name],), self._step_schedule(target, plan, name), (0,)) for name, target in targets.items()
        ]
        if competing := [name for name in wrappers if name not in targets]:
            _, least, _ = self._room(source, kernels)
            schedule = self._step_schedule(self.final_sparsity, plan, ", ".join(competing))
            pools.append(Pool(tuple(wrappers[n] for n in competing), schedule, tuple(least[n] for n in competing)))
        if self.importance == "movement" and any(p.schedule.begin == 1 and p.schedule.values[0] > 0 for p in pools):
            raise RecipeError(f"{self.name}: {_NOTHING_MOVED}.")
        rule = MaskRule(
            importance=self.importance,
            by_lamp=self.distribution == "lamp",
            regrow=self.regrow,
            regrow_share=constant(0.0) if self.regrow == "none" else half_cosine(self.regrow_share, *self._span(plan)),
            block_size=self.block_size,
            n_of_m=self.n_of_m,
        )
        return MaskUpdates(model, pools, rule, plan, where=self.name)

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


def _masks(model: Any) -> dict[str, np.ndarray]:
    """The masks of the wrapped layers of `model`, by the layers' own names."""
    return {wrapper.layer.name: wrapper.mask.numpy() for wrapper in _wrappers(model)}
