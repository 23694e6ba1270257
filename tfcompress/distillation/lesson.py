"""What one step's training is told of its teachers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress.distillation.soft_targets import Kind, kind_of
from tfcompress.distillation.teachers import Engaged
from tfcompress.run_folder import RunFolder
from tfcompress.training_data import TrainingData
from tfcompress.vocabulary.distillation import Distillation


@dataclass(frozen=True, eq=False)
class Lesson:
    """The distillation of one step.

    Args:
        settings: what is learned.
        teachers: who teach, in the order of the settings.
        data: what the student learns from.
    """

    settings: Distillation
    teachers: tuple[Engaged, ...]
    data: TrainingData

    @property
    def is_live(self) -> bool:
        """Whether teachers are asked about each batch as it is trained on: where its examples are new at every epoch,
        or more is asked than outputs, which is too much to keep."""
        augment = self.data.settings.augment
        return self.settings.needs_layers or not (augment.is_off or augment.views)

    def network(self, student: Any, epochs: int, seed: int) -> Any:
        """The Keras model that is compiled and fitted in the place of `student`, whose layers it trains.

        Args:
            student: as the step prepared it.
            epochs: of the step.
            seed: of the step.
        """
        from tfcompress.distillation._network import DistilledStudent, Guide

        guide = Guide(
            student,
            self.settings,
            self.teachers,
            kind=self._kind,
            from_logits=self.data.from_logits,
            epochs=epochs,
            seed=seed,
        )
        network = DistilledStudent(inputs=student.inputs, outputs=student.output)
        network.teach(guide)
        return network

    def rows(self, folder: RunFolder | None, seed: int = 0, view: int = 0) -> np.ndarray | None:
        """The teachers' scores for every training example, float32 `[n, teachers, ...]`; None where they are asked
        about each batch.

        Args:
            folder: where the outputs are kept from one step, and one run, to the next; None keeps them nowhere.
            seed: of the run, which the views depend on.
            view: which view of the examples; see `Augmentation.view`.
        """
        from tfcompress.distillation._network import scores_of

        if self.is_live:
            return None
        said = [scores_of(one, one.stored_outputs(folder, seed, view), self._kind).numpy() for one in self.teachers]
        return np.stack(said, axis=1)

    def blank_rows(self) -> np.ndarray | None:
        """What `rows` gives in shape, of zeros: enough to time a training step."""
        if self.is_live:
            return None
        shape = self.teachers[0].network.shapes[1]
        return np.zeros((self.data.dataset.train.count, len(self.teachers), *shape), np.float32)

    @property
    def _kind(self) -> Kind:
        return kind_of(self.data.task, self.teachers[0].network.shapes[1])
