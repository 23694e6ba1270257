"""Bits for each layer from measured sensitivities, by an integer programme; nothing is trained for it.

As in Dong et al., "HAWQ-V2" (2020), and Yao et al., "HAWQ-V3" (2021), what layers lose is taken to add up, and the best
choice of a width for each is the solution of an integer linear programme. Where they estimate what a layer loses from
the curvature of the loss, it is measured here: the loss on the calibration samples when this layer alone is rounded.

`tfcompress sensitivity` looks at the same from the other end: it converts and runs a real file for each layer and
width, on validation data, for people and for searches, and takes minutes. This is a part of one step of one run: it
sees training samples only, in a Keras model, and takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from tfcompress.models.loading import clone
from tfcompress.techniques._loss_rise import loss_rise
from tfcompress.techniques.base import StepPlan
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.schema import Schema

Share = Annotated[float, Field(gt=0, le=1)]
_WIDEST = 8
_BATCH = 64
_ROUNDING = 1e-9
"""Relative, by which a sum may be above its bound."""


class Budget(Schema):
    """What the weights may take, or may cost: exactly one bound.

    Example:
        >>> Budget(bits_share=0.5, choices=[2, 4, 8]).figure
        'bits_share'
    """

    bytes_share: Share | None = None
    """Of the bytes that the weights take in the file at 8 bits, which may be left. Up to 4 bits take half a byte in
    INT4 tensors, and a whole one elsewhere: see `low_bit_storage`."""
    bits_share: Share | None = None
    """Of the 8 bits of every weight, which may be left on average, however they are stored."""
    loss_increase: float | None = Field(default=None, gt=0)
    """By how much the loss on the calibration samples may rise, the layers' increases added up; as few bits as
    possible then. Without labels it is the divergence from the float model's outputs."""
    choices: list[Annotated[int, Field(ge=1, le=8)]] = Field(default=[2, 3, 4, 8], min_length=2)
    """Widths to choose from. Defaults to 2, 3, 4 and 8."""

    @field_validator("choices")
    @classmethod
    def _in_order(cls, choices: list[int]) -> list[int]:
        return sorted(set(choices))

    @model_validator(mode="after")
    def _one_bound(self) -> Budget:
        bounds = ("bytes_share", "bits_share", "loss_increase")
        given = [name for name in bounds if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"one of {', '.join(bounds)} must be given. Received: {', '.join(given) or 'none'}")
        return self

    @property
    def figure(self) -> str:
        """Which bound is given."""
        return next(name for name in ("bytes_share", "bits_share", "loss_increase") if getattr(self, name) is not None)

    @property
    def bound(self) -> float:
        """The number given for it."""
        return getattr(self, self.figure)


@dataclass(frozen=True)
class Option:
    """A width that a layer may get, as the share of all weights' size at 8 bits that it would take.

    Args:
        bits: the width.
        size: its share, of bytes or bits as the budget counts.
    """

    bits: int
    size: float


def options(
    budget: Budget, grids: Mapping[str, Mapping[int, Any]], sizes: Mapping[str, int]
) -> dict[str, list[Option]]:
    """What each layer may get, narrowest first.

    Args:
        budget: says how size is counted.
        grids: by layer and width, the grid it would have.
        sizes: by layer, how many values its weight has.
    """
    whole = _WIDEST * sum(sizes.values())

    def size(layer: str, grid: Any) -> float:
        return sizes[layer] * (grid.container_bits if budget.figure == "bytes_share" else grid.bits) / whole

    return {
        layer: [Option(bits, size(layer, grid)) for bits, grid in sorted(widths.items())]
        for layer, widths in grids.items()
    }


def require_within_reach(budget: Budget, choices: Mapping[str, Sequence[Option]], where: str) -> None:
    """Refuse a size that even the narrowest widths exceed.

    Raises:
        RecipeError: with the nearest that can be met.
    """
    if budget.figure == "loss_increase":
        return
    least = sum(widths[0].size for widths in choices.values())
    if least > budget.bound * (1 + _ROUNDING):
        remedy = "fewer bits in budget.choices or per_layer"
        if budget.figure == "bytes_share":
            remedy += ", or low_bit_storage=size, which stores up to 4 bits in half a byte"
        raise RecipeError(
            f"{where}: budget.{budget.figure} must be within reach. Received: {budget.bound:g}; the nearest that can "
            f"be met is {least:.4g}, with every layer at its narrowest. Remedy: {remedy}."
        )


