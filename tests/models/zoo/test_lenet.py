"""Sizes of Han et al. 2015 (arXiv:1506.02626), tables 3 and 4."""


def test_lenet300_has_267_thousand_parameters(counts):
    expected = (784 * 300 + 300) + (300 * 100 + 100) + (100 * 10 + 10)
    assert counts("lenet300", (28, 28, 1), 10) == (expected, expected) == (266_610, 266_610)


def test_lenet5_has_431_thousand_parameters(counts):
    expected = (25 * 20 + 20) + (25 * 20 * 50 + 50) + (4 * 4 * 50 * 500 + 500) + (500 * 10 + 10)
    assert counts("lenet5", (28, 28, 1), 10) == (expected, expected) == (431_080, 431_080)
