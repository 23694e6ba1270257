"""Weight sharing: the weights of a layer take few different values, which are trained together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from tfcompress import keras_door as kd
from tfcompress.models.graph import has_kernel
from tfcompress.techniques._centroids import Initialization
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

Clusters = Annotated[int, Field(ge=2, le=256)]

_ZEROS_NEED = (
    "a layer whose zeros are kept needs at least 3 clusters: zero itself and one value for each sign. "
    "Remedy: more clusters, or exclude the layer"
)


class Clustering(Technique):
    """Let the weights of each layer share a few values, and train the values.

    Han et al., "Deep Compression" (2016), section 3, on tfmot's clustering wrapper. Zeros that an earlier step
    promised stay zero, and count as one of the `clusters` values.

    Example:
        >>> Clustering(clusters=32, per_layer={"fc*": 8}, fit={"epochs": 2}).name
        'clustering'
    """

    stage: ClassVar[str] = "shared"
    open_ended: ClassVar[bool] = True
    adds_weights: ClassVar[bool] = True

    technique: Literal["clustering"] = "clustering"
    clusters: Clusters = 16
    """Different values promised for every clustered weight, zero included. Defaults to 16."""
    per_layer: dict[str, Clusters] = Field(default={})
    """Other numbers for layers by pattern, e.g. `{conv1: 64}`."""
    layers: list[str] | None = None
    """Patterns of the layers to cluster. Defaults to all that tfmot clusters; depthwise ones must be named."""
    exclude: list[str] = Field(default=[])
    """Patterns of layers to leave out."""
    initialization: Initialization = "kmeans_plus_plus"
    """Where centroids start: evenly over the range of values (`linear`) or over their distribution
    (`density_based`), drawn uniformly (`random`), or drawn far apart (`kmeans_plus_plus`, the default)."""
    per_channel: bool = False
    """Separate values for each output channel of every Conv2D. Other layers share over the whole tensor."""

    def problems_after(self, earlier: Sequence[Technique]) -> list[str]:
        """Two clusters cannot follow a step that makes zeros."""
        sparse = [step.name for step in earlier if step.stage == "sparse"]
        if sparse and min([self.clusters, *self.per_layer.values()]) < 3:
            return [f"{self.name} follows {sparse[-1]}: {_ZEROS_NEED}. Received: 2"]
        return []

    def verdicts(self, model: Any) -> tuple[Verdict, ...]:
        """Which layers can be given shared values."""
        return tuple(self._verdict(layer) for layer in model.layers)

    def layers_with_values(self, model: Any) -> tuple[str, ...]:
        """The layers to cluster."""
        return tuple(self._chosen(model))

    def check(self, state: State) -> None:
        """Refuse patterns that match no layer, nested models, code words, and 2 clusters where zeros are kept."""
        self._clusters(state)

    def promised(self, state: State) -> tuple[Promise, ...]:
        """At most `clusters` different values in every clustered weight."""
        return tuple(
            self._promise(state, state.model.get_layer(name), attribute)
            for name, attributes in self._chosen(state.model).items()
            for attribute in attributes
        )

    def prepare(self, state: State, plan: StepPlan) -> State:
        """A copy of the model with the clustering wrapper around every layer to be clustered.

        Raises:
            ModelError: the model holds other models, whose layers cannot be reached.
            RecipeError: a pattern matches nothing, or a layer with promised zeros has 2 clusters.
        """
        from tfcompress.models.loading import clone
        from tfcompress.techniques._cluster_layer import FastClusterWeights

        source = clone(state.model)
        clusters, sparse = self._clusters(state)

        def wrap(layer: Any) -> Any:
            if layer.name not in clusters:
                return layer
            return FastClusterWeights(
                layer,
                clusters[layer.name],
                preserve_sparsity=sparse[layer.name],
                cluster_per_channel=self._is_per_channel(layer),
            )

        model = kd.keras.models.clone_model(source, clone_function=wrap)
        for index, wrapper in enumerate(_wrappers(model)):
            wrapper.choose_centroids(self.initialization, np.random.default_rng([plan.seed, index]))
        return state.evolve(model=model)

    def finish(self, state: State) -> State:
        """The plain model again, every clustered weight at its centroid, with its number of values promised.

        Raises:
            PromiseError: a weight has more values than promised, or fewer zeros than an earlier step promised.
        """
        from tfcompress.models.loading import clone

        wrappers = {wrapper.name: wrapper for wrapper in _wrappers(state.model)}
        for wrapper in wrappers.values():
            wrapper.update_clustered_weights_associations()
        stripped = kd.keras.models.clone_model(
            state.model, clone_function=lambda layer: layer.layer if layer.name in wrappers else layer
        )
        made, broken = [], []
        for wrapper in wrappers.values():
            for attribute, weight in wrapper.original_clusterable_weights.items():
                made.append(self._promise(state, wrapper.layer, attribute))
                earlier = state.promises_of(made[-1].weight, "zeros", "group_zeros")
                broken += broken_by(weight.numpy(), (made[-1], *earlier))
        if broken:
            raise PromiseError(f"{self.name}: after training, " + "; ".join(broken) + ".")
        # Cloned once more, for `stripped` shares its layers with the model that was trained.
        return state.evolve(model=clone(stripped), promises=(*state.promises, *made))

    def _verdict(self, layer: Any) -> Verdict:
        if isinstance(layer, kd.keras.Model):
            return Verdict(layer.name, NO, *IN_NESTED_MODEL)
        if self._weights(layer):
            return Verdict(layer.name, YES)
        if not has_kernel(layer):
            return Verdict(layer.name, NOTHING)
        if isinstance(layer, kd.keras.layers.DepthwiseConv2D):
            reason, remedy = "DepthwiseConv2D layers are clustered only where named", f"name it in {self.name}.layers"
        else:
            reason, remedy = "tfmot shares no values in this type of layer", "leave it as it is, or replace it"
        return Verdict(layer.name, NO, reason, remedy)

    def _promise(self, state: State, layer: Any, attribute: str) -> Promise:
        weight = state.lineage.origin(f"{layer.name}/{attribute}")
        scope = "channel" if self._is_per_channel(layer) else "tensor"
        return Promise(
            weight, "distinct", value_for(layer.name, self.clusters, self.per_layer), scope, made_by=self.name
        )

    def _is_per_channel(self, layer: Any) -> bool:
        # Exactly Conv2D: its subclass Conv2DTranspose has the input channels last.
        return self.per_channel and type(layer) is kd.keras.layers.Conv2D

    def _clusters(self, state: State) -> tuple[dict[str, int], dict[str, bool]]:
        """For every chosen layer its number of clusters, and whether it has zeros to keep."""
        sparse = {name: _promised_zeros(state, name, weights) for name, weights in self._chosen(state.model).items()}
        self._refuse_code_words(state)
        clusters = {name: value_for(name, self.clusters, self.per_layer) for name in sparse}
        too_few = [name for name, keep in sparse.items() if keep and clusters[name] < 3]
        if too_few:
            raise RecipeError(f"{self.name}: {_ZEROS_NEED}. Received: 2 for {', '.join(too_few)}.")
        return clusters, sparse

    def _refuse_code_words(self, state: State) -> None:
        """Refuse layers whose weights are to stay made of code words, which shared single values would not keep."""
        coded = {
            name: f"{name} ({promise.made_by})"
            for name, attributes in self._chosen(state.model).items()
            for attribute in attributes
            for promise in state.promises_of(state.lineage.origin(f"{name}/{attribute}"), "codewords")
        }
        if coded:
            raise RecipeError(
                f"{self.name}: a weight made of code words cannot be clustered as well. Received: "
                f"{', '.join(coded.values())}. Remedy: leave each out of one of the two steps."
            )

    def _chosen(self, model: Any) -> dict[str, tuple[str, ...]]:
        """The layers to cluster, in the model's order, and the names of the weights in each."""
        refuse_nested(model, self.name)
        weights = {layer.name: self._weights(layer) for layer in model.layers}
        candidates = [verdict.layer for verdict in self.verdicts(model) if verdict.outcome == YES]
        names = select_layers(candidates, self.layers, self.exclude, where=self.name)
        for pattern in self.per_layer:
            select_layers(names, [pattern], where=f"{self.name}.per_layer")
        if not names:
            raise RecipeError(f"{self.name}: no layer of this model is left to cluster.")
        return {name: weights[name] for name in names}

    def _weights(self, layer: Any) -> tuple[str, ...]:
        from tfcompress.techniques._cluster_layer import clusterable_weights

        return clusterable_weights(layer, depthwise=self.layers is not None)


def _wrappers(model: Any) -> list[Any]:
    from tfcompress.techniques._cluster_layer import FastClusterWeights

    return [layer for layer in model.layers if isinstance(layer, FastClusterWeights)]


def _promised_zeros(state: State, layer: str, attributes: Sequence[str]) -> bool:
    return any(state.promises_of(state.lineage.origin(f"{layer}/{a}"), "zeros", "group_zeros") for a in attributes)
