"""Networks to start from, one family a file: `names`, `is_zoo`, `input_dtype`, `build`."""

from tfcompress.models.zoo.registry import build, input_dtype, is_zoo, names

__all__ = ["build", "input_dtype", "is_zoo", "names"]
