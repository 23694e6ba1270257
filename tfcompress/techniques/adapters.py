"""Adapters: what compression cost is won back by training a few numbers a layer, which are merged into its kernel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from tfcompress import keras_door as kd
from tfcompress.techniques._fitting import fitting_layers, fitting_verdict, misfits
from tfcompress.techniques.base import ANY_STAGE, StepPlan, Technique, Verdict, value_for
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.promises import SHARED
from tfcompress.vocabulary.state import State

Rank = Annotated[int, Field(ge=1, le=1024)]


_KINDS = ("adapters are for Dense, Conv1D and Conv2D", "train it in fine_tuning")


class Adapters(Technique):
    """Train a low-rank change of each layer's kernel instead of the kernel, and merge it when the step ends.

    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2022), for Dense layers and convolutions. Adapters
    alone are trained, unless `fit.train` adds biases or normalizations. Promised zeros stay zero: the change is
    multiplied by their mask. A plain model goes on, with its promises.

    Example:
        >>> Adapters(rank=4, per_layer={"fc*": 8}).fit.train
        'added'
    """

    stage: ClassVar[str] = ANY_STAGE
    open_ended: ClassVar[bool] = True
    adds_weights: ClassVar[bool] = True

    technique: Literal["adapters"] = "adapters"
    rank: Rank = 4
    """Of every change. Defaults to 4."""
    alpha: float = Field(default=4.0, gt=0, le=1e6)
    """The change is multiplied by `alpha / rank`, so that a rate suits every rank. Defaults to 4."""
    per_layer: dict[str, Rank] = Field(default={})
    """Other ranks for layers by pattern."""
    layers: list[str] | None = None
    """Patterns of the layers to adapt. Defaults to every Dense, Conv1D and Conv2D whose kernel has more values than its
    adapter; one that is named and has not is refused."""
    exclude: list[str] = Field(default=[])
    """Patterns of layers to leave out."""

    def model_post_init(self, context: Any) -> None:
        """Train the adapters alone where nothing else is said."""
        super().model_post_init(context)
        if self.fit.train is None:
            object.__setattr__(self, "fit", self.fit.model_copy(update={"train": "added"}))

    def verdicts(self, model: Any) -> tuple[Verdict, ...]:
        """Which layers can be given an adapter."""
        return tuple(
            fitting_verdict(layer, of_kind=_is_adaptable(layer), kinds=_KINDS, misfit=self._misfit)
            for layer in model.layers
        )

    def layers_with_values(self, model: Any) -> tuple[str, ...]:
        """The layers to adapt."""
        return tuple(self._chosen(model))

    def check(self, state: State) -> None:
        """Refuse patterns that match no layer, ranks that save nothing, and promises that a change would break.

        Raises:
            ModelError: the model holds other models, whose layers cannot be reached.
            RecipeError: anything else, with every layer in the way.
        """
        problems = [*misfits(self._chosen(state.model), state.model, self._misfit), *self._conflicts(state)]
        if problems:
            raise RecipeError(f"{self.name} cannot adapt {len(problems)} layer(s):\n  " + "\n  ".join(problems))

    def prepare(self, state: State, plan: StepPlan) -> State:
        """A copy of the model with an adapter in every chosen layer, which computes what it did."""
        from tfcompress.models.loading import clone
        from tfcompress.techniques._adapted_layer import AdaptedLayer

        self.check(state)
        chosen = self._chosen(state.model)

        def wrap(layer: Any) -> Any:
            if layer.name not in chosen:
                return layer
            zeros = state.promises_of(state.lineage.origin(f"{layer.name}/kernel"), "zeros", "group_zeros")
            return AdaptedLayer(layer, rank=self._rank(layer.name), alpha=self.alpha, keep_zeros=bool(zeros))

        model = kd.keras.models.clone_model(clone(state.model), clone_function=wrap)
        rng = np.random.default_rng(plan.seed)
        for layer in model.layers:
            if isinstance(layer, AdaptedLayer):
                layer.start(rng)
        return state.evolve(model=model)

    def finish(self, state: State) -> State:
        """The plain model again, every kernel with its change."""
        from tfcompress.techniques._substitution import stripped

        return state.evolve(model=stripped(state.model))

    def _misfit(self, layer: Any) -> tuple[str, str] | None:
        """Why an adapter saves nothing in `layer`, and what would change that; None when it does."""
        rank, outputs, values = self._rank(layer.name), layer.kernel.shape[-1], layer.kernel.shape.num_elements()
        adapter = rank * (values // outputs + outputs)
        if adapter < values:
            return None
        largest = (values - 1) // (values // outputs + outputs)
        lower = f"a rank of at most {largest} for it, by {self.name}.per_layer, or " if largest else ""
        return (
            f"an adapter of rank {rank} has {adapter:,} values, its kernel {values:,}",
            f"{lower}leave it out",
        )

    def _conflicts(self, state: State) -> Iterator[str]:
        """Of every chosen layer with promises that a change of all its values would break, which."""
        for name in self._chosen(state.model):
            for promise in state.promises_of(state.lineage.origin(f"{name}/kernel"), *SHARED, "levels"):
                yield (
                    f"{name}: {promise.made_by or 'an earlier step'} promised {promise.kind} {promise.bound:g}, which "
                    "a low-rank change would not keep. Remedy: adapt before that step, leave the layer out, or train "
                    "biases in fine_tuning (fit.train)"
                )

    def _rank(self, layer: str) -> int:
        return value_for(layer, self.rank, self.per_layer)

    def _chosen(self, model: Any) -> list[str]:
        return fitting_layers(self, model, _is_adaptable, self._misfit)


def _is_adaptable(layer: Any) -> bool:
    layers = kd.keras.layers
    # Exactly these: transposed and depthwise convolutions have other axes.
    return type(layer) in (layers.Dense, layers.Conv1D, layers.Conv2D)
