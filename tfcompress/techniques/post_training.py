"""Post-training quantization: the number format of the file is chosen by calibration alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from tfcompress.techniques.base import StepPlan, Technique
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.state import NumberFormat, State

_WOULD_UNSHARE = (
    "{name} would break the promise of shared values: it gives every channel its own range. "
    "Remedy: use the technique quantization, with fit.epochs 0 when no training is wanted"
)


class PostTraining(Technique):
    """Convert the trained model as it is.

    `int8`: 8-bit weights and activations; `int16x8`: 8-bit weights and 16-bit activations; both full integer.
    `dynamic_range`: 8-bit weights, float activations; `float16`: half-precision weights; neither is integer.

    Example:
        >>> PostTraining().number_format
        'int8'
    """

    stage: ClassVar[str] = "quantized"
    trains: ClassVar[bool] = False

    technique: Literal["post_training"] = "post_training"
    number_format: NumberFormat = "int8"
    """The arithmetic of the file. Defaults to int8."""

    def problems_after(self, earlier: Sequence[Technique]) -> list[str]:
        """Shared values do not survive a converter that gives every channel a range of its own."""
        if self.number_format == "float16" or not any(step.stage == "shared" for step in earlier):
            return []
        return [_WOULD_UNSHARE.format(name=self.name)]

    def check(self, state: State) -> None:
        """Refuse to undo the shared values of an earlier run."""
        if self.number_format != "float16" and any(promise.kind == "distinct" for promise in state.promises):
            raise RecipeError(_WOULD_UNSHARE.format(name=self.name))

    def prepare(self, state: State, plan: StepPlan) -> State:
        """Choose the number format."""
        del plan
        if state.quantization is not None:
            raise RecipeError(f"{self.name}: the model is already quantized by training. Remedy: remove this step.")
        return state.evolve(number_format=self.number_format)
