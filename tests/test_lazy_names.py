import math

import pytest

import tfcompress
from tfcompress import callbacks
from tfcompress.lazy_names import lazy_names


def test_a_name_is_that_of_its_home_and_others_are_refused():
    names, get, listed = lazy_names("here", {"sqrt": "math", "Fraction": "fractions"})
    assert names == listed() == ["Fraction", "sqrt"]
    assert get("sqrt") is math.sqrt
    with pytest.raises(AttributeError, match="module 'here' has no attribute 'cbrt'"):
        get("cbrt")


@pytest.mark.parametrize("package", [tfcompress, callbacks])
def test_all_names_of_a_package_are_there(package):
    assert dir(package) == package.__all__
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
        _ = package.nothing
