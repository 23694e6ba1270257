"""How a recipe feeds its data: batches, preprocessing, augmentation, the validation cut, calibration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from tfcompress.data.audio import AudioSettings
from tfcompress.data.augmentation import Augmentation
from tfcompress.data.text import TextSettings
from tfcompress.vocabulary.preprocessing import Preprocessing
from tfcompress.vocabulary.schema import Schema


def _form(value: Any) -> str:
    return "auto" if value == "auto" else "explicit"


class DataSettings(Schema):
    """The data section of a recipe.

    Example:
        >>> DataSettings(preprocessing="unit", augment={"flip": True}).preprocessing.name
        'unit'
    """

    batch_size: int = Field(default=128, ge=1, le=65_536)
    """Examples in one training step. Defaults to 128."""
    preprocessing: Annotated[
        Annotated[Literal["auto"], Tag("auto")] | Annotated[Preprocessing, Tag("explicit")], Discriminator(_form)
    ] = "auto"
    """What the model expects to be fed: `raw`, `unit`, `signed`, `{mean, std}` or `{scale, offset}`.
    Defaults to `auto`: found out from the model and the data; token ids and sound are fed as they are encoded."""
    text: TextSettings = Field(default=TextSettings())
    """How text becomes token ids."""
    audio: AudioSettings = Field(default=AudioSettings())
    """How sound becomes frames of frequencies."""
    augment: Augmentation = Field(default=Augmentation())
    """Random changes to training images. Off by default."""
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training split to validate on, where the source has no validation split. Defaults to 0.1."""
    calibration_samples: int = Field(default=200, ge=1, le=100_000)
    """Training samples that activation ranges are taken from; all, where there are fewer. Defaults to 200."""
