"""What a recipe trains on: a data set with the way it is fed, and the task that its targets belong to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress.data.dataset import Dataset
from tfcompress.data.settings import DataSettings
from tfcompress.evaluate.metric import Score, score
from tfcompress.vocabulary.preprocessing import Preprocessing
from tfcompress.vocabulary.training import Task


@dataclass(frozen=True)
class TrainingData:
    """A data set with the way a recipe feeds it to training."""

    dataset: Dataset
    preprocessing: Preprocessing
    settings: DataSettings
    task: Task
    from_logits: bool = False
    """Whether the model's outputs are scores that no softmax or sigmoid has turned into probabilities."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch."""
        return self.dataset.steps_per_epoch(self.settings.batch_size)

    def training_batches(self, seed: int, step: int, epoch: int, rows: np.ndarray | None = None) -> Any:
        """The `tf.data` batches of one epoch; the same three numbers give the same batches.

        Args:
            seed: of the run.
            step: place of the recipe's step in the run, from 0.
            epoch: place of the epoch in the step, from 0.
            rows: see `Dataset.training_batches`.
        """
        return self.dataset.training_batches(
            preprocessing=self.preprocessing, settings=self.settings, seed=seed, step=step, epoch=epoch, rows=rows
        )

    def validation_score(self, model: Any) -> Score | None:
        """The task's metric of a Keras model on the validation split (simulated); None without labels."""
        split = self.dataset.validation
        if split.targets is None:
            return None
        batches = self.dataset.batches(
            split, preprocessing=self.preprocessing, batch_size=max(256, self.settings.batch_size)
        )
        outputs = model.predict(batches.map(lambda x, _: x), verbose=0)
        return score(self.task, split.targets, outputs, from_logits=self.from_logits)
