"""The fit loop: each epoch from its own seed, each checkpointed, so that an interrupted run ends like another."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.distillation.lesson import Lesson
from tfcompress.distribution import Distribution, copy_variables
from tfcompress.evaluate.metric import Score, cross_entropy_of
from tfcompress.precision import in_precision, scale_variables, scaled
from tfcompress.regularization import regularized
from tfcompress.run_folder import RunFolder
from tfcompress.trained_part import normalizations_at_rest, train_only, trained_variables
from tfcompress.training_data import TrainingData
from tfcompress.vocabulary.errors import RecipeError, RunFolderError, TrainingError
from tfcompress.vocabulary.reporter import Reporter
from tfcompress.vocabulary.training import Fit, Task


@dataclass
class Progress:
    """How far a step's training has come: what its checkpoint holds beside the model's and optimizer's variables.

    `history` has one record an epoch; `best_weights` are kept only where early stopping asks for them.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best_value: float = math.nan
    best_epoch: int = -1
    best_weights: list[np.ndarray] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)


@dataclass(frozen=True)
class Training:
    """The training of one step.

    Args:
        name: the step's name.
        index: the step's place in the run, from 0; with seed and epoch it decides all randomness.
        fit: epochs, optimizer, rate, early stopping.
        data: what it trains on.
        seed: the run's seed.
        callbacks: Keras callbacks the technique needs.
        objective: makes the loss from the task's.
        lesson: what the model learns from teachers. Defaults to nothing.
        first_selectable_epoch: see `Technique.first_selectable_epoch`.
        folder: where the checkpoint lies; None keeps none.
        reporter: told of progress.
        distribution: where the training runs. Defaults to one device.
    """

    name: str
    index: int
    fit: Fit
    data: TrainingData
    seed: int
    callbacks: Sequence[Any] = ()
    objective: Callable[[Any], Any] = lambda loss: loss
    lesson: Lesson | None = None
    first_selectable_epoch: int = 0
    folder: RunFolder | None = None
    reporter: Reporter = field(default_factory=Reporter)
    distribution: Distribution = field(default_factory=Distribution)

    def run(self, model: Any, kept: Any = None) -> list[dict[str, float]]:
        """Train `model` in place to the last epoch, from its checkpoint when there is one.

        Args:
            model: made where the training runs.
            kept: the model whose twin `model` is, which is given its weights. Defaults to `model` itself.

        Returns:
            One record an epoch: `epoch`, `loss` and, where there are teachers, its parts, `validation_metric` (where
            there are labels) and `seconds`.

        Raises:
            TrainingError: the loss or a weight is no longer finite; the last good checkpoint stays.
        """
        kept = model if kept is None else kept
        with normalizations_at_rest(model, self.fit.train):
            with self.distribution.scope():
                network = self.network(model)
            progress = self._restore(network)
            # The view at hand alone: all of them, of many examples and classes, would not fit in memory.
            rows = functools.lru_cache(maxsize=1)(self._rows)
            while not self._ended(progress):
                view = self.data.settings.augment.view(progress.epoch)
                self._epoch(model, kept, network, progress, rows(view))
                self._save(network, progress)
        if progress.best_weights:
            _assign(_variables(network), progress.best_weights)
        if kept is not model:
            copy_variables(model, kept)
        return progress.history

    def network(self, model: Any) -> Any:
        """What is fitted: `model` with the step's optimizer and loss, or one of its layers with more in its loss."""
        network = model if self.lesson is None else self.lesson.network(model, self.fit.epochs, self.seed + self.index)
        if self.fit.regularization is not None:
            network = regularized(network, model, self.fit.regularization, where=self.name)
        network = in_precision(network, model, self.fit.precision)
        optimizer = scaled(make_optimizer(self.fit, self.data.steps_per_epoch), self.fit.precision)
        loss = self.objective(make_loss(self.data.task, self.data.from_logits))
        network.compile(optimizer=optimizer, loss=self.distribution.balanced(loss))
        trained = trained_variables(network, model, self.fit.train, self.name)
        optimizer.build(trained)
        train_only(optimizer, trained)
        return network

    def _rows(self, view: int) -> np.ndarray | None:
        """What teachers say of a view of the training examples, where it is known before they are trained on."""
        return None if self.lesson is None else self.lesson.rows(self.folder, self.seed, view)

    def _ended(self, progress: Progress) -> bool:
        return progress.epoch >= self.fit.epochs or self._stops(progress)

    def _epoch(self, model: Any, kept: Any, network: Any, progress: Progress, rows: np.ndarray | None) -> None:
        started = time.perf_counter()
        seed_everything(self.seed, self.index, progress.epoch)
        # The state of Dropout lives in the traced function: a new trace after a new seed makes an epoch depend on
        # (seed, step, epoch) alone, whether or not the process is the one that ran the epoch before.
        network.make_train_function(force=_may_draw_random_numbers(network))
        if self.lesson is not None:
            network.begin_epoch(progress.epoch)
        batches = self.distribution.spread(self.data.training_batches(self.seed, self.index, progress.epoch, rows))
        callbacks = [*self.callbacks, self._batch_reporter(progress)]
        logs = network.fit(
            batches, callbacks=callbacks, verbose=0, initial_epoch=progress.epoch, epochs=progress.epoch + 1
        ).history
        record = {"epoch": progress.epoch + 1, **{name: float(values[-1]) for name, values in logs.items()}}
        if not math.isfinite(record["loss"]) or not all(np.isfinite(w).all() for w in network.get_weights()):
            raise TrainingError(
                f"{self.name}: training must stay finite, but the loss of epoch {progress.epoch + 1} is "
                f"{record['loss']}. Remedy: a smaller rate, e.g. --set "
                f"{self.name}.{'' if self.name == 'train' else 'fit.'}learning_rate={self.fit.learning_rate / 10:g}"
            )
        if kept is not model:
            copy_variables(model, kept)
        validation = self.data.validation_score(kept)
        if validation is not None:
            # What one process would round otherwise than another must not end their epochs apart.
            validation = replace(validation, value=self.distribution.agreed(validation.value))
            record["validation_metric"] = validation.value
            self._remember_best(network, progress, validation)
        record["seconds"] = time.perf_counter() - started
        progress.history.append(record)

    def _batch_reporter(self, progress: Progress) -> Any:
        per_epoch = self.data.steps_per_epoch
        last = progress.history[-1] if progress.history else {}
        note = f"validation {last['validation_metric']:.4f}" if "validation_metric" in last else ""
        return kd.keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, _: self.reporter.progress(
                self.name, progress.epoch * per_epoch + batch + 1, self.fit.epochs * per_epoch, note
            )
        )

    def _remember_best(self, model: Any, progress: Progress, validation: Score) -> None:
        if self.fit.early_stopping is None or progress.epoch < self.first_selectable_epoch:
            return
        gain = validation.value - progress.best_value
        if progress.best_epoch < 0 or (gain > 0 if validation.higher_is_better else gain < 0):
            progress.best_value, progress.best_epoch = validation.value, progress.epoch
            progress.best_weights = [variable.numpy() for variable in _variables(model)]

    def _stops(self, progress: Progress) -> bool:
        stopping = self.fit.early_stopping
        return (
            stopping is not None
            and progress.best_epoch >= 0
            and progress.epoch - 1 - progress.best_epoch >= stopping.patience
        )

    @property
    def _checkpoint(self) -> str:
        return checkpoint_name(self.index, self.name)

    def _save(self, model: Any, progress: Progress) -> None:
        if self.folder is None:
            return
        record = {"history": progress.history, "best_value": progress.best_value, "best_epoch": progress.best_epoch}
        arrays = {"progress": np.frombuffer(json.dumps(record).encode(), np.uint8)}
        groups = {"variable": _values(model), "optimizer": _values(model.optimizer), "best": progress.best_weights}
        for group, values in groups.items():
            arrays.update({f"{group}{i:05d}": value for i, value in enumerate(values)})
        self.folder.write_arrays(self._checkpoint, arrays)

    def _restore(self, model: Any) -> Progress:
        arrays = self.folder.read_arrays(self._checkpoint) if self.folder is not None else None
        arrays = self.distribution.agreed_arrays(arrays)
        if arrays is None:
            return Progress()

        def group(name: str) -> list[np.ndarray]:
            return [arrays[key] for key in sorted(arrays) if key.startswith(name)]

        try:
            _assign(_variables(model), group("variable"))
            _assign(_variables(model.optimizer), group("optimizer"))
            return Progress(**json.loads(arrays["progress"].tobytes()), best_weights=group("best"))
        except (ValueError, KeyError, TypeError) as error:
            raise RunFolderError(
                f"{self._checkpoint} does not fit this run: {error}. Remedy: remove it; the step is trained again."
            ) from error


