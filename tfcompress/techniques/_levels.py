"""The sets of integers that quantized weights can be restricted to: uniform, powers of two, sums of two, three, two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import Literal

Levels = Literal["uniform", "power_of_two", "additive_powers", "ternary", "binary"]

WIDTHS: Mapping[Levels, range] = MappingProxyType(
    {
        "uniform": range(2, 9),
        "power_of_two": range(2, 5),
        "additive_powers": range(2, 6),
        "ternary": range(2, 3),
        "binary": range(1, 2),
    }
)
"""The bits that each set exists at, such that its integers are exact in a signed byte."""

_TERMS: Mapping[int, tuple[tuple[int, ...], ...]] = MappingProxyType(
    {2: ((0, 1),), 3: ((0, 1, 2, 4),), 4: ((0, 1, 4, 8), (0, 2)), 5: ((0, 2, 8, 32), (0, 1, 4, 16))}
)
"""What an additive level is summed from, by bits: the largest powers of two in turn to one term and the other."""


def levels_at(levels: Levels, bits: int) -> Levels:
    """`levels`, or `uniform` where the set has no form of so many bits.

    Example:
        >>> levels_at("power_of_two", 4), levels_at("power_of_two", 8)
        ('power_of_two', 'uniform')
    """
    return levels if bits in WIDTHS[levels] else "uniform"


def magnitudes(levels: Levels, bits: int) -> tuple[int, ...]:
    """The sizes of the integers of a set, in order; each but 0 stands for itself and its negative.

    Args:
        levels: which set:
            ``uniform`` - all integers of `bits` bits but the most negative;
            ``power_of_two`` - 0 and powers of two, as many as `bits` bits number (Zhou et al., "Incremental Network
            Quantization", 2017, equation 1);
            ``additive_powers`` - sums of powers of two, one of each term (Li et al., "Additive Powers-of-Two
            Quantization", 2020, equation 5, with terms of two bits; at 4 bits, one term of two and one of one);
            ``ternary`` - 0 and 1; ``binary`` - 1.
        bits: of `WIDTHS`, the sign among them.

    Example:
        >>> magnitudes("power_of_two", 4)
        (0, 1, 2, 4, 8, 16, 32, 64)
        >>> magnitudes("additive_powers", 4)
        (0, 1, 2, 3, 4, 6, 8, 10)
    """
    if levels == "binary":
        return (1,)
    if levels == "power_of_two":
        return (0, *(2**exponent for exponent in range(2 ** (bits - 1) - 1)))
    if levels == "additive_powers":
        return tuple(sorted(sum(terms) for terms in product(*_TERMS[bits])))
    return tuple(range(2 ** (bits - 1)))


def count(levels: Levels, bits: int) -> int:
    """How many integers a set has, both signs and zero among them.

    Example:
        >>> count("uniform", 4), count("power_of_two", 4), count("binary", 1)
        (15, 15, 2)
    """
    sizes = magnitudes(levels, bits)
    return 2 * len(sizes) - sizes.count(0)


def require_widths(widths: Sequence[int], levels: Levels) -> None:
    """Refuse widths at which `levels` do not exist, where no other is among them, and one bit where two need more.

    Raises:
        ValueError: with the widths that exist.
    """
    exists = WIDTHS[levels]
    span = f"{exists[0]} to {exists[-1]} bits" if len(exists) > 1 else f"{exists[0]} bit(s)"
    if 1 in widths and 1 not in exists:
        raise ValueError("1 bit is for levels=binary, which has two; others need at least 2")
    if not any(width in exists for width in widths):
        asked = ", ".join(map(str, sorted(set(widths))))
        raise ValueError(
            f"levels={levels} has {span}, and layers of more have uniform ones. Received: no layer of so few, only "
            f"{asked}. Remedy: weight_bits={exists[-1]}"
        )
