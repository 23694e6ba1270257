"""Keras 3 models as tf_keras models: `translate` builds the counterpart and proves it layer by layer."""

from tfcompress.models.translation.graph import translate

__all__ = ["translate"]