def checkpoint_name(index: int, name: str) -> str:
    """Of the step `name` at `index`, in a run's folder."""
    return f"checkpoints/{index:02d}-{name}.npz"


def _may_draw_random_numbers(model: Any) -> bool:
    """Whether a layer of `model` draws random numbers, or is not known not to."""
    from tf_keras.src.engine.base_layer import BaseRandomLayer
    from tf_keras.src.layers.core.tf_op_layer import TFOpLambda

    unknown = (BaseRandomLayer, TFOpLambda, kd.keras.layers.Lambda)
    known_homes = {"tf_keras", "tensorflow_model_optimization", "tfcompress"}
    return any(
        isinstance(layer, unknown) or type(layer).__module__.partition(".")[0] not in known_homes
        for layer in model._flatten_layers()
    )


@contextlib.contextmanager
def own_random_numbers() -> Iterator[None]:
    """Give Python's and NumPy's global generators back as they were; training seeds them."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def seed_everything(seed: int, step: int, epoch: int) -> None:
    """Seed Python's, NumPy's and TensorFlow's generators from (seed, step, epoch)."""
    kd.keras.utils.set_random_seed(int(np.random.SeedSequence([seed, step, epoch]).generate_state(1)[0] % 2**31))


def make_optimizer(fit: Fit, steps_per_epoch: int) -> Any:
    """The Keras optimizer of `fit`, its rate decaying over all its epochs."""
    optimizers = kd.keras.optimizers
    rate = learning_rate(fit, max(1, fit.epochs * steps_per_epoch))
    if fit.optimizer == "sgd":
        return optimizers.SGD(rate, momentum=0.9, nesterov=True)
    classes = {"adam": optimizers.Adam, "adamw": optimizers.AdamW, "rmsprop": optimizers.RMSprop}
    return classes[fit.optimizer](rate)