def allocated(
    budget: Budget, choices: Mapping[str, Sequence[Option]], increases: Mapping[str, Sequence[float]], where: str
) -> dict[str, int]:
    """The bits of every layer: the least loss within a size, or the least size within a loss.

    Of equally good choices, it is the one that is best in the other respect.

    Args:
        budget: the bound.
        choices: by layer.
        increases: by layer, what the loss rises by at each of its choices.
        where: the step's name, for messages.

    Raises:
        RecipeError: no choice keeps the loss within its bound; with the nearest that can be met.
    """
    loss = np.concatenate([_monotone(increases[layer]) for layer in choices])
    size = np.array([option.size for widths in choices.values() for option in widths])
    counts = [len(widths) for widths in choices.values()]
    by_loss = budget.figure == "loss_increase"
    wanted, bounded = (size, loss) if by_loss else (loss, size)
    if by_loss:
        least = sum(float(_monotone(increases[layer]).min()) for layer in choices)
        if least > budget.bound * (1 + _ROUNDING):
            raise RecipeError(
                f"{where}: budget.loss_increase must be within reach. Received: {budget.bound:g}; the nearest that can "
                f"be met is {least:.4g}, with every layer at its widest. Remedy: more bits in budget.choices or "
                "per_layer."
            )
    chosen = _solved(wanted, counts, [(bounded, budget.bound)])
    best = float(wanted @ chosen)
    chosen = _solved(bounded, counts, [(bounded, budget.bound), (wanted, best)])
    bits = np.array([option.bits for widths in choices.values() for option in widths])
    return dict(zip(choices, (int(part) for part in bits[chosen.astype(bool)]), strict=True))


def _monotone(increases: Sequence[float]) -> np.ndarray:
    """Increases, narrowest first, without the noise of few samples: none is a gain, and fewer bits never lose less."""
    return np.maximum.accumulate(np.maximum(np.asarray(increases, float), 0)[::-1])[::-1]


def _solved(cost: np.ndarray, counts: Sequence[int], bounds: Sequence[tuple[np.ndarray, float]]) -> np.ndarray:
    """Which options, 0 or 1 each, cost least with one for each layer and every weighted sum within its bound."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    one_each = np.repeat(np.eye(len(counts)), counts, axis=1)
    limits = [
        LinearConstraint(weights[None] / scale, ub=bound / scale + _ROUNDING)
        for weights, bound in bounds
        for scale in [max(bound, float(weights.max()), np.finfo(float).tiny)]
    ]
    found = milp(
        cost / max(float(cost.max()), np.finfo(float).tiny),
        integrality=np.ones(len(cost)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), *limits],
        options={"mip_rel_gap": 0},
    )
    return np.round(found.x)


def loss_increases(
    model: Any, grids: Mapping[str, Mapping[int, Any]], attributes: Mapping[str, str], plan: StepPlan
) -> dict[str, list[float]]:
    """What the loss on the calibration samples rises by when one layer alone is rounded, by layer and width.

    Args:
        model: the float model; it stays as it is.
        grids: by layer and width, the grid to round to. A layer of one width is not measured.
        attributes: by layer, the name of its weight.
        plan: of the step: samples, and their targets and the loss where there are labels.

    Returns:
        By layer, narrowest first, as `loss_rise` tells it.
    """
    copied = clone(model)
    rise = loss_rise(_outputs(copied, plan.calibration), plan)
    return {
        layer: [
            rise(outputs) for outputs in _with_one_rounded(copied, layer, attributes[layer], widths, plan.calibration)
        ]
        if len(widths) > 1
        else [0.0]
        for layer, widths in grids.items()
    }


def _with_one_rounded(
    model: Any, layer: str, attribute: str, widths: Mapping[int, Any], samples: np.ndarray
) -> Iterator[np.ndarray]:
    """The outputs of `model` with one layer's weight on each of its grids, narrowest first."""
    from tfcompress.techniques._weight_grid import rounded_as_trained

    variable = getattr(model.get_layer(layer), attribute)
    values = variable.numpy()
    for _, grid in sorted(widths.items()):
        variable.assign(rounded_as_trained(values, grid))
        yield _outputs(model, samples)
    variable.assign(values)


def _outputs(model: Any, samples: np.ndarray) -> np.ndarray:
    return np.asarray(model.predict(samples, batch_size=_BATCH, verbose=0))
