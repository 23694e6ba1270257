from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from tfcompress.vocabulary.promises import Promise, broken_by


@pytest.mark.parametrize(("kind", "group"), [("zeros", None), ("group_zeros", 4)])
def test_zeros_may_be_more_than_promised(kind, group):
    promise = Promise("dense/kernel", kind, 2, group=group)
    assert [promise.is_kept_by(found) for found in (1.999, 2, 3)] == [False, True, True]


@pytest.mark.parametrize("kind", ["distinct", "codewords", "levels"])
def test_values_may_be_fewer_than_promised(kind):
    promise = Promise("dense/kernel", kind, 16)
    assert [promise.is_kept_by(found) for found in (15, 16, 17)] == [True, True, False]


def test_channels_are_counted_along_their_axis():
    promise, kernel = Promise("up/kernel", "channels", 3), np.zeros((2, 2, 3, 5))
    assert (promise.found_in(kernel), promise.found_in(kernel, channel_axis=-2)) == (5, 3)
    assert [promise.is_kept_by(found) for found in (2, 3, 4)] == [True, True, False]
    assert broken_by(kernel, [promise], channel_axis=-2) == []
    assert broken_by(kernel, [promise]) == ["up/kernel must have channels 3, promised by an earlier step, but has 5"]


def test_code_words_are_counted_along_the_inputs_of_a_kernel_and_the_rows_of_a_table():
    rows = np.float32([[1, 2, 3, 4], [3, 4, 1, 2], [1, 2, 1, 2]])
    whole, apart = (Promise("a/kernel", "codewords", 2, scope, group=2) for scope in ("tensor", "subspace"))
    assert whole.found_in(rows.T) == apart.found_in(rows.T) == 2
    mixed = np.float32([[1, 2, 3, 4], [5, 6, 3, 4]])
    assert (whole.found_in(mixed.T), apart.found_in(mixed.T)) == (3, 2)
    assert whole.found_in(mixed, input_axis=-1) == 3
    # In a convolution at every tap: `[height, width, input, output]`, as in the file.
    kernel = np.stack([rows.T, rows.T[::-1]])[None]
    assert (whole.found_in(kernel), apart.found_in(kernel)) == (4, 4)
    assert whole.found_in(np.moveaxis(kernel, -1, 0), channel_axis=0, input_axis=-1) == 4
    assert broken_by(mixed, [whole, apart], input_axis=-1) == [
        "a/kernel must have codewords 2, promised by an earlier step, but has 3"
    ]


@pytest.mark.parametrize(
    ("values", "levels"), [([-7, 7], 15), ([-3, 7], 15), ([-8, 7], 16), ([-8, 8], 17), ([0, 0], 1), ([-128, 5], 256)]
)
def test_levels_are_those_of_the_grid_that_holds_the_values(values, levels):
    assert Promise("a/kernel", "levels", 16).found_in(np.array([values], np.int8)) == levels


def test_a_promise_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Promise("dense/kernel", "zeros", 0.5).bound = 0.1
