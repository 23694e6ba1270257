import numpy as np
import pytest

from tfcompress.evaluate import agreement, output_step, predict
from tfcompress.vocabulary.errors import EvaluationError


def test_counts_in_output_steps():
    expected = np.array([[0.0, 1.0], [0.5, 0.25]])
    actual = np.array([[0.25, 1.0], [0.0, 0.25]])
    found = agreement(expected, actual, 0.25)
    assert (found.max_steps, found.mean_steps, found.share_within_one_step) == (2.0, 0.75, 0.75)
    assert found.argmax_agreement == 0.5
    assert found.step == 0.25


def test_a_step_off_by_float_rounding_is_within_one_step():
    step = np.float32(0.1)
    stored = np.arange(-128, 127)
    expected = (stored + 1).astype(np.float32) * step
    actual = stored.astype(np.float32) * step
    assert agreement(expected, actual, float(step)).share_within_one_step == 1


def test_a_float_file_counts_in_255ths_of_the_range():
    found = agreement(np.array([[-1.0], [4.1]]), np.array([[-1.0], [4.06]]), 0)
    assert found.step == pytest.approx(5.1 / 255)
    assert found.max_steps == pytest.approx(2)
    # The range of an 8-bit output always reaches 0.
    assert agreement(np.array([[255.0]]), np.array([[255.0]]), 0).step == 1


def test_outputs_of_zeros_count_in_units():
    assert agreement(np.zeros((2, 1)), np.array([[0.0], [3.0]]), 0).max_steps == 3


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3, 3)])
def test_argmax_means_nothing_without_classes(shape):
    assert agreement(np.zeros(shape), np.zeros(shape), 1).argmax_agreement is None


@pytest.mark.parametrize(
    ("expected", "actual", "words"),
    [
        (np.zeros((2, 3)), np.zeros((3, 3)), r"\(2, 3\).*\(3, 3\)"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "empty"),
        (np.zeros((1, 1)), np.full((1, 1), np.nan), "finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(expected, actual, words):
    with pytest.raises(EvaluationError, match=words):
        agreement(expected, actual, 1)


def test_a_real_int8_file_agrees_with_its_model(tiny_net):
    found = agreement(
        tiny_net.keras.predict(tiny_net.samples, verbose=0),
        predict(tiny_net.int8, tiny_net.samples),
        output_step(tiny_net.int8),
    )
    assert 0 < found.mean_steps < found.max_steps < 15
    assert found.argmax_agreement > 0.9
