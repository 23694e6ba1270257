"""What draws weights towards zero while a model is trained, so that less is lost when they go."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tfcompress.vocabulary.schema import Schema


class Regularization(Schema):
    """A penalty on the kernels, added to the loss of a step's training.

    Example:
        >>> Regularization(kind="group_lasso").strength
        0.0001
    """

    kind: Literal["l1", "group_lasso"] = "l1"
    """`l1`, the sum of the magnitudes, draws single weights to zero, for `pruning` (Han et al., "Learning both Weights
    and Connections", 2015); `group_lasso`, the sum over output channels of the Euclidean norm of the weights that make
    them, draws whole channels to zero, for `channels` (Wen et al., "Learning Structured Sparsity in Deep Neural
    Networks", 2016, over filters). Defaults to `l1`."""
    strength: float = Field(default=1e-4, gt=0)
    """What the penalty is multiplied by. Defaults to 0.0001."""
