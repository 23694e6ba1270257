"""Networks to start from, one family a file: `names`, `is_zoo`, `build`."""

from tfcompress.models.zoo.registry import build, is_zoo, names

__all__ = ["build", "is_zoo", "names"]
