"""How text or sound became the numbers that a model is fed: what whoever deploys it has to repeat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Encoding:
    """The way from raw text or sound to the inputs of a data set, which no .tflite file holds.

    Args:
        description: the way in words, a step a line, for the model card.
        files: what the words refer to, by file name; written beside the artifact.
        setting: where a recipe chooses the shape of the inputs, e.g. `data.text`.
        vocabulary_size: of text, the number of different token ids; None for sound.
    """

    description: tuple[str, ...]
    files: Mapping[str, str]
    setting: str
    vocabulary_size: int | None = None
