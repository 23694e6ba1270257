"""A task's metric over predictions, and how sure it is."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.vocabulary.errors import EvaluationError, RecipeError
from tfcompress.vocabulary.training import Task

_RESAMPLES = 200
_BOOTSTRAP_SEED = 0

# What the names that depend on task and shapes may stand for: binary, sparse, categorical.
_ACCURACIES = ("binary_accuracy", "sparse_categorical_accuracy", "categorical_accuracy")
_CROSSENTROPIES = ("binary_crossentropy", "sparse_categorical_crossentropy", "categorical_crossentropy")
_BY_SHAPE = {
    "accuracy": _ACCURACIES,
    "acc": _ACCURACIES,
    "crossentropy": _CROSSENTROPIES,
    "ce": _CROSSENTROPIES,
}

_BINARY_LOSSES = frozenset({"binary_crossentropy", "binary_focal_crossentropy"})
_CATEGORICAL_LOSSES = frozenset(
    {"categorical_crossentropy", "categorical_focal_crossentropy", "sparse_categorical_crossentropy"}
)

_BEYOND = 1e-4
"""By how much the rounding of float32 may lead a probability out of 0...1."""
_SUM_OFF = 1e-2
"""By how much the probabilities of a sample may add up to something else than 1."""

# Functions and classes of tf_keras.metrics of which more is better; of all its others, less is.
_MORE_IS_BETTER = frozenset(
    """
    binary_accuracy categorical_accuracy sparse_categorical_accuracy top_k_categorical_accuracy
    sparse_top_k_categorical_accuracy Accuracy BinaryAccuracy CategoricalAccuracy SparseCategoricalAccuracy
    TopKCategoricalAccuracy SparseTopKCategoricalAccuracy AUC Precision Recall PrecisionAtRecall
    RecallAtPrecision SensitivityAtSpecificity SpecificityAtSensitivity F1Score FBetaScore BinaryIoU IoU
    MeanIoU OneHotIoU OneHotMeanIoU R2Score CosineSimilarity TruePositives TrueNegatives
    """.split()  # noqa: SIM905 - as one text it can be compared and read
)
# Better when larger, at most 1, but with values below 0: no share of anything.
_NOT_SHARES = frozenset({"r2_score", "cosine_similarity"})


@dataclass(frozen=True)
class Score:
    """A metric's value over some samples.

    Args:
        name: the metric's full name, e.g. `sparse_categorical_accuracy`.
        value: the metric.
        standard_error: one standard deviation of `value` over draws of the samples, in its unit.
        count: how many samples were scored.
        higher_is_better: whether more of it is better.
    """

    name: str
    value: float
    standard_error: float
    count: int
    higher_is_better: bool

    @property
    def is_share(self) -> bool:
        """Whether the value is a share of 1, as accuracies are, whose differences are percentage points."""
        return self.higher_is_better and 0 <= self.value <= 1 and self.name not in _NOT_SHARES


def score(task: Task, targets: np.ndarray, predictions: np.ndarray, *, from_logits: bool = False) -> Score:
    """The task's metric of `predictions` against `targets`.

    Keras' metrics by name expect probabilities. Of logits (`from_logits`) a metric given by its name is therefore
    computed of the probabilities that they stand for: by the sigmoid where the task is binary (`is_binary`, or one
    column), else by the softmax over the last axis. A metric given as an object or function gets logits as they
    are: what it expects is its own affair, as `BinaryAccuracy(threshold=0)` knows.

    A metric that is a mean over samples (all functions, and Keras' mean metrics) has the standard error
    `s / sqrt(n)` of its per-sample values. One that is not (AUC, precision, a function returning one number) has
    that of a bootstrap: the standard deviation over 200 resamples of the samples, drawn with a fixed seed
    (B. Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979).

    Args:
        task: its `metric` is a Keras name, a Keras metric object or class, or a function `f(y_true, y_pred)` that
            returns a value for each sample or one for all. `accuracy` and `crossentropy` become their binary,
            sparse or categorical form: binary when the task's loss is (`is_binary`), else as Keras chooses it, binary
            when predictions have one column, sparse when targets have fewer columns than predictions, else
            categorical. A metric object's state is reset before and after.
        targets: `[n, ...]`.
        predictions: float `[n, ...]`.
        from_logits: whether `predictions` are logits; see `takes_logits`. Defaults to False.

    Raises:
        RecipeError: Keras has no metric of this name, whether more of it is better cannot be known, or `accuracy`
            would compare the largest entries of targets that are no distributions over classes.
        EvaluationError: targets and predictions do not fit one another or the metric, are fewer than two, or give
            a value that is not finite.

    Example:
        >>> score(Task(metric="accuracy"), np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]])).value
        0.5
    """
    targets, predictions = np.asarray(targets), np.asarray(predictions)
    _check(targets, predictions)
    if from_logits and isinstance(task.metric, str):
        predictions = _probabilities(task, predictions)
    metric = _resolve(task, targets, predictions)
    name = _name(metric)
    higher_is_better = _direction(task, metric, name)
    if _accumulates(metric) and not isinstance(metric, kd.keras.metrics.MeanMetricWrapper):
        value, standard_error = _bootstrap(partial(_metric_result, metric), targets, predictions, name)
    else:
        value, standard_error = _mean_or_bootstrap(_per_sample_function(metric), targets, predictions, name)
    if not (np.isfinite(value) and np.isfinite(standard_error)):
        raise EvaluationError(
            f"A metric must be finite. {name} of {len(targets)} samples came to {value} (standard error "
            f"{standard_error}). Check that the targets are of the kind the metric expects."
        )
    return Score(name, value, standard_error, len(targets), higher_is_better)


def drop_points(float_score: Score, artifact_score: Score) -> float:
    """How much worse the artifact is than the float model; negative when it is better.

    Where both values are shares of 1 (`Score.is_share`: accuracy, AUC, precision ...) the result is in percentage
    points, `100 * (float - artifact)`. Any other metric's difference is in the metric's own unit.

    Example:
        >>> drop_points(Score("auc", 0.91, 0.01, 100, True), Score("auc", 0.90, 0.01, 100, True))
        1.0
    """
    worse_by = float_score.value - artifact_score.value
    if not float_score.higher_is_better:
        worse_by = -worse_by
    scale = 100 if float_score.is_share and artifact_score.is_share else 1
    # Twelve digits: a drop of one point reads 1.0, not 1.0000000000000009.
    return round(scale * worse_by, 12)


def cross_entropy_of(task: Task) -> str | None:
    """The name of the Keras function that the task's loss, given by name or as an object, computes.

    None where it is no cross-entropy, or there is no such loss, which is training's to say.
    """
    loss = task.loss
    if isinstance(loss, str):
        try:
            loss = kd.keras.losses.get(loss)
        except ValueError:
            return None
    name = getattr(getattr(loss, "fn", loss), "__name__", None)
    return name if name in _BINARY_LOSSES | _CATEGORICAL_LOSSES else None


def is_binary(task: Task) -> bool:
    """Whether every output of the task is a yes or no of its own: its loss, by name or object, is a binary one."""
    return cross_entropy_of(task) in _BINARY_LOSSES


def takes_logits(task: Task, outputs: np.ndarray, *, output_step: float = 0.0) -> bool:
    """Whether a model's outputs are logits, which the task's cross-entropy turns into probabilities itself.

    A loss object says it (`from_logits`). For a loss given by name outputs are logits when they cannot be the
    probabilities that it expects: each in 0...1, and for the categorical ones adding up to 1. Under any other loss
    outputs are what they are.

    Args:
        task: its loss.
        outputs: `[n, ..., k]` of the model.
        output_step: what one step of quantized outputs is worth; 0, the default, for float outputs.
    """
    name = cross_entropy_of(task)
    if name is None:
        return False
    if not isinstance(task.loss, str):
        get_config = getattr(task.loss, "get_config", dict)
        return bool(get_config().get("from_logits", False))
    if outputs.min() < -_BEYOND or outputs.max() > 1 + _BEYOND:
        return True
    if name in _BINARY_LOSSES or _columns(outputs) == 1:
        return False
    # Each of the rounded probabilities may be off by half a step.
    tolerance = max(_SUM_OFF, outputs.shape[-1] * output_step / 2)
    return bool(np.abs(outputs.sum(-1) - 1).max() > tolerance)


def loss_spoken_of(metric: str, columns: int) -> str:
    """The loss, by its Keras name, of a model of which nothing is known but the metric that it is judged by.

    Args:
        metric: a Keras name.
        columns: size of the last axis of the model's outputs.

    Returns:
        The cross-entropy that goes with an accuracy or cross-entropy; for any other metric `mean_squared_error`,
        under which outputs are what they are.

    Example:
        >>> loss_spoken_of("accuracy", 10), loss_spoken_of("mean_absolute_error", 1)
        ('sparse_categorical_crossentropy', 'mean_squared_error')
    """
    depends = metric in _BY_SHAPE
    if "binary" in metric.lower() or (depends and columns == 1):
        return "binary_crossentropy"
    if "categorical" in metric.lower() or depends:
        return "sparse_categorical_crossentropy"
    return "mean_squared_error"


def is_distribution(targets: np.ndarray) -> bool:
    """Whether every row (last axis) gives classes their shares, as one-hot rows do: none below 0, 1 in all."""
    return bool((targets >= 0).all() and np.allclose(targets.sum(axis=-1), 1, atol=1e-3))


def _columns(outputs: np.ndarray) -> int:
    return outputs.shape[-1] if outputs.ndim > 1 else 1


def _probabilities(task: Task, logits: np.ndarray) -> np.ndarray:
    activations = kd.keras.activations
    function = activations.sigmoid if _columns(logits) == 1 or is_binary(task) else activations.softmax
    return function(kd.tf.constant(logits, "float32")).numpy()


def _check(targets: np.ndarray, predictions: np.ndarray) -> None:
    if targets.ndim == 0 or predictions.ndim == 0 or len(targets) != len(predictions) or len(targets) < 2:
        raise EvaluationError(
            "A metric needs as many predictions as targets, and at least two of each. "
            f"Targets came with shape {targets.shape}, predictions with {predictions.shape}."
        )
    if not np.isfinite(predictions).all():
        wrong = int(np.sum(~np.isfinite(predictions.reshape(len(predictions), -1)).all(axis=1)))
        raise EvaluationError(
            f"Predictions must be finite. {wrong} of {len(predictions)} samples gave NaN or infinities. "
            "Check the model's weights and inputs."
        )


def _known_metrics() -> dict[str, Any]:
    """The functions and classes of tf_keras.metrics that work on targets and predictions and need no arguments."""
    module = kd.keras.metrics
    known = {}
    for name, value in vars(module).items():
        if inspect.isclass(value) and issubclass(value, module.Metric):
            arguments = list(inspect.signature(value).parameters.values())
            needs_none = all(a.default is not a.empty or a.kind in (a.VAR_POSITIONAL, a.VAR_KEYWORD) for a in arguments)
            if needs_none and "y_true" in inspect.signature(value.update_state).parameters:
                known[name] = value
        elif inspect.isfunction(value) and "y_true" in inspect.signature(value).parameters:
            known[name] = value
    return known


def _resolve(task: Task, targets: np.ndarray, predictions: np.ndarray) -> Any:
    """The Keras function, Keras metric object or user's function that the task's metric stands for."""
    metric = task.metric
    if isinstance(metric, str):
        known = _known_metrics()
        name = _for_task(task, _BY_SHAPE[metric], targets, predictions) if metric in _BY_SHAPE else metric
        if name not in known:
            lowered = {key.lower(): key for key in (*known, *_BY_SHAPE)}
            close = [lowered[key] for key in difflib.get_close_matches(metric.lower(), lowered, n=3)]
            raise RecipeError(
                f"`metric` must be a Keras metric's name that needs no arguments. Received: {metric!r}. "
                + (f"Did you mean {' or '.join(close)}? " if close else "")
                + "A metric with arguments is given as an object, in Python."
            )
        metric = known[name]
    if inspect.isclass(metric) and issubclass(metric, kd.keras.metrics.Metric):
        metric = metric()
    return metric


def _for_task(task: Task, names: tuple[str, str, str], targets: np.ndarray, predictions: np.ndarray) -> str:
    """The binary, sparse or categorical one of `names`; without a binary loss as `Model.compile` of Keras chooses."""
    binary, sparse, categorical = names
    if _columns(predictions) == 1 or is_binary(task):
        return binary
    if targets.ndim < predictions.ndim or targets.shape[-1] == 1:
        return sparse
    if categorical == "categorical_accuracy" and not is_distribution(targets):
        wrong = int(np.sum(~np.isclose(targets.sum(axis=-1), 1, atol=1e-3)))
        raise RecipeError(
            f"`accuracy` compares one class for each sample, and {wrong:,} target rows do not add up to 1. Remedy: for "
            "labels of which several may hold, task.loss=binary_crossentropy or task.metric=binary_accuracy; for "
            "other targets a metric of their own."
        )
    return categorical


def _name(metric: Any) -> str:
    name = getattr(metric, "name", None) or getattr(metric, "__name__", None) or type(metric).__name__
    # Keras numbers the objects of a class as a program makes them: auc, auc_1, ...
    return re.sub(r"_\d+$", "", name) if _accumulates(metric) else name


def _accumulates(metric: Any) -> bool:
    """Whether `metric` is an object with state, of this Keras, of Keras 3 or of the user's own making."""
    return hasattr(metric, "update_state")


