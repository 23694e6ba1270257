"""Models to compress: read from files (`load_model`) or built fresh from the zoo (`build`)."""

from tfcompress.models.loading import classes_of, clone, fingerprint, load_model
from tfcompress.models.zoo import build

__all__ = ["build", "classes_of", "clone", "fingerprint", "load_model"]
