"""What a model expects to be fed, found out from the model itself; a refusal where that stays in doubt.

A model file does not say how its training inputs were scaled, and neither its loss nor its metric tells it: a ReLU
network fed 255 times too much answers the same, only surer, and one without mistakes even has a lower loss then.
What training does leave behind is tested instead: the statistics of BatchNormalization, and a confidence that equals
the accuracy on training samples (the loss is stationary in the scale of the logits; C. Guo et al., "On Calibration of
Modern Neural Networks", 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.data.dataset import Dataset
from tfcompress.evaluate.metric import cross_entropy_of, is_binary, is_distribution, takes_logits
from tfcompress.models.graph import calls, input_of
from tfcompress.preprocessing_file import read_sidecar, sidecar_of
from tfcompress.recipe import Recipe
from tfcompress.training import make_loss
from tfcompress.vocabulary.errors import DataError, RecipeError
from tfcompress.vocabulary.preprocessing import NAMED, Preprocessing
from tfcompress.vocabulary.training import Task

_REMEDY = f"e.g. --set data.preprocessing={' | '.join(NAMED)}"
_SAMPLES = 512
_CLEAR = 2.0
"""Standard errors that a paired difference must reach."""

_SAME_STATISTICS = 0.3
"""Distance up to which activations are those that BatchNormalization saw: a variance within 35 %."""
_OTHER_STATISTICS = 0.7
"""Distance from which they are not: half or double the variance. `unit` against `signed` is 1.4, `raw` 11."""

_OVERCONFIDENT = 0.05
"""Training leaves no confidence this far above the accuracy on training samples."""
_CALIBRATED = 0.6
"""Confidence as a share of the accuracy, both over chance; augmentation and label smoothing keep it under 1."""
_HOPELESS = 0.2
"""The share below which a model hardly answers, as one trained on bytes does when fed 0...1: near 0."""
_FAR_LESS_SURE = 8.0
"""Ratio of margins that only another scale explains: `raw` is 255 times `unit`, `signed` near it."""


def choose_preprocessing(
    recipe: Recipe, dataset: Dataset, model: Any, *, from_zoo: bool, seed: int, path: Path | None = None
) -> tuple[Preprocessing, str]:
    """The preprocessing that `model` expects, and who decided on it.

    What the recipe says holds, then what is written beside the model's file (`sidecar_of`). Else data that is not
    bytes, encoded text and sound among it, is fed as it is, an untrained network of the zoo gets `unit`, and for any
    other model the named preprocessings are tried on up to 512 training samples:

    1. With BatchNormalization in the model, that preprocessing under which the first such layer sees the mean and
       variance that it kept from training; this needs no labels. Refused where none matches.
    2. A classifier: that preprocessing under which it is most accurate (others may be behind by chance only) and its
       mean confidence is its accuracy. Among several, which needs a model without mistakes, the one that is far less
       sure: the surer ones are only scaled up.
    3. Any other task: that preprocessing with the lowest loss, if lower than that of the mean target as the answer.

    Differences count from two standard errors of the differences between the same samples.

    Args:
        recipe: its `data.preprocessing` and its task.
        dataset: uint8 inputs in 0...255, for there to be a question at all.
        model: a Keras model, trained unless `from_zoo`.
        from_zoo: whether the model is an untrained network of the zoo.
        seed: decides which training samples are taken.
        path: the model's file or folder. Defaults to None, for a model that has none.

    Returns:
        The preprocessing, and for the record who or what chose it, with the figures of a measurement.

    Raises:
        RecipeError: the samples do not tell; the message has the figures, and the remedy is to say it. Or what is
            written beside the model is damaged.
        DataError: there are no labels, and no BatchNormalization that would do without.
    """
    wanted = recipe.data.preprocessing
    if isinstance(wanted, Preprocessing):
        return wanted, "the recipe"
    if dataset.encoding is not None:
        return NAMED["raw"], f"{dataset.encoding.setting}, which prepares the inputs"
    written = read_sidecar(path) if path is not None else None
    if written is not None:
        return written, f"{sidecar_of(path).name}, beside the model"
    if dataset.train.inputs.dtype != np.uint8:
        return NAMED["raw"], "the data, whose values are not 0...255 integers"
    if from_zoo:
        return NAMED["unit"], "the zoo"
    order = np.random.default_rng(seed).permutation(dataset.train.count)
    samples = dataset.train.at(np.sort(order[:_SAMPLES]))
    finding = _by_statistics(model, samples.inputs)
    if finding is None and samples.targets is None:
        raise DataError(
            "What the model expects to be fed cannot be measured without labels, nor by BatchNormalization. "
            f"Remedy: say it, {_REMEDY}."
        )
    if finding is None:
        outputs = {name: np.asarray(model.predict(way.apply(samples.inputs), verbose=0)) for name, way in NAMED.items()}
        finding = _by_labels(recipe.task, samples.targets, outputs)
    measured = f"{finding.what} on {samples.count} training samples: {finding.figures}"
    if finding.choice is None:
        raise RecipeError(
            f"What the model expects to be fed must be clear, and is not by {measured}. {finding.doubt} "
            f"Remedy: say it, {_REMEDY}, or in the recipe as {{mean, std}} or {{scale, offset}}."
        )
    return NAMED[finding.choice], measured


@dataclass(frozen=True)
class _Finding:
    """What a test of the candidates came to: `choice` is None where it does not tell, for the reason of `doubt`."""

    what: str
    figures: str
    choice: str | None
    doubt: str


def _by_statistics(model: Any, inputs: np.ndarray) -> _Finding | None:
    """The test by the first BatchNormalization, in nested models too; None where it cannot tell, or there is none."""
    found = _first_normalization(model)
    if found is None:
        return None
    normalization, entering = found
    probe = kd.keras.Model(model.inputs, _moments(entering, normalization.axis[0]))
    distances = {name: _distance(normalization, probe, way.apply(inputs)) for name, way in NAMED.items()}
    same = [name for name, distance in distances.items() if distance <= _SAME_STATISTICS]
    if len(same) > 1:  # something before the layer takes the scale away
        return None
    unlike = sum(not distance < _OTHER_STATISTICS for distance in distances.values())
    return _Finding(
        f"the distance from the statistics of {normalization.name}",
        ", ".join(f"{name} {distance:.2f}" for name, distance in distances.items()),
        same[0] if len(same) == 1 and unlike == len(NAMED) - 1 else None,
        f"A match is at most {_SAME_STATISTICS}: the model was trained on other values, or for too few steps.",
    )


def _first_normalization(model: Any) -> tuple[Any, Any] | None:
    """The first BatchNormalization that is called once, and the tensor that enters it, of the graph of `model`."""
    for layer in model.layers:
        if calls(model, layer) != 1:
            continue
        if isinstance(layer, kd.keras.layers.BatchNormalization):
            return layer, input_of(model, layer)
        if isinstance(layer, kd.keras.Model):
            inside = _first_normalization(layer)
            if inside is not None:
                return inside[0], kd.keras.Model(layer.inputs, inside[1])(input_of(model, layer))
    return None


def _moments(values: Any, channel: int) -> tuple[Any, Any]:
    """Each sample's mean and mean square of every channel, the axis `channel` of a graph's tensor `values`."""
    tf = kd.tf
    values = tf.cast(values, "float64")
    axes = [axis for axis in range(1, values.shape.rank) if axis != channel]
    return tf.reduce_mean(values, axes), tf.reduce_mean(tf.square(values), axes)


def _distance(normalization: Any, probe: Any, inputs: np.ndarray) -> float:
    """How far activations are from the kept statistics, each channel as a normal distribution; the median channel.

    ``|log(variance / kept variance)| + (mean - kept mean)^2 / (variance + kept variance)``. The median leaves out
    channels that have gone silent.
    """
    mean, square = (moment.mean(axis=0) for moment in probe.predict(inputs, verbose=0))
    variance = np.maximum(square - mean**2, 0) + normalization.epsilon
    kept_variance = normalization.moving_variance.numpy().astype(np.float64) + normalization.epsilon
    shift = (mean - normalization.moving_mean.numpy()) ** 2 / (variance + kept_variance)
    return float(np.median(np.abs(np.log(variance / kept_variance)) + shift))


def _by_labels(task: Task, targets: np.ndarray, outputs: Mapping[str, np.ndarray]) -> _Finding:
    """The test by accuracy and confidence, or by the loss where outputs are no probabilities of classes."""
    finite = {name: values for name, values in outputs.items() if np.isfinite(values).all()}
    kind = _kind(task, targets, next(iter(outputs.values())))
    # What the loss does not tell the kind of outputs may. All at once: a model gives logits under every preprocessing
    # or under none.
    judged_as = Task(loss=kind) if kind and cross_entropy_of(task) is None else task
    from_logits = bool(finite) and takes_logits(judged_as, np.concatenate(list(finite.values())))
    if kind is None:
        loss = make_loss(task, from_logits)
        losses = {name: _losses(loss, targets, values) for name, values in finite.items()}
        return _Finding(
            "the mean loss",
            ", ".join(f"{name} {values.mean():.4g}" for name, values in losses.items()),
            _lowest(losses, _losses_of_a_constant(loss, targets)),
            "The lowest must be clearly ahead, and below the loss of the mean target as the answer.",
        )
    answers = {name: _answers(kind, targets, values, from_logits) for name, values in finite.items()}
    return _Finding(
        "accuracy and confidence",
        ", ".join(f"{name} {found.accuracy:.1%} at {found.confidence:.1%}" for name, found in answers.items()),
        _calibrated(answers),
        "A trained classifier's confidence is its accuracy under the right one, and under no other.",
    )


def _kind(task: Task, targets: np.ndarray, outputs: np.ndarray) -> str | None:
    """The cross-entropy that outputs are judged by as probabilities of classes; None for another task."""
    if is_binary(task) and targets.size == outputs.size:
        return "binary_crossentropy"
    if outputs.ndim < 2 or outputs.shape[-1] < 2:
        return None
    is_index = np.issubdtype(targets.dtype, np.integer) and targets.size * outputs.shape[-1] == outputs.size
    is_share = targets.shape == outputs.shape and is_distribution(targets)
    return "categorical_crossentropy" if is_index or is_share else None


@dataclass(frozen=True)
class _Answers:
    """What a classifier said of the samples: `[n]` each, over a sample's outputs where it has several.

    Args:
        hits: share of right answers.
        confidences: probability that the model gave its own answers.
        chance: share of right answers of who always says the most frequent label.
        classes: how many answers there were to choose among.
        margin: natural logarithm of how much likelier the answer is than the next one; the median.
    """

    hits: np.ndarray
    confidences: np.ndarray
    chance: np.ndarray
    classes: int
    margin: float

    @cached_property
    def accuracy(self) -> float:
        """Mean of the hits."""
        return float(self.hits.mean())

    @cached_property
    def confidence(self) -> float:
        """Mean of the confidences."""
        return float(self.confidences.mean())

    def is_as_sure_as(self, share: float) -> bool:
        """Whether the confidence reaches `share` of the accuracy, both counted from that of a guess."""
        guess = 1 / self.classes
        return self.confidence - guess >= share * (self.accuracy - guess)


def _answers(kind: str, targets: np.ndarray, outputs: np.ndarray, from_logits: bool) -> _Answers:
    values = outputs.astype(np.float64)
    if kind == "binary_crossentropy":
        labels = (targets.reshape(values.shape) > 0.5).astype(np.int64)
        values = np.stack([np.zeros_like(values) if from_logits else 1 - values, values], axis=-1)
    else:
        labels = targets.argmax(-1) if targets.shape == values.shape else targets.reshape(values.shape[:-1])
    if from_logits:
        values = values - values.max(axis=-1, keepdims=True)
        logs = values - np.log(np.exp(values).sum(axis=-1, keepdims=True))
    else:
        logs = np.log(np.maximum(values, np.finfo(np.float32).smallest_subnormal))
    second, first = np.moveaxis(np.sort(logs, axis=-1)[..., -2:], -1, 0)
    rows = labels.reshape(len(labels), -1)
    most_frequent = np.array([_mode(column) for column in rows.T])
    return _Answers(
        hits=(logs.argmax(axis=-1) == labels).reshape(rows.shape).mean(axis=1),
        confidences=np.exp(first).reshape(rows.shape).mean(axis=1),
        chance=(rows == most_frequent).mean(axis=1),
        classes=logs.shape[-1],
        margin=float(np.median(first - second)),
    )


def _mode(values: np.ndarray) -> Any:
    distinct, counts = np.unique(values, return_counts=True)
    return distinct[counts.argmax()]


def _calibrated(answers: Mapping[str, _Answers]) -> str | None:
    """The one candidate that the model can have been trained under; None in doubt."""
    best = max(answers.values(), key=lambda found: found.accuracy, default=None)
    if best is None or not _clearly_positive(best.hits - best.chance):
        return None
    possible = {
        name: found
        for name, found in answers.items()
        if not _clearly_positive(best.hits - found.hits)
        and found.is_as_sure_as(_HOPELESS)
        and found.confidence <= found.accuracy + _OVERCONFIDENT
    }
    if not possible or not all(found.is_as_sure_as(_CALIBRATED) for found in possible.values()):
        return None
    least_sure, *surer = sorted(possible, key=lambda name: possible[name].margin)
    if any(possible[name].margin < _FAR_LESS_SURE * possible[least_sure].margin for name in surer):
        return None
    return least_sure


def _losses(loss: Any, targets: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """The loss of each sample alone, `[n]`, whatever shape the function returns."""
    if targets.ndim == outputs.ndim - 1 and outputs.shape[-1] == 1:
        targets = targets[..., None]
    targets = targets.astype(outputs.dtype)
    try:
        values = [np.mean(loss(targets[i : i + 1], outputs[i : i + 1])) for i in range(len(outputs))]
    except (ValueError, TypeError, kd.tf.errors.InvalidArgumentError) as error:
        raise RecipeError(
            f"task.loss must take targets of shape {targets.shape} and outputs of shape {outputs.shape}. "
            f"{loss} does not: {str(error).splitlines()[0]}"
        ) from error
    return np.array(values, np.float64)


def _losses_of_a_constant(loss: Any, targets: np.ndarray) -> np.ndarray:
    """The losses of a model that always answers with the mean target."""
    answers = np.broadcast_to(targets.mean(axis=0, keepdims=True), targets.shape).astype(np.float32)
    # A loss along the last axis needs one.
    return _losses(loss, targets, answers[:, None] if targets.ndim == 1 else answers)


def _lowest(losses: Mapping[str, np.ndarray], constant: np.ndarray) -> str | None:
    """The candidate whose losses are clearly lower than those of each other and of a constant; None in doubt."""
    finite = {name: values for name, values in losses.items() if np.isfinite(values).all()}
    best = min(finite, key=lambda name: finite[name].mean(), default=None)
    rivals = [constant, *(values for name, values in finite.items() if name != best)]
    return best if best and all(_clearly_positive(values - finite[best]) for values in rivals) else None


def _clearly_positive(differences: np.ndarray) -> bool:
    """Whether the mean of `differences` is positive by two standard errors."""
    mean = float(differences.mean())
    return len(differences) > 1 and mean > _CLEAR * float(differences.std(ddof=1)) / np.sqrt(len(differences))
