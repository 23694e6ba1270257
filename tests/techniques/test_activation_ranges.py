import numpy as np
import pytest

from tfcompress import keras_door as kd


@pytest.mark.parametrize("samples", [np.array([[0.5, 2.0], [-3.0, 1.0]]), np.array([[1.0, 2.0]]), np.zeros((2, 2))])
def test_an_activation_range_holds_zero_and_what_was_observed(samples):
    from tfcompress.techniques._activation_ranges import ActivationQuantizer
    from tfcompress.techniques._ranges import Extremes

    tf = kd.tf
    quantizer, extremes = ActivationQuantizer(), Extremes()
    variables = {"min_var": tf.Variable(0.0), "max_var": tf.Variable(0.0)}
    quantizer.observers = {variables["min_var"].ref(): extremes}
    seen = quantizer(tf.constant(samples, tf.float32), training=False, weights=variables)
    np.testing.assert_array_equal(seen, samples.astype(np.float32))
    assert extremes.low == min(0, samples.min())
    assert extremes.high == max(0, samples.max())


@pytest.mark.parametrize(("least", "most"), [(-1.0, 2.0), (0.0, 1.5), (-0.7, 0.0)])
def test_learned_ends_have_the_gradients_of_clipping_and_of_rounding(least, most):
    from tfcompress.techniques._activation_ranges import round_within

    tf, rng = kd.tf, np.random.default_rng(0)
    values = rng.normal(size=(4, 5, 6)).astype(np.float32)
    upstream = rng.normal(size=values.shape).astype(np.float32)
    ends = [tf.Variable(least), tf.Variable(most)]
    with tf.GradientTape() as tape:
        tape.watch(inputs := tf.constant(values))
        result = round_within(inputs, *ends)
        loss = tf.reduce_sum(result * upstream)
    by_input, by_least, by_most = (part.numpy() for part in tape.gradient(loss, [inputs, *ends]))

    step = (most - least) / 255
    zero = np.round(-least / step)
    integers = np.round(values / step) + zero
    np.testing.assert_allclose(result, (np.clip(integers, 0, 255) - zero) * step, atol=1e-5)
    below, above = values < -zero * step, values > (255 - zero) * step
    inside = ~(below | above)
    np.testing.assert_array_equal(by_input, upstream * inside)
    rounding = (upstream * (np.round(values / step) - values / step))[inside].sum() / 255
    # An end at zero stays there.
    assert by_least == pytest.approx(upstream[below].sum() - rounding if least else 0, rel=1e-3)
    assert by_most == pytest.approx(upstream[above].sum() + rounding if most else 0, rel=1e-3)


def test_ends_that_crossed_zero_still_make_a_range():
    from tfcompress.techniques._activation_ranges import round_within

    values = kd.tf.constant([[-1.0, 0.0, 3.0]])
    np.testing.assert_allclose(round_within(values, 0.5, 2.0), [[0, 0, 2]], atol=1e-6)
    assert np.isfinite(round_within(values, 0.5, -0.5)).all()
