"""Size by the equations of Vaswani et al. 2017, and what attention starts from."""

import numpy as np

from tfcompress.models import zoo


def test_transformer_text_has_the_size_of_its_equations(counts):
    words = 5000 * 32
    positions = 32 * 64 + 64 * 64
    attention = 4 * (64 * 64 + 64)
    hidden = (64 * 128 + 128) + (128 * 64 + 64)
    norms = 2 * 2 * 64
    expected = words + positions + attention + hidden + norms + (64 * 4 + 4)
    assert counts("transformer_text", (64,), 4, vocabulary_size=5000) == (expected, expected)
    assert expected == 199_876


def test_the_order_of_words_matters():
    model = zoo.build("transformer_text", (6,), 3, vocabulary_size=9)
    tokens = np.array([[1, 2, 3, 4, 5, 6]], np.int32)
    assert np.abs(model(tokens).numpy() - model(tokens[:, ::-1]).numpy()).max() > 1e-5


def test_query_key_and_value_start_differently():
    attention = zoo.build("transformer_text", (6,), 3, vocabulary_size=9).get_layer("attention")
    kernels = [weight.numpy().ravel() for weight in attention.weights if "kernel" in weight.name]
    assert len(kernels) == 4
    assert len({kernel.tobytes() for kernel in kernels}) == 4
    # Glorot and Bengio 2010 for a matrix of 64 x 64.
    assert all(abs(kernel.std() - np.sqrt(2 / 128)) < 0.01 for kernel in kernels)


def test_word_vectors_start_at_length_one():
    words = zoo.build("transformer_text", (6,), 3, vocabulary_size=2000).get_layer("words").get_weights()[0]
    assert abs(np.linalg.norm(words, axis=1).mean() - 1) < 0.02
