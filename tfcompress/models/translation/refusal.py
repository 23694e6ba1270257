"""What cannot be translated, with its reason and its remedy."""

from __future__ import annotations


class UntranslatableError(Exception):
    """One layer or operator has no counterpart in tf_keras.

    Args:
        reason: why, as the end of a sentence that begins with the layer's name.
        remedy: what to do, as a sentence without its full stop.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason, remedy)
        self.reason = reason
        self.remedy = remedy