def learning_rate(fit: Fit, total_steps: int) -> Any:
    """The rate of `fit` as a number, or as a Keras schedule over `total_steps`."""
    schedules = kd.keras.optimizers.schedules
    if fit.decay == "cosine":
        return schedules.CosineDecay(fit.learning_rate, total_steps)
    if fit.decay == "exponential":
        return schedules.ExponentialDecay(fit.learning_rate, total_steps, 0.01)
    return fit.learning_rate


def make_loss(task: Task, from_logits: bool) -> Any:
    """The task's loss; a cross-entropy by name takes logits where the model gives them (`takes_logits`).

    Raises:
        RecipeError: no loss of Keras has this name.
    """
    losses = kd.keras.losses
    try:
        loss = losses.get(task.loss)
    except ValueError as error:
        raise RecipeError(f"task.loss must be the name of a Keras loss. Received: {task.loss!r}.") from error
    if not from_logits or not isinstance(task.loss, str):
        return loss
    # Keras' name of the class that computes a function: BinaryCrossentropy of binary_crossentropy.
    return getattr(losses, cross_entropy_of(task).title().replace("_", ""))(from_logits=True)


def _variables(owner: Any) -> list[Any]:
    """All variables of a model or optimizer, each once, in creation order."""
    variables = owner.weights if hasattr(owner, "layers") else [*owner.variables, *scale_variables(owner)]
    return list({id(v): v for v in variables}.values())


def _values(owner: Any) -> list[np.ndarray]:
    return [variable.numpy() for variable in _variables(owner)]


def _assign(variables: Sequence[Any], values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
