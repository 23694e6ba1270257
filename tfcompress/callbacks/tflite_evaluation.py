"""The accuracy of the .tflite file that a model in training would become."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.callbacks._inference_model import inference_model, randomness_kept
from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.proof import prove_integer, require_integer
from tfcompress.convert.settings import ConversionSettings
from tfcompress.evaluate import predict, score, takes_logits
from tfcompress.vocabulary.errors import DataError, RecipeError
from tfcompress.vocabulary.state import NumberFormat
from tfcompress.vocabulary.training import Task


@dataclass(frozen=True)
class TFLiteRecord:
    """One evaluation.

    Args:
        epoch: the epoch after which it was made, counted from 1.
        metric: the metric's name: as the task gives it, or an object's own.
        float_metric: the metric of the Keras model.
        tflite_metric: the metric of the file, by LiteRT.
        bytes: the file's size, with its tensor names.
    """

    epoch: int
    metric: str
    float_metric: float
    tflite_metric: float
    bytes: int


class TFLiteEvaluation(kd.keras.callbacks.Callback):
    """Converts the model every few epochs and at the last, and evaluates the file beside the Keras model.

    A model in pruning or clustering wrappers is stripped on a copy first; one under quantization-aware training keeps
    the ranges it learned; a plain one is quantized by calibration. Training goes on bit-equal to one without this
    callback. Both metrics go to the logs, as `float_<metric>` and `tflite_<metric>`, for `History` and the callbacks
    that follow in the list, such as `EarlyStopping(monitor="tflite_accuracy", mode="max")`.

    Before the first epoch one evaluation is made and thrown away, so that a model that cannot be converted, or a metric
    that does not fit, is refused then and not after hours. When a callback behind this one ends training early, the
    last epoch's evaluation comes when `fit` ends: it is in `history`, but too late for the logs.

    Args:
        calibration: training inputs as the model takes them, `[n, ...]`.
        validation: inputs `[m, ...]` and targets `[m, ...]`, of samples that the model does not train on.
        task: gives the metric, and the loss by which logits are known (`takes_logits`). Defaults to `Task()`:
            classification, judged by its accuracy.
        every: epochs from one evaluation to the next. Defaults to 1.
        number_format: arithmetic of the file. Defaults to `int8`.

    Attributes:
        history: a `TFLiteRecord` for each evaluation so far.

    Raises:
        RecipeError: an argument is out of range, or the arrays do not fit one another. From `fit` come ModelError for
            a subclassed model, DataError for inputs that do not fit the model, ConversionError for a model that cannot
            be converted to the format throughout, and EvaluationError for predictions that do not fit the metric.

    Example:
        >>> evaluation = TFLiteEvaluation(x[:100], (x_val, y_val), every=2)  # doctest: +SKIP
        >>> model.fit(x, y, epochs=4, callbacks=[evaluation])  # doctest: +SKIP
        >>> evaluation.history[-1]  # doctest: +SKIP
        TFLiteRecord(epoch=4, metric='accuracy', float_metric=0.97, tflite_metric=0.965, bytes=14872)
    """

    def __init__(
        self,
        calibration: np.ndarray,
        validation: tuple[np.ndarray, np.ndarray],
        task: Task | None = None,
        every: int = 1,
        number_format: NumberFormat = "int8",
    ) -> None:
        super().__init__()
        self.calibration = np.asarray(calibration)
        self.inputs, self.targets = (np.asarray(part) for part in validation)
        self.task = task or Task()
        self.every = every
        self.number_format = number_format
        self.history: list[TFLiteRecord] = []
        self._trained_epochs = 0
        self._check()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Refuse what could not be evaluated later."""
        del logs
        self._trained_epochs = 0
        awaits_its_shape = isinstance(self.model, kd.keras.Sequential) and not self.model.built
        if not self.history and not awaits_its_shape:
            self._evaluate(epoch=0)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluate, when it is time or training is about to end."""
        self._trained_epochs = epoch + 1
        last = self._trained_epochs == self.params["epochs"] or self.model.stop_training
        if not last and self._trained_epochs % self.every:
            return
        record = self._evaluate(self._trained_epochs)
        self.history.append(record)
        if logs is not None:
            logs[f"float_{record.metric}"] = record.float_metric
            logs[f"tflite_{record.metric}"] = record.tflite_metric

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Evaluate the last epoch, if training ended there without notice."""
        del logs
        if self._trained_epochs and (not self.history or self.history[-1].epoch != self._trained_epochs):
            self.history.append(self._evaluate(self._trained_epochs))

    def _evaluate(self, epoch: int) -> TFLiteRecord:
        with randomness_kept(self.model):
            model = inference_model(self.model)
            self._check_fit(model)
            content = self._convert(model)
            simulated = model.predict(self.inputs, verbose=0)
        from_logits = takes_logits(self.task, simulated)
        float_score = score(self.task, self.targets, simulated, from_logits=from_logits)
        tflite_score = score(self.task, self.targets, predict(content, self.inputs), from_logits=from_logits)
        name = self.task.metric if isinstance(self.task.metric, str) else float_score.name
        return TFLiteRecord(epoch, name, float_score.value, tflite_score.value, len(content))

    def _convert(self, model: Any) -> bytes:
        samples = self.calibration.astype(model.inputs[0].dtype.as_numpy_dtype)
        content = quantized_tflite(model, self.number_format, ConversionSettings(), samples)
        if self.number_format in ("int8", "int16x8"):
            require_integer(prove_integer(Flatbuffer(content)))
        return content

    def _check_fit(self, model: Any) -> None:
        shapes = [tuple(part.shape[1:]) for part in model.inputs]
        if len(shapes) != 1 or not kd.tf.TensorShape(shapes[0]).is_compatible_with(self.inputs.shape[1:]):
            raise DataError(
                "TFLiteEvaluation: validation inputs must have the shape of the model's one input. "
                f"Received: {self.inputs.shape[1:]}, for a model of {', '.join(map(str, shapes))}."
            )

    def _check(self) -> None:
        """Refuse arguments that cannot work, all at once."""
        problems = []
        if self.every < 1:
            problems.append(f"every must be at least 1, and is {self.every}")
        if self.number_format not in get_args(NumberFormat):
            known = ", ".join(get_args(NumberFormat))
            problems.append(f"number_format must be one of {known}, and is {self.number_format!r}")
        if len(self.inputs) != len(self.targets):
            problems.append(
                f"validation must have a target for each input, and has {len(self.inputs)} inputs "
                f"and {len(self.targets)} targets"
            )
        if not len(self.calibration) or self.calibration.shape[1:] != self.inputs.shape[1:]:
            problems.append(
                f"calibration must hold samples of the validation inputs' shape {self.inputs.shape[1:]}, "
                f"and has the shape {self.calibration.shape}"
            )
        if problems:
            raise RecipeError(f"TFLiteEvaluation: {'; '.join(problems)}.")
