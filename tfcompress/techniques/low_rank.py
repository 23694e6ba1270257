"""Low-rank factorization: large kernels become chains of smaller ones, each a layer of its own."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from math import ceil
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tfcompress import keras_door as kd
from tfcompress.models.channels import macs, parameters
from tfcompress.models.graph import has_kernel
from tfcompress.models.loading import clone
from tfcompress.techniques._factorable import Choice, CountName, Factorable, factorables, is_candidate, why_not
from tfcompress.techniques._factored_layers import factored
from tfcompress.techniques._factorization import Factorization, Ranks
from tfcompress.techniques._rank_sensitivity import greedy, measured_steps
from tfcompress.techniques._responses import responses
from tfcompress.techniques._selection import smallest_share
from tfcompress.techniques._target import OneFigure, Remainder, counted
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
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import State

Energy = Annotated[float, Field(gt=0, le=1)]
Rank = Annotated[int, Field(ge=1)]
_Chosen = Mapping[str, Choice]
_DEFAULT_ENERGY = 0.9
_FINEST = 1e-4
"""How finely the energy that meets a target is searched."""


class Target(OneFigure):
    """What may be left of the model that the step receives, as a share of one figure of it."""

    macs: Remainder | None = None
    """Of its multiply-accumulates in convolutions and Dense layers."""
    parameters: Remainder | None = None
    """Of the numbers in its weights."""


class LowRank(Technique):
    """Replace Dense and Conv2D layers by chains of smaller ones of low rank, and train these.

    What comes of it are ordinary layers, to which every later step applies. A layer is replaced only where that makes
    it smaller, both in parameters and in multiply-accumulates. Dense layers and 1x1 convolutions become two (truncated
    singular value decomposition); for larger kernels see `method`.

    Example:
        >>> LowRank(target={"macs": 0.5}, fit={"epochs": 4}).name
        'low_rank'
    """

    stage: ClassVar[str] = "graph"

    technique: Literal["low_rank"] = "low_rank"
    method: Literal["auto", "svd", "spatial_svd", "tucker2"] = "auto"
    """What kernels larger than 1x1 become: `svd`, one with fewer outputs and a 1x1 one (Zhang et al. 2016);
    `spatial_svd`, one of a single column and one of a single row (Jaderberg et al. 2014); `tucker2`, a smaller one
    between two of 1x1 (Kim et al. 2016). `auto`, the default, takes of the last two the one with fewer
    multiply-accumulates at the same energy, and for a target of parameters with fewer of these."""
    energy: Energy | None = None
    """Share of the squared singular values that every layer keeps at least. Defaults to 0.9 where no `rank`,
    `rank_share` or `target` is given."""
    rank: Rank | None = None
    """In place of `energy`: the rank of every layer; of `tucker2` that of inputs and of outputs. With `auto` it is
    that of `spatial_svd`, and tells what energy to keep."""
    rank_share: Energy | None = None
    """In place of `energy`: the rank of every layer as a share of its full rank."""
    target: Target | None = None
    """In place of `energy`: as much energy in all layers as brings one figure of the model down to a share of it,
    e.g. `{macs: 0.5}`."""
    allocation: Literal["energy", "sensitivity"] = "energy"
    """How a target is met: by one `energy` for all layers (the default), or by the `sensitivity` of each: the ranks
    that change the model's outputs least for what they gain, measured on the calibration samples layer by layer."""
    per_layer: dict[str, Rank] = Field(default={})
    """Ranks of their own for layers by pattern of their names, e.g. `{fc1: 16}`."""
    layers: list[str] | None = None
    """Patterns of the layers to factor. Defaults to all Dense and Conv2D layers."""
    exclude: list[str] = Field(default=[])
    """Patterns of layers to leave whole."""
    multiple_of: int = Field(default=8, ge=1, le=1024)
    """Ranks other than those given as numbers are rounded up to a multiple, or are full. Defaults to 8."""
    data_aware: bool = False
    """Lose the least of what layers answer to the calibration samples, in place of the least of their kernels (Zhang
    et al. 2016); energy is then that of the answers. With `svd`, which `auto` then is. Off by default."""

    @model_validator(mode="after")
    def _values_agree(self) -> LowRank:
        given = [name for name in ("energy", "rank", "rank_share", "target") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude one another. Remedy: give one of them")
        if self.allocation == "sensitivity" and (self.target is None or self.data_aware):
            raise ValueError(
                "allocation: sensitivity meets a target with ranks of the kernels. "
                "Remedy: give a target, without data_aware"
            )
        if self.data_aware and self.method not in ("auto", "svd"):
            raise ValueError(
                f"data_aware finds a space of a layer's outputs, and {self.method} has others. Remedy: method: svd"
            )
        return self

    def verdicts(self, model: Any) -> tuple[Verdict, ...]:
        """Which layers can be factored."""
        layers = factorables(model, _candidates(model), self._method)
        growing = {layer.name for layer in layers if all(layer.pays_below(method) == 1 for method in layer.ways)}
        return tuple(_verdict(layer, growing) for layer in model.layers)

    def layers_with_values(self, model: Any) -> tuple[str, ...]:
        """The layers to factor."""
        return tuple(self._names(model))

    def check(self, state: State) -> None:
        """Refuse patterns that match no layer, ranks at which no layer would be smaller, and targets out of reach."""
        layers = self._factorables(state.model)
        # What a rank keeps is known when the step begins; whether the smallest would do is known now.
        problems = [*self._rank_problems(layers, self._choices(layers, energy=0.0))]
        if self.target is not None and not problems:
            problems += self._target_problems(self.target, state.model, layers)
        if problems:
            raise RecipeError("\n".join(problems))

    def promised(self, state: State) -> tuple[Promise, ...]:
        """The ranks, as numbers of channels of the layers that will be new."""
        return self.foreseen(state).promises[len(state.promises) :]

    def foreseen(self, state: State) -> State:
        """The smaller model; where energies decide the ranks, those of the kernels as they are now."""
        layers = self._factorables(state.model)
        return self._factored(state, layers, self._found(state.model, layers))

    def prepare(self, state: State, plan: StepPlan) -> State:
        """The smaller model.

        Raises:
            RecipeError: see `check`; or no layer would be smaller.
            PromiseError: of the values of a weight to be factored something was promised.
        """
        names = self._names(state.model)
        answers = responses(state.model, names, plan.calibration) if self.data_aware else None
        layers = factorables(state.model, names, self._method, answers)

        def find() -> dict[str, Any]:
            found = self._found(state.model, layers, plan)
            if problems := [*self._rank_problems(layers, found)]:
                raise RecipeError("\n".join(problems))
            return {name: [choice.method, *choice.ranks] for name, choice in found.items()}

        # Another machine may round another way, and an interrupted run go on with another model.
        chosen = {name: Choice(method, tuple(ranks)) for name, (method, *ranks) in plan.once(find).items()}
        return self._factored(state, layers, chosen)

    def finish(self, state: State) -> State:
        """The trained model."""
        return state.evolve(model=clone(state.model))

    @property
    def _method(self) -> str:
        return "svd" if self.data_aware else self.method

    @property
    def _least(self) -> CountName:
        """What `auto` makes small."""
        return "macs" if self.target is None else self.target.figure

    def _factorables(self, model: Any) -> tuple[Factorable, ...]:
        return factorables(model, self._names(model), self._method)

    def _factored(self, state: State, layers: Sequence[Factorable], chosen: _Chosen) -> State:
        ways = {layer.name: layer.ways for layer in layers}
        chains = {name: ways[name][choice.method].factors(*choice.ranks) for name, choice in chosen.items()}
        return factored(state, chains, made_by=self.name)

    def _names(self, model: Any) -> list[str]:
        """The layers to factor, where nothing decides but their kinds and the patterns."""
        refuse_nested(model, self.name)
        candidates = _candidates(model)
        problems, names = [], candidates
        patterns = {
            self.name: (self.layers, self.exclude),
            f"{self.name}.per_layer": (list(self.per_layer), ()),
        }
        for where, (include, exclude) in patterns.items():
            try:
                found = select_layers(candidates, include, exclude, where=where)
                names = found if where == self.name else names
            except RecipeError as error:
                problems.append(str(error))
        if not candidates:
            problems = [
                f"{self.name}: no Dense or Conv2D of this model can be factored. Remedy: leave the step out; "
                "tfcompress check says of each layer why."
            ]
        if problems:
            raise RecipeError("\n".join(problems))
        return names

    def _found(self, model: Any, layers: Sequence[Factorable], plan: StepPlan | None = None) -> _Chosen:
        """How each layer is factored that becomes smaller; before there is a plan, by energies alone."""
        if self.target is None:
            return self._choices(layers, self.energy or _DEFAULT_ENERGY)
        left, bound = self._left(self.target, model, layers), self.target.bound
        if self.allocation == "sensitivity" and plan is not None:
            return self._by_sensitivity(model, layers, lambda chosen: left(chosen) <= bound, plan)
        lost = smallest_share(lambda lost: left(self._choices(layers, 1 - lost)), bound, _FINEST)
        # `check` refuses what is out of reach of the smallest ranks, which no weights change.
        return self._choices(layers, 0.0 if lost is None else 1 - lost)

    def _by_sensitivity(
        self, model: Any, layers: Sequence[Factorable], met: Callable[[_Chosen], bool], plan: StepPlan
    ) -> _Chosen:
        free = [layer for layer in layers if self._ranks_asked(layer.name) is None]
        own = self._choices([layer for layer in layers if layer not in free], 1.0)
        steps = measured_steps(model, free, self.multiple_of, self._least, plan.calibration)
        whole = {layer.name: layer.whole(self._least) for layer in free}
        return own | greedy(whole, steps, lambda chosen: met(own | chosen))

    def _left(self, target: Target, model: Any, layers: Sequence[Factorable]) -> Callable[[_Chosen], float]:
        """The share of the figure of `target` that is left with layers factored as chosen."""
        count = {"macs": macs, "parameters": parameters}[target.figure]
        whole = counted(lambda: count(model, {}), target.figure, self.name)

        def left(chosen: _Chosen) -> float:
            pairs = ((layer, chosen[layer.name]) for layer in layers if layer.name in chosen)
            gained = (layer.whole(target.figure) - layer.cost(target.figure, *choice) for layer, choice in pairs)
            return 1 - sum(gained) / whole

        return left

    def _choices(self, layers: Sequence[Factorable], energy: float) -> dict[str, Choice]:
        """How each layer is factored that becomes smaller, where `energy` is what those without ranks keep."""
        found = {layer.name: self._choice(layer, energy) for layer in layers}
        return {name: choice for name, choice in found.items() if choice is not None}

    def _choice(self, layer: Factorable, energy: float) -> Choice | None:
        asked = self._ranks_asked(layer.name)
        if asked is None:
            return layer.at_energy(energy, self.multiple_of, self._least)
        return layer.at_ranks(asked, self.multiple_of)

    def _ranks_asked(self, name: str) -> Callable[[Factorization], Ranks] | None:
        """The ranks that a layer is to have, of any way to factor it; None where energies decide."""
        rank = value_for(name, self.rank, self.per_layer)
        if rank is not None:
            return lambda way: tuple(min(rank, full) for full in way.full_ranks)
        if self.rank_share is not None:
            share, step = self.rank_share, self.multiple_of
            return lambda way: tuple(min(ceil(round(share * full / step, 6)) * step, full) for full in way.full_ranks)
        return None

    def _rank_problems(self, layers: Sequence[Factorable], chosen: _Chosen) -> Iterator[str]:
        """Ranks of their own that would make layers no smaller, or that there is none that would become so."""
        no_smaller = [layer for layer in layers if layer.name not in chosen]
        own = [layer for layer in no_smaller if value_for(layer.name, None, self.per_layer) is not None]
        for where, found in ((f"{self.name}.per_layer", own), (self.name, [] if chosen or own else no_smaller)):
            if found:
                yield (
                    f"{where}: a layer is factored only where that makes it smaller, in parameters and in "
                    f"multiply-accumulates. Ranks must be below: {'; '.join(map(_bounds, found))}. "
                    "Remedy: smaller ranks, less energy, or a smaller multiple_of."
                )

    def _target_problems(self, target: Target, model: Any, layers: Sequence[Factorable]) -> Iterator[str]:
        nearest = self._left(target, model, layers)(self._choices(layers, 0.0))
        if nearest > target.bound:
            yield (
                f"{self.name}: target.{target.figure} must be within reach. Received: {target.bound:g}; the nearest "
                f"that can be met is {nearest:.4g}, with multiple_of {self.multiple_of}, layers, exclude and per_layer "
                "as they are."
            )


def _bounds(layer: Factorable) -> str:
    """The rank below which each way to factor `layer` pays."""
    return f"{layer.name} {' or '.join(f'{layer.pays_below(method)} ({method})' for method in layer.ways)}"


def _candidates(model: Any) -> list[str]:
    return [layer.name for layer in model.layers if is_candidate(layer) and not why_not(layer)]


def _verdict(layer: Any, growing: Container[str]) -> Verdict:
    if isinstance(layer, kd.keras.Model):
        return Verdict(layer.name, NO, *IN_NESTED_MODEL)
    if not has_kernel(layer):
        return Verdict(layer.name, NOTHING)
    if not is_candidate(layer):
        reason = f"of {type(layer).__name__} no factors are known"
    elif layer.name in growing:
        reason = "layers in its place would be no smaller, even at rank 1"
    elif not (reason := why_not(layer)):
        return Verdict(layer.name, YES)
    return Verdict(layer.name, NO, reason, "leave it whole, or build it of larger Dense and Conv2D layers")
