import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress import keras_door as kd
from tfcompress.schedules import constant, polynomial

shares = st.floats(0, 1)


def test_a_constant_is_the_same_at_every_step():
    assert [constant(0.3)(step) for step in (0, 1, 10**6)] == [0.3, 0.3, 0.3]
    np.testing.assert_array_equal(constant(0.3)(np.arange(3)), [0.3, 0.3, 0.3])


def test_the_cubic_schedule_follows_equation_1_of_zhu_and_gupta():
    begin, end, initial, final = 20, 120, 0.1, 0.9
    for step in range(begin, end + 1):
        expected = final + (initial - final) * (1 - (step - begin) / (end - begin)) ** 3
        assert polynomial(initial, final, begin, end)(step) == pytest.approx(expected, abs=1e-12)


@given(shares, shares, st.integers(0, 1000), st.integers(1, 1000), st.floats(0.1, 7), st.integers(-3000, 5000))
def test_outside_its_span_a_polynomial_stands_still(initial, final, begin, length, power, step):
    value = polynomial(initial, final, begin, begin + length, power)(step)
    if step <= begin:
        assert value == pytest.approx(initial, abs=1e-12)
    elif step >= begin + length:
        # Exactly: a promise is made of this number. And real, at fractional powers too.
        assert value == final
    else:
        assert min(initial, final) - 1e-12 <= value <= max(initial, final) + 1e-12


@given(st.integers(1, 50), st.floats(0.5, 4))
def test_sparsity_never_falls(length, power):
    values = polynomial(0.0, 0.8, 5, 5 + length, power)(np.arange(0, length + 10))
    assert (np.diff(values) >= 0).all()


def test_graph_and_numpy_agree():
    schedule = polynomial(0.1, 0.9, 3, 17, 2.5)
    steps = np.arange(25, dtype=np.float64)
    inside = kd.tf.function(schedule)(kd.tf.constant(steps))
    np.testing.assert_allclose(inside.numpy(), schedule(steps), rtol=1e-12)


@pytest.mark.parametrize("end", [4, 5])
def test_a_schedule_must_end_behind_its_beginning(end):
    with pytest.raises(ValueError, match=f"begin=5, end={end}"):
        polynomial(0.0, 0.5, begin=5, end=end)
