"""The contract that every technique keeps, and how the ones that exist are found."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from tfcompress.vocabulary.errors import ModelError, RecipeError
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.schema import Schema
from tfcompress.vocabulary.state import State
from tfcompress.vocabulary.training import Fit

STAGES = ("graph", "sparse", "shared", "quantized")
"""The order in which kinds of technique may follow one another: each keeps what the earlier ones made."""

ANY_STAGE = "any"
"""The stage of a technique that keeps whatever earlier ones made, and may stand anywhere before the last stage."""


def undoes(stage: str, earlier: str) -> bool:
    """Whether a step of `stage` would undo what one of the stage `earlier` made.

    Example:
        >>> undoes("sparse", "shared"), undoes(ANY_STAGE, "shared"), undoes(ANY_STAGE, "quantized")
        (True, False, True)
    """
    if ANY_STAGE in (stage, earlier):
        return stage == ANY_STAGE and earlier == STAGES[-1]
    return STAGES.index(stage) < STAGES.index(earlier)


@dataclass(frozen=True)
class StepPlan:
    """What a step is told about the training it is part of.

    Args:
        steps_per_epoch: optimizer steps in one epoch.
        epochs: epochs the step will train.
        calibration: preprocessed training inputs, float32 `[n, ...]`, to take activation ranges from.
        seed: the step's own seed.
        targets: what the model is to give for `calibration`, `[n, ...]`; None without labels.
        loss: the task's, a function of targets and outputs; None where nothing is trained.
        once: calls a measurement, whose plain value an interrupted run is given again instead of measuring anew.
            Defaults to measuring.
    """

    steps_per_epoch: int
    epochs: int
    calibration: np.ndarray
    seed: int
    targets: np.ndarray | None = None
    loss: Callable[..., Any] | None = None
    once: Callable[[Callable[[], Any]], Any] = lambda measure: measure()

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole step."""
        return self.steps_per_epoch * self.epochs


Outcome = Literal["yes", "by rewrite", "by calibration", "float only", "no", "-"]
YES: Outcome = "yes"
BY_REWRITE: Outcome = "by rewrite"
BY_CALIBRATION: Outcome = "by calibration"
FLOAT_ONLY: Outcome = "float only"
NO: Outcome = "no"
NOTHING: Outcome = "-"


@dataclass(frozen=True)
class Verdict:
    """What a technique, or the converter, can do with one layer of a model.

    Args:
        layer: the layer's name.
        outcome: ``yes``; ``by rewrite``: once an exact rewrite has made other layers of it; ``by calibration``: not
            in training, but the converter quantizes it; ``float only``: converted, but not to integers; ``no``;
            ``-``: there is nothing to do, no weight say.
        reason: why not ``yes``; empty when it is, and where there is nothing to do.
        remedy: what would change that.
    """

    layer: str
    outcome: Outcome
    reason: str = ""
    remedy: str = ""


