"""The sets of integers, each told independently."""

import numpy as np
import pytest

from tfcompress.techniques._levels import WIDTHS, count, levels_at, magnitudes, require_widths


@pytest.mark.parametrize("bits", WIDTHS["power_of_two"])
def test_powers_of_two_number_as_many_as_the_bits(bits):
    sizes = magnitudes("power_of_two", bits)
    assert sizes[0] == 0
    np.testing.assert_array_equal(np.log2(sizes[1:]), np.arange(2 ** (bits - 1) - 1))
    assert count("power_of_two", bits) == 2**bits - 1


def sums_of_powers(bits, width):
    """Li et al. 2020, equation 5, for a magnitude of `bits` in terms of `width` bits."""
    terms = bits // width
    sums = {0.0}
    for term in range(terms):
        powers = [0.0, *(2.0 ** -(term + place * terms) for place in range(2**width - 1))]
        sums = {known + power for known in sums for power in powers}
    return np.array(sorted(sums))


@pytest.mark.parametrize("bits", [3, 5])
def test_additive_powers_are_those_of_the_paper(bits):
    paper = sums_of_powers(bits - 1, width=2)
    np.testing.assert_allclose(magnitudes("additive_powers", bits), paper / paper[1])


def test_an_odd_magnitude_has_one_term_of_two_bits_and_one_of_one():
    expected = sorted(first + second for first in (0, 1 / 2, 1 / 4, 1 / 16) for second in (0, 1 / 8))
    np.testing.assert_array_equal(np.array(magnitudes("additive_powers", 4)) / 16, expected)


def test_every_set_is_exact_in_a_byte_and_as_large_as_its_bits():
    for levels, widths in WIDTHS.items():
        for bits in widths:
            sizes = magnitudes(levels, bits)
            assert sorted(set(sizes)) == list(sizes)
            assert sizes[-1] <= 127
            assert count(levels, bits) == (2 if levels == "binary" else 2**bits - 1)


def test_wider_layers_are_uniform():
    assert [levels_at("additive_powers", bits) for bits in (4, 5, 6, 8)] == ["additive_powers"] * 2 + ["uniform"] * 2


def test_widths_that_do_not_exist_are_refused():
    require_widths([8, 1], "binary")
    require_widths([2, 8], "uniform")
    with pytest.raises(ValueError, match=r"power_of_two has 2 to 4 bits.*only 5, 8\. Remedy: weight_bits=4"):
        require_widths([8, 5], "power_of_two")
    with pytest.raises(ValueError, match="1 bit is for levels=binary"):
        require_widths([1, 8], "uniform")
