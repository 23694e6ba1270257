"""Cross-layer equalization: the ranges of channels evened out between layers, so that one scale serves them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.graph import has_kernel
from tfcompress.models.loading import copied_layer
from tfcompress.models.rewrites import CALIBRATING, rewrite
from tfcompress.models.rewrites._graph import Graph, Part, rebuilt
from tfcompress.models.rewrites._per_channel import SCALED
from tfcompress.techniques._layer_pairs import LayerPair, NoPairError, kernel_attribute, layer_pairs
from tfcompress.techniques._range_balance import balance
from tfcompress.techniques.base import (
    ANY_STAGE,
    BY_REWRITE,
    NO,
    NOTHING,
    YES,
    StepPlan,
    Technique,
    Verdict,
)
from tfcompress.vocabulary.errors import ModelError, PromiseError, RecipeError
from tfcompress.vocabulary.state import Lineage, Move, State

_TOLERANCE = 1e-4
_COMPARED = 64


class Equalization(Technique):
    """Scale the channels between layers so that each uses the range of its weights as well as every other.

    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), section 4.1: behind a
    ReLU, what divides a channel of one layer can multiply it in the next. The model stays the same function, which is
    verified on calibration samples; weights of few bits or of one scale for a whole tensor then lose less. A
    BatchNormalization behind a layer is folded into it first, and nested models are made flat. Zeros stay zero.

    Example:
        >>> Equalization(relu6_as_relu=True).name
        'equalization'
    """

    stage: ClassVar[str] = ANY_STAGE
    trains: ClassVar[bool] = False

    technique: Literal["equalization"] = "equalization"
    relu6_as_relu: bool = False
    """Whether a relu6 between two layers becomes a ReLU, for channels can be scaled then: the paper's choice for
    MobileNets. It changes the model where activations exceed 6. Defaults to False: such layers are left as they are."""

    def verdicts(self, model: Any) -> tuple[Verdict, ...]:
        """Which layers have a neighbour to share factors of channels with."""
        found = layer_pairs(model, relu6_as_relu=self.relu6_as_relu)
        paired = _paired(_pairs(found))
        return tuple(_verdict(layer, found.get(layer.name), layer.name in paired) for layer in model.layers)

    def check(self, state: State) -> None:
        """Refuse a model without two layers to equalize, and one whose promises would be broken."""
        try:
            self._opened(state)
        except PromiseError as error:
            raise RecipeError(f"{self.name}: {error}") from error

    def foreseen(self, state: State) -> State:
        """The model with its BatchNormalization folded."""
        return self._opened(state)[0]

    def prepare(self, state: State, plan: StepPlan) -> State:
        """The equalized model.

        Raises:
            RecipeError: no two layers can be equalized.
            ModelError: the outputs do not stay the same.
            PromiseError: an earlier step promised what scaled weights do not keep.
        """
        state, pairs = self._opened(state)
        samples = plan.calibration[:_COMPARED]
        before = np.asarray(state.model(samples, training=False), np.float64)
        _equalize(state.model, pairs)
        after = np.asarray(state.model(samples, training=False), np.float64)
        apart = np.abs(after - before).max() / max(np.abs(before).max(), np.finfo(np.float32).tiny)
        # So that a number that is none is refused too.
        if not apart <= _TOLERANCE:
            raise ModelError(
                f"{self.name}: equalization must leave the outputs as they are, within {_TOLERANCE:g} of the largest. "
                f"On calibration samples they changed by {apart:.3g}. Remedy: leave the step out."
            )
        return state

    def _opened(self, state: State) -> tuple[State, tuple[LayerPair, ...]]:
        """`state` with a model of its own, ready to be equalized, and what to equalize in it."""
        done = rewrite(state.model, ("flatten_models", *CALIBRATING))
        found = layer_pairs(done.model, relu6_as_relu=self.relu6_as_relu)
        pairs = _pairs(found)
        if not pairs:
            reasons = "\n  ".join(
                f"{name}: {problem.reason}. Remedy: {problem.remedy or 'none'}"
                for name, problem in found.items()
                if isinstance(problem, NoPairError)
            )
            raise RecipeError(
                f"{self.name}: two convolutions or Dense layers must follow one another with a ReLU or nothing between "
                f"them. In this model none do:\n  {reasons or 'it has no such layers'}\nRemedy: leave the step out."
            )
        state = state.rewritten(done.model, done.lineage)
        places = [f"{name}/{kernel_attribute(done.model.get_layer(name))}" for name in _paired(pairs)]
        scaled = Lineage().moved({place: Move(place, SCALED) for place in places})
        return state.rewritten(_unclipped(done.model, pairs), scaled), pairs


def _pairs(found: dict[str, LayerPair | NoPairError]) -> tuple[LayerPair, ...]:
    return tuple(pair for pair in found.values() if isinstance(pair, LayerPair))


def _paired(pairs: Sequence[LayerPair]) -> dict[str, None]:
    """The names of the layers in `pairs`."""
    return dict.fromkeys(name for pair in pairs for name in (pair.first, pair.second))


def _unclipped(model: Any, pairs: Sequence[LayerPair]) -> Any:
    """`model` with a ReLU for every relu6 between the layers of a pair; itself without any."""
    clipping = {name: model.get_layer(name) for pair in pairs for name in pair.clipping}
    if not clipping:
        return model
    relu = kd.keras.layers.ReLU
    copies = {
        id(layer): Part(copied_layer(layer, max_value=None))
        if isinstance(layer, relu)
        else Part.copy(layer, activation="relu")
        for layer in clipping.values()
    }
    return rebuilt(Graph(model), {}, copies)


def _equalize(model: Any, pairs: Sequence[LayerPair]) -> None:
    """Equalize the layers of `pairs` in `model`."""
    layers = {name: model.get_layer(name) for name in _paired(pairs)}
    kernels = {name: getattr(layer, kernel_attribute(layer)).numpy().astype(float) for name, layer in layers.items()}
    biases = {name: layer.bias.numpy().astype(float) for name, layer in layers.items() if layer.use_bias}
    balance(pairs, kernels, biases)
    for name, layer in layers.items():
        getattr(layer, kernel_attribute(layer)).assign(kernels[name])
        if layer.use_bias:
            layer.bias.assign(biases[name])


def _verdict(layer: Any, found: LayerPair | NoPairError | None, paired: bool) -> Verdict:
    if isinstance(layer, kd.keras.Model):
        return Verdict(layer.name, BY_REWRITE, "its layers are brought out of it first", "none needed: it is exact")
    if paired:
        return Verdict(layer.name, YES)
    if isinstance(found, NoPairError):
        return Verdict(layer.name, NO, found.reason, found.remedy) if found.remedy else Verdict(layer.name, NOTHING)
    if has_kernel(layer):
        return Verdict(layer.name, NO, "only convolutions and Dense layers are equalized", "leave it as it is")
    return Verdict(layer.name, NOTHING)