class Technique(Schema):
    """One step of a recipe: typed values, and four verbs that are no-ops unless a technique needs them.

    The pipeline calls ``prepare``, trains with ``objective`` and ``callbacks``, then calls ``finish``.
    ``prepare`` is deterministic: preparing the same state twice gives models with the same variables in the
    same order, which is what lets an interrupted run load its checkpoint into a freshly prepared model.
    Subclasses set ``technique`` to a ``Literal`` of their name and ``stage`` to one of `STAGES` or to
    `ANY_STAGE`.
    """

    stage: ClassVar[str]
    trains: ClassVar[bool] = True
    """Whether the step has epochs; a step without has no use for `fit`."""
    open_ended: ClassVar[bool] = False
    """Whether training for more epochs begins like training for fewer: nothing but the rate looks ahead to the end."""

    adds_weights: ClassVar[bool] = False
    """Whether the prepared model has weights of the step's own to train, such as centroids."""

    technique: str
    """Which technique this is."""
    name: str = Field(default="", pattern=r"^[A-Za-z0-9_-]*$")
    """The step's unique name in the recipe. Defaults to the technique's."""
    fit: Fit = Field(default=Fit())
    """How the model is fine-tuned in this step."""

    def model_post_init(self, _context: Any) -> None:
        """Give the step its default name."""
        if not self.name:
            object.__setattr__(self, "name", self.technique)

    def problems_after(self, earlier: Sequence[Technique]) -> list[str]:
        """What forbids this step to follow `earlier` ones, beyond the order of `STAGES`; empty when nothing."""
        del earlier
        return []

    def problems_on_replicas(self) -> list[str]:
        """What forbids this step to train on several devices, each with a part of every batch; empty when nothing."""
        return []

    def verdicts(self, model: Any) -> tuple[Verdict, ...]:
        """What this step can do with each layer of `model`, in order; nothing when it does not work by layers."""
        del model
        return ()

    def layers_with_values(self, model: Any) -> tuple[str, ...]:
        """The layers of `model` that `per_layer` may give values of their own, in order; none without such values."""
        del model
        return ()

    def check(self, state: State) -> None:
        """Refuse a model this step cannot work on, before anything is trained.

        Args:
            state: the caller's model, untrained as yet, as earlier steps foresee to hand it on.

        Raises:
            RecipeError, ModelError: with every layer or pattern that stands in the way.
        """
        del state

    def promised(self, state: State) -> tuple[Promise, ...]:
        """The promises that `finish` will add for a model that passed `check`."""
        del state
        return ()

    def foreseen(self, state: State) -> State:
        """What this step will hand on, as far as that is known of a model that passed `check`: later steps check it."""
        return state.evolve(promises=(*state.promises, *self.promised(state)))

    def prepare(self, state: State, plan: StepPlan) -> State:
        """A state whose model is ready to train; the model of `state` stays as it was."""
        del plan
        return state

    def objective(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """The loss to train with, made from the task's."""
        return loss

    def callbacks(self, state: State) -> list[Any]:
        """Keras callbacks that the training of the prepared `state` needs."""
        del state
        return []

    def first_selectable_epoch(self, plan: StepPlan) -> int:
        """The first epoch (from 0) whose weights may be kept as the best, and after which training may stop."""
        del plan
        return 0

    def finish(self, state: State) -> State:
        """The state to hand on: wrappers stripped, promises added."""
        return state


@cache
def techniques() -> dict[str, type[Technique]]:
    """Every technique by its name: the subclasses of `Technique` in the modules of this folder.

    A new technique is a new file here; nothing else lists it.
    """
    package = importlib.import_module("tfcompress.techniques")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package.__name__}.{module.name}")
    found = (cls for cls in _subclasses(Technique) if cls.__module__.startswith(f"{package.__name__}."))
    return {cls.model_fields["technique"].default: cls for cls in found}


def _subclasses(cls: type) -> Iterable[type]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


IN_NESTED_MODEL = ("layers inside a nested model cannot be reached", "build one flat model of their layers")
"""Reason and remedy of the verdict on a layer that is a model."""


def refuse_nested(model: Any, where: str) -> None:
    """Refuse a model that holds other models, whose layers a technique could not reach.

    Raises:
        ModelError: naming the nested models.
    """
    nested = [layer.name for layer in model.layers if hasattr(layer, "layers")]
    if nested:
        raise ModelError(
            f"{where}: layers inside a nested model cannot be reached. Received a model that holds: "
            f"{', '.join(nested)}. Remedy: build one flat model of their layers."
        )


def select_layers(
    candidates: Sequence[str],
    include: Sequence[str] | None,
    exclude: Sequence[str] = (),
    *,
    where: str,
) -> list[str]:
    """The candidate layer names that the patterns choose, in the model's order.

    Args:
        candidates: names of the layers a technique can work on.
        include: shell-style patterns (`conv*`); None chooses all.
        exclude: patterns of layers to leave out.
        where: the place in the recipe, for the message.

    Raises:
        RecipeError: a pattern matches no candidate.

    Example:
        >>> select_layers(["conv1", "conv2", "fc"], ["conv*"], ["conv2"], where="pruning")
        ['conv1']
    """
    unmatched = [
        pattern
        for pattern in (*(include or ()), *exclude)
        if not any(fnmatchcase(name, pattern) for name in candidates)
    ]
    if unmatched:
        raise RecipeError(
            f"{where}: every layer pattern must match a layer this technique can work on. "
            f"No match for: {', '.join(unmatched)}. Layers it can work on: {', '.join(candidates) or 'none'}."
        )
    chosen = candidates if include is None else [n for n in candidates if any(fnmatchcase(n, p) for p in include)]
    return [name for name in chosen if not any(fnmatchcase(name, p) for p in exclude)]


def value_for(name: str, default: Any, per_layer: dict[str, Any]) -> Any:
    """The value for the layer `name`: that of the last pattern in `per_layer` that matches, else `default`.

    Example:
        >>> value_for("conv1", 8, {"conv*": 4})
        4
    """
    return next((value for pattern, value in reversed(per_layer.items()) if fnmatchcase(name, pattern)), default)
