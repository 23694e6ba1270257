"""How a model is trained: the part of a recipe that every step with epochs shares, and the task it serves."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tfcompress.vocabulary.distillation import Distillation
from tfcompress.vocabulary.regularization import Regularization
from tfcompress.vocabulary.schema import Schema

TrainedPart = Literal["all", "added", "biases", "normalizations", "biases_and_normalizations"]
"""Which weights a step trains; what the step itself adds to a model is always among them."""

Precision = Literal["float32", "mixed_float16", "mixed_bfloat16"]
"""What layers compute in while they are trained; their weights are float32 in any case."""


class EarlyStopping(Schema):
    """Stop when the validation metric has not improved for `patience` epochs; keep the best epoch's weights."""

    patience: int = Field(default=5, ge=1)
    """Epochs without improvement to wait. Defaults to 5."""


class Fit(Schema):
    """Fine-tuning of one step."""

    epochs: int = Field(default=1, ge=0, le=100_000)
    """Passes over the training split. Defaults to 1; 0 skips training."""
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    """Keras optimizer. `sgd` has Nesterov momentum 0.9. Defaults to `adam`."""
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    """Rate at the first step. Defaults to 0.001."""
    decay: Literal["constant", "cosine", "exponential"] = "cosine"
    """How the rate falls over the step's epochs: `cosine` to 0, `exponential` to a hundredth. Defaults to cosine."""
    early_stopping: EarlyStopping | None = None
    """Off by default."""
    train: TrainedPart | None = None
    """Which weights are trained beside what the step adds (centroids, code words, adapters): `all`, or for cheap
    recovery `biases`, `normalizations`, `biases_and_normalizations`, or nothing else (`added`). All others stay as they
    are to the bit, statistics of normalizations too. Defaults to all, and to `added` for adapters."""
    distillation: Distillation | None = None
    """Teachers to learn from beside the data. Off by default."""
    regularization: Regularization | None = None
    """A penalty that draws weights, or whole channels, towards zero. Off by default."""
    precision: Precision = "float32"
    """What layers compute in while they are trained: `mixed_bfloat16` on CPUs with AMX, TPUs and newer GPUs;
    `mixed_float16`, with the loss scaled so that small gradients are not lost, on GPUs. Weights stay float32, and so do
    the outputs. Quantization-aware training is in float32 only. Defaults to float32."""


def _name_or_callable(value: Any) -> Any:
    if isinstance(value, str) or callable(value):
        return value
    raise ValueError("must be a Keras name, or in Python a callable: a Keras loss or metric object or a function")


NameOrCallable = Annotated[Any, BeforeValidator(_name_or_callable)]


class Task(Schema):
    """What the model is for: the loss it is trained with and the metric it is judged by.

    In a recipe both are Keras names; in Python they may be Keras objects or functions `f(y_true, y_pred)`.
    Classification with integer labels is the default.
    """

    loss: NameOrCallable = Field(default="sparse_categorical_crossentropy")
    """A Keras loss by name, or an object in Python."""
    metric: NameOrCallable = Field(default="accuracy")
    """A Keras metric by name (`accuracy` means `sparse_categorical_accuracy`), or an object in Python."""
    higher_is_better: bool | None = None
    """Whether more of the metric is better; None (the default) knows it for Keras' own metrics."""
