"""What compression does to weights, for TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.callbacks._effective_weights import EffectiveWeight, effective_weights
from tfcompress.vocabulary.errors import RecipeError


class WeightSummaries(kd.keras.callbacks.Callback):
    """Writes how sparse, shared and coarse every layer's weight is, while a model trains.

    Of each weight with two axes or more it writes, as the forward pass uses it (masked, clustered, rounded):
    `sparsity/<layer>`, the share of zeros; `distinct_values/<layer>`, the count of different values in the whole
    tensor; `bits/<layer>`, the width of its grid when it is under quantization-aware training; and the histogram
    `weights/<layer>`. `<layer>` is the name of the layer without wrappers, so that the curves of successive trainings
    line up; a layer with several weights adds theirs. The share of zeros over all these weights goes to the logs as
    `sparsity`, for `History` and the callbacks that follow in the list.

    Args:
        log_dir: folder of the event files; made when it is missing.
        frequency_epochs: epochs from one writing to the next. Defaults to 1.

    Raises:
        RecipeError: `frequency_epochs` is below 1.

    Example:
        >>> model = tfmot.sparsity.keras.prune_low_magnitude(model)  # doctest: +SKIP
        >>> model.compile("adam", "sparse_categorical_crossentropy")  # doctest: +SKIP
        >>> callbacks = [tfmot.sparsity.keras.UpdatePruningStep(), WeightSummaries("logs")]  # doctest: +SKIP
        >>> model.fit(x, y, epochs=3, callbacks=callbacks).history["sparsity"]  # doctest: +SKIP
        [0.21, 0.5, 0.5]
    """

    def __init__(self, log_dir: str | os.PathLike[str], frequency_epochs: int = 1) -> None:
        super().__init__()
        if frequency_epochs < 1:
            raise RecipeError(f"frequency_epochs must be at least 1. Received: {frequency_epochs}.")
        self.log_dir = os.fspath(log_dir)
        self.frequency_epochs = frequency_epochs

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the summaries of the epoch, at the step `epoch` as Keras' own TensorBoard callback does."""
        weights = list(effective_weights(self.model)) if (epoch + 1) % self.frequency_epochs == 0 else []
        if not weights:
            return
        self._write(epoch, weights)
        if logs is not None:
            logs["sparsity"] = sum(w.zeros for w in weights) / sum(w.values.size for w in weights)

    @cached_property
    def _writer(self) -> Any:
        # Kept for the callback's life: a training made of many calls of `fit` still fills one event file.
        return kd.tf.summary.create_file_writer(self.log_dir)

    def _write(self, epoch: int, weights: Sequence[EffectiveWeight]) -> None:
        summary = kd.tf.summary
        # Another callback may have limited recording to some of its steps.
        with self._writer.as_default(step=epoch), summary.record_if(True):
            for weight in weights:
                summary.scalar(f"sparsity/{weight.name}", weight.zeros / weight.values.size)
                summary.scalar(f"distinct_values/{weight.name}", np.unique(weight.values).size)
                if weight.bits is not None:
                    summary.scalar(f"bits/{weight.name}", weight.bits)
                summary.histogram(f"weights/{weight.name}", weight.values)
        self._writer.flush()
