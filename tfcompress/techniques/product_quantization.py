"""Vector quantization: the weights of a layer are written in a few sub-vectors, which are trained together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from tfcompress import keras_door as kd
from tfcompress.product_codes import Codebook, learn
from tfcompress.techniques._fitting import fitting_layers, fitting_verdict, misfits
from tfcompress.techniques.base import StepPlan, Technique, Verdict, value_for
from tfcompress.vocabulary.errors import PromiseError, RecipeError
from tfcompress.vocabulary.promises import SHARED, Promise, broken_by
from tfcompress.vocabulary.state import State

CodeWords = Annotated[int, Field(ge=2, le=65_536)]

_KINDS = ("code words are for Dense, Conv1D, Conv2D and Embedding", "leave it as it is, or replace it")


class ProductQuantization(Technique):
    """Let the sub-vectors of each layer's weights share a few code words, and train the code words.

    Jégou et al., "Product quantization for nearest neighbor search" (2011), on networks: Gong et al., "Compressing
    deep convolutional networks using vector quantization" (2014), Wu et al., "Quantized convolutional neural networks
    for mobile devices" (2016). K-means chooses the code words and which sub-vector is which; training moves code words
    only, each by the gradients of all its sub-vectors. A sub-vector is `block` consecutive input channels of one output
    channel at one place of the kernel, or `block` consecutive values of one row of an Embedding. Quantization behind it
    keeps the code words, as integers; the file is smaller where it is deflated or entropy-coded.

    Example:
        >>> ProductQuantization(block=4, codewords=256, per_layer={"fc*": 64}).name
        'product_quantization'
    """

    stage: ClassVar[str] = "shared"
    open_ended: ClassVar[bool] = True
    adds_weights: ClassVar[bool] = True

    technique: Literal["product_quantization"] = "product_quantization"
    block: int = Field(default=4, ge=2, le=256)
    """Values in a sub-vector. Defaults to 4."""
    codewords: CodeWords = 256
    """Different sub-vectors promised for every codebook. Defaults to 256: a byte for `block` weights."""
    per_layer: dict[str, CodeWords] = Field(default={})
    """Other numbers of code words for layers by pattern, e.g. `{fc1: 64}`."""
    codebook: Codebook = "layer"
    """One codebook for the whole weight (`layer`, the default), or one for each place of a sub-vector along the input
    channels (`subspace`)."""
    layers: list[str] | None = None
    """Patterns of the layers to write so. Defaults to every Dense, Conv1D, Conv2D and Embedding that `block` divides
    and that has more sub-vectors than code words; one that is named and has not is refused."""
    exclude: list[str] = Field(default=[])
    """Patterns of layers to leave out."""

    def verdicts(self, model: Any) -> tuple[Verdict, ...]:
        """Which layers can be written in code words."""
        return tuple(
            fitting_verdict(layer, of_kind=_weight(layer) is not None, kinds=_KINDS, misfit=self._misfit)
            for layer in model.layers
        )

    def layers_with_values(self, model: Any) -> tuple[str, ...]:
        """The layers to write so."""
        return tuple(self._chosen(model))

    def check(self, state: State) -> None:
        """Refuse patterns that match no layer, layers that have no such sub-vectors, and what would break a promise.

        Raises:
            ModelError: the model holds other models, whose layers cannot be reached.
            RecipeError: anything else, with every layer in the way.
        """
        problems = [*misfits(self._chosen(state.model), state.model, self._misfit), *self._conflicts(state)]
        if problems:
            raise RecipeError(
                f"{self.name} cannot give {len(problems)} layer(s) code words:\n  " + "\n  ".join(problems)
            )

    def promised(self, state: State) -> tuple[Promise, ...]:
        """At most `codewords` different sub-vectors in every codebook's part of a weight."""
        return tuple(self._promise(state, state.model.get_layer(name)) for name in self._chosen(state.model))

    def reconstruction_errors(self, model: Any, seed: int = 0) -> dict[str, float]:
        """By layer, what is lost of its weight before any training: the share of its squared length.

        Args:
            model: a model that passed `check`.
            seed: of k-means. Defaults to 0.
        """
        found = {}
        for name in self._chosen(model):
            attribute, axis = _weight(model.get_layer(name))
            values = getattr(model.get_layer(name), attribute).numpy()
            code = learn(values, self.block, self._words(name), codebook=self.codebook, axis=axis, seed=seed)
            found[name] = code.relative_error(values)
        return found

    def prepare(self, state: State, plan: StepPlan) -> State:
        """A copy of the model in which every chosen layer computes with code words."""
        from tfcompress.models.loading import clone
        from tfcompress.techniques._coded_layer import CodedLayer

        self.check(state)
        chosen = self._chosen(state.model)

        def wrap(layer: Any) -> Any:
            if layer.name not in chosen:
                return layer
            attribute, axis = _weight(layer)
            return CodedLayer(
                layer,
                attribute,
                axis=axis,
                block=self.block,
                codewords=self._words(layer.name),
                codebook=self.codebook,
            )

        model = kd.keras.models.clone_model(clone(state.model), clone_function=wrap)
        wrappers = [layer for layer in model.layers if isinstance(layer, CodedLayer)]
        seeds = np.random.SeedSequence(plan.seed).generate_state(len(wrappers))
        for wrapper, seed in zip(wrappers, seeds, strict=True):
            wrapper.choose(int(seed))
        return state.evolve(model=model)

    def finish(self, state: State) -> State:
        """The plain model again, every sub-vector its code word, with their number promised.

        Raises:
            PromiseError: a weight has more different sub-vectors than promised.
        """
        from tfcompress.techniques._coded_layer import CodedLayer
        from tfcompress.techniques._substitution import stripped

        coded = [layer.layer.name for layer in state.model.layers if isinstance(layer, CodedLayer)]
        model = stripped(state.model)
        made, broken = [], []
        for layer in map(model.get_layer, coded):
            attribute, axis = _weight(layer)
            made.append(self._promise(state, layer))
            broken += broken_by(getattr(layer, attribute).numpy(), made[-1:], input_axis=axis)
        if broken:
            raise PromiseError(f"{self.name}: after training, " + "; ".join(broken) + ".")
        return state.evolve(model=model, promises=(*state.promises, *made))

    def _misfit(self, layer: Any) -> tuple[str, str] | None:
        """Why `layer` has no such sub-vectors, and what would change that; None when it has."""
        attribute, axis = _weight(layer)
        shape, words = getattr(layer, attribute).shape, self._words(layer.name)
        if shape[axis] % self.block:
            what = "values in a row" if axis == -1 else "input channels"
            return f"block {self.block} does not divide its {shape[axis]} {what}", "another block, or leave it out"
        count = shape.num_elements() // (self.block if self.codebook == "layer" else shape[axis])
        if count > words:
            return None
        each = "" if self.codebook == "layer" else " in each subspace"
        reason = f"its {count} sub-vectors{each} are no more than {words} code words"
        return reason, f"fewer code words for it, by {self.name}.per_layer, or leave it out"

    def _conflicts(self, state: State) -> Iterator[str]:
        """Of every chosen layer with promises that code words would break, which."""
        for name in self._chosen(state.model):
            weight = state.lineage.origin(f"{name}/{_weight(state.model.get_layer(name))[0]}")
            for promise in state.promises_of(weight, "zeros", "group_zeros", *SHARED):
                yield (
                    f"{name}: {promise.made_by or 'an earlier step'} promised {promise.kind} {promise.bound:g}, which "
                    f"code words would not keep. Remedy: leave it out of one of the two steps"
                )

    def _promise(self, state: State, layer: Any) -> Promise:
        return Promise(
            state.lineage.origin(f"{layer.name}/{_weight(layer)[0]}"),
            "codewords",
            self._words(layer.name),
            "tensor" if self.codebook == "layer" else "subspace",
            group=self.block,
            made_by=self.name,
        )

    def _words(self, layer: str) -> int:
        return value_for(layer, self.codewords, self.per_layer)

    def _chosen(self, model: Any) -> list[str]:
        return fitting_layers(self, model, lambda layer: _weight(layer) is not None, self._misfit)


def _weight(layer: Any) -> tuple[str, int] | None:
    """The attribute of `layer` that holds its weight, and the axis its sub-vectors lie along; None for other layers."""
    layers = kd.keras.layers
    if type(layer) is layers.Embedding:
        return "embeddings", -1
    # Exactly these: transposed and depthwise convolutions have other axes.
    return ("kernel", -2) if type(layer) in (layers.Dense, layers.Conv1D, layers.Conv2D) else None