def _is_keras_own(metric: Any) -> bool:
    return inspect.getattr_static(kd.keras.metrics, _definition(metric).__name__, None) is _definition(metric)


def _definition(metric: Any) -> Any:
    """What says which metric this is: the function, be it wrapped as a metric object, or the object's class."""
    if type(metric) is kd.keras.metrics.MeanMetricWrapper:
        return _definition(metric._fn)
    return metric if inspect.isfunction(metric) else type(metric)


def _direction(task: Task, metric: Any, name: str) -> bool:
    """Whether more of `metric` is better."""
    if task.higher_is_better is not None:
        return task.higher_is_better
    if _is_keras_own(metric):
        return _definition(metric).__name__ in _MORE_IS_BETTER
    if isinstance(metric, kd.keras.losses.Loss):
        return False
    raise RecipeError(
        f"Whether more of a metric is better must be known. {name!r} is none of Keras' own. "
        "Set `higher_is_better` in the task to true or false."
    )


def _per_sample_function(metric: Any) -> Callable[[np.ndarray, np.ndarray], Any]:
    """`metric` as a function of NumPy arrays; Keras' own get the shapes and types that Keras would give them."""
    keras_metrics = kd.keras.metrics
    if isinstance(metric, keras_metrics.MeanMetricWrapper):
        # The mean of this function is all that such an object computes; a standard error needs its terms.
        function, arguments = metric._fn, metric._fn_kwargs
    elif _is_keras_own(metric):
        function, arguments = metric, {}
    else:
        return metric

    def aligned(targets: np.ndarray, predictions: np.ndarray) -> Any:
        targets, predictions = targets.astype(np.float32), predictions.astype(np.float32)
        if predictions.ndim == 1:
            predictions = predictions[:, None]
        if targets.ndim == predictions.ndim - 1 and predictions.shape[-1] == 1:
            targets = targets[..., None]
        return function(targets, predictions, **arguments)

    return aligned


