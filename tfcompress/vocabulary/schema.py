"""The strict base of everything a recipe or an evidence file holds."""

from pydantic import BaseModel, ConfigDict


class Schema(BaseModel):
    """A frozen record: unknown keys, NaN and infinities are refused, and nothing changes after it is made.

    Example:
        >>> class Pair(Schema):
        ...     left: int
        >>> Pair(left=1).left
        1
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)
