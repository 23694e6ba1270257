"""Features: layers of a student whose outputs are to become like those of layers of its teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from tfcompress import keras_door as kd
from tfcompress.models.graph import calls, output_of
from tfcompress.vocabulary.distillation import Distillation, FeaturePair
from tfcompress.vocabulary.errors import RecipeError


def hint_loss(student: Any, teacher: Any) -> Any:
    """The mean squared difference of features, a number.

    Romero et al., "FitNets: Hints for Thin Deep Nets" (2015), equation 3, by element: without its half, and divided by
    the number of elements, so that a weight means the same for features of every size.

    Args:
        student: `[batch, ..., channels]`, behind the projection where there is one.
        teacher: of the same shape.
    """
    return kd.tf.reduce_mean(kd.tf.square(student - teacher))


def attention_loss(student: Any, teacher: Any) -> Any:
    """The squared distance of attention maps, a number: the mean over the batch.

    Zagoruyko and Komodakis, "Paying More Attention to Attention" (2017), equation 2: the map of features is the sum
    of their squares over the channels, as a vector of length 1 over the positions; it is compared without a
    projection, however many channels there are. The distance is squared, as in their programs, for the root has no
    gradient where the maps are equal.

    Args:
        student: `[batch, ..., channels]` with at least one axis of positions.
        teacher: of the same positions.
    """
    tf = kd.tf
    return tf.reduce_mean(tf.reduce_sum(tf.square(_attention(student) - _attention(teacher)), axis=-1))


def _attention(features: Any) -> Any:
    tf = kd.tf
    energy = tf.reduce_sum(tf.square(features), axis=-1)
    return tf.math.l2_normalize(tf.reshape(energy, [tf.shape(energy)[0], -1]), axis=-1)


def layer_named(model: Any, name: str) -> Any | None:
    """The layer of `model` called `name`, or the wrapper that a technique has put around it; None without one."""
    own = next((layer for layer in model.layers if layer.name == name), None)
    if own is not None:
        return own
    wrapper = kd.keras.layers.Wrapper
    return next((w for w in model.layers if isinstance(w, wrapper) and w.layer.name == name), None)


def tapped(model: Any, names: Sequence[str]) -> Any:
    """A model of the same layers that gives the output of `model` and behind it those of the layers called `names`.

    Raises:
        RecipeError: a layer is not there any more.
    """
    layers = [layer_named(model, name) for name in names]
    gone = [name for name, layer in zip(names, layers, strict=True) if layer is None]
    if gone:
        raise RecipeError(
            f"distillation.features: each layer must be in the model that the step trains. Not there: "
            f"{', '.join(gone)}. Its layers: {', '.join(layer.name for layer in model.layers)}."
        )
    return kd.keras.Model(model.inputs, [model.output, *(output_of(model, layer) for layer in layers)])


def projections(student: Sequence[Any], teacher: Sequence[Any], settings: Distillation, seed: int) -> list[Any]:
    """For each pair of features the layer that brings the student's to the teacher's channels; None where none is
    needed.

    It is a linear map of the channels, one for all positions: a 1x1 convolution of images. FitNets (2015), section 2.

    Args:
        student: tensors of a model, `[batch, ..., channels]`, as those of `teacher`.
        teacher: of each pair.
        settings: attention needs no projections.
        seed: of their initial weights.
    """
    made: list[Any] = []
    for index, (mine, theirs) in enumerate(zip(student, teacher, strict=True)):
        if settings.feature_loss == "attention" or mine.shape[-1] == theirs.shape[-1]:
            made.append(None)
            continue
        start = kd.keras.initializers.GlorotUniform(seed=seed + index)
        layer = kd.keras.layers.Dense(theirs.shape[-1], kernel_initializer=start, name=f"projection_{index}")
        layer.build(mine.shape)
        made.append(layer)
    return made


def problems_with(pair: FeaturePair, student: Any, teacher: Any, settings: Distillation) -> Iterator[str]:
    """What forbids matching `pair`, each with its remedy; nothing when nothing does."""
    found = []
    for model, name, whose in ((student, pair.student, "student"), (teacher, pair.teacher, "teacher")):
        layer = layer_named(model, name)
        if layer is None:
            yield f"{name} must be a layer of the {whose}.{_near(model, name)}"
        elif calls(model, layer) != 1 or not hasattr(output_of(model, layer), "shape"):
            yield f"{name} of the {whose} must be called once, and have one output. Remedy: another layer"
        else:
            found.append(output_of(model, layer).shape)
    if len(found) == 2:
        yield from _misfits(pair, *found, settings)


def _misfits(pair: FeaturePair, mine: Any, theirs: Any, settings: Distillation) -> Iterator[str]:
    shapes = f"{pair.student} gives {tuple(mine[1:])}, {pair.teacher} of the teacher {tuple(theirs[1:])}"
    apart = any(a is not None and b is not None and a != b for a, b in zip(mine[1:-1], theirs[1:-1], strict=False))
    if mine.rank != theirs.rank or apart:
        yield (
            "features must have the same positions: a projection brings together channels, which are the last axis, "
            f"alone. {shapes}. Remedy: layers of equal height and width"
        )
    elif settings.feature_loss == "attention" and mine.rank < 3:
        yield f"attention needs features with positions beside the channels. {shapes}. Remedy: feature_loss: hint"
    elif mine[-1] is None or theirs[-1] is None:
        yield f"features must have a known number of channels. {shapes}. Remedy: other layers"


def _near(model: Any, name: str) -> str:
    names = [layer.name for layer in model.layers]
    near = get_close_matches(name, names, n=3)
    return f" Did you mean {' or '.join(near)}?" if near else f" It has: {', '.join(names)}."