def _mean_or_bootstrap(
    function: Callable[[np.ndarray, np.ndarray], Any], targets: np.ndarray, predictions: np.ndarray, name: str
) -> tuple[float, float]:
    values = _call(function, targets, predictions, name)
    if values.size == 1:
        return _bootstrap(function, targets, predictions, name)
    count = len(targets)
    if values.shape[0] != count:
        raise EvaluationError(
            f"A metric must return one value for each sample, or one for all. {name} returned shape "
            f"{values.shape} for {count} samples."
        )
    per_sample = values.reshape(count, -1).mean(axis=1)
    with np.errstate(invalid="ignore"):  # infinities are reported with the metric's name, by the caller
        return float(per_sample.mean()), float(per_sample.std(ddof=1) / np.sqrt(count))


def _bootstrap(
    function: Callable[[np.ndarray, np.ndarray], Any], targets: np.ndarray, predictions: np.ndarray, name: str
) -> tuple[float, float]:
    """The function's value of all samples, and its standard deviation over resamples of them."""
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    value = _one_number(function, targets, predictions, name)
    resampled = []
    for _ in range(_RESAMPLES):
        chosen = rng.integers(0, len(targets), len(targets))
        resampled.append(_one_number(function, targets[chosen], predictions[chosen], name))
    # A resample may lack a class altogether, and a metric be undefined on it.
    defined = [number for number in resampled if np.isfinite(number)]
    return value, float(np.std(defined, ddof=1)) if len(defined) > 1 else float("nan")


def _one_number(function: Callable[..., Any], targets: np.ndarray, predictions: np.ndarray, name: str) -> float:
    """One number for all samples; a metric that gives one for each class counts by their mean."""
    return float(_call(function, targets, predictions, name).mean())


def _metric_result(metric: Any, targets: np.ndarray, predictions: np.ndarray) -> Any:
    metric.reset_state()
    metric.update_state(targets, predictions)
    result = metric.result()
    metric.reset_state()
    return result


def _call(function: Callable[..., Any], targets: np.ndarray, predictions: np.ndarray, name: str) -> np.ndarray:
    try:
        return np.asarray(function(targets, predictions), np.float64)
    except (TypeError, ValueError, kd.tf.errors.InvalidArgumentError) as error:
        raise EvaluationError(
            f"{name} cannot be computed of targets {targets.shape} {targets.dtype} and predictions "
            f"{predictions.shape} {predictions.dtype}: {error}"
        ) from error
