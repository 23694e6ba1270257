from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from tfcompress.vocabulary.promises import Promise, broken_by


@pytest.mark.parametrize(("kind", "group"), [("zeros", None), ("group_zeros", 4)])
def test_zeros_may_be_more_than_promised(kind, group):
    promise = Promise("dense/kernel", kind, 2, group=group)
    assert [promise.is_kept_by(found) for found in (1.999, 2, 3)] == [False, True, True]


@pytest.mark.parametrize("kind", ["distinct", "levels"])
def test_values_may_be_fewer_than_promised(kind):
    promise = Promise("dense/kernel", kind, 16)
    assert [promise.is_kept_by(found) for found in (15, 16, 17)] == [True, True, False]


def test_channels_are_counted_along_their_axis():
    promise, kernel = Promise("up/kernel", "channels", 3), np.zeros((2, 2, 3, 5))
    assert (promise.found_in(kernel), promise.found_in(kernel, channel_axis=-2)) == (5, 3)
    assert [promise.is_kept_by(found) for found in (2, 3, 4)] == [True, True, False]
    assert broken_by(kernel, [promise], channel_axis=-2) == []
    assert broken_by(kernel, [promise]) == ["up/kernel must have channels 3, promised by an earlier step, but has 5"]


def test_a_promise_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Promise("dense/kernel", "zeros", 0.5).bound = 0.1
