"""Fine-tuning: the model as it is, trained, so that objectives such as distillation can be a step of their own."""

from __future__ import annotations

from typing import ClassVar, Literal

from tfcompress.techniques.base import ANY_STAGE, StepPlan, Technique
from tfcompress.vocabulary.state import State


class FineTuning(Technique):
    """Train the model without changing what it is made of; earlier promises are kept, none is added.

    It may stand anywhere before the step that chooses the file's arithmetic, several times under names of their own.
    Behind quantization-aware training it would train a model that emulates integers without that step's care, and is
    refused: that step has epochs itself.

    Example:
        >>> FineTuning(fit={"epochs": 5, "distillation": {"teacher": "large.h5"}}).fit.distillation.weight
        0.9
    """

    stage: ClassVar[str] = ANY_STAGE
    open_ended: ClassVar[bool] = True

    technique: Literal["fine_tuning"] = "fine_tuning"

    def prepare(self, state: State, plan: StepPlan) -> State:
        """A copy of the model."""
        from tfcompress.models.loading import clone

        del plan
        return state.evolve(model=clone(state.model))
