import numpy as np
import pytest
from scipy.cluster.vq import vq

from tfcompress.product_codes import encode, learn, sub_vectors


def values(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_sub_vectors_are_consecutive_along_the_axis():
    kernel = values(3, 3, 8, 5)
    vectors = sub_vectors(kernel, 4, axis=-2)
    assert vectors.shape == (3, 3, 5, 2, 4)
    for y, x, channel, place in np.ndindex(3, 3, 5, 2):
        assert np.array_equal(vectors[y, x, channel, place], kernel[y, x, 4 * place : 4 * place + 4, channel])
    with pytest.raises(ValueError, match="block must divide the values along the axis"):
        sub_vectors(kernel, 3, axis=-2)


@pytest.mark.parametrize("axis", [0, -2, -1])
@pytest.mark.parametrize("books", [1, 3], ids=["layer", "subspace"])
def test_every_sub_vector_becomes_its_nearest_code_word(axis, books):
    array = np.moveaxis(values(5, 4, 12), -1, axis)
    codebooks = values(books, 7, 4, seed=1)
    code = encode(array, codebooks, axis=axis)
    vectors = np.moveaxis(array, axis, -1).reshape(5, 4, 3, 4)
    for i, j, place in np.ndindex(5, 4, 3):
        book = codebooks[place % books]
        nearest = np.square(book - vectors[i, j, place]).sum(-1).argmin()
        assert code.codes[i, j, place] == nearest
        part = np.moveaxis(code.decode(), axis, -1)[i, j, 4 * place : 4 * place + 4]
        assert np.array_equal(part, book[nearest])
    assert code.decode().shape == array.shape


def test_the_error_is_that_of_scipys_vector_quantization():
    kernel = values(16, 24)
    code = learn(kernel, 4, 10, axis=-2, seed=3)
    vectors = kernel.T.reshape(-1, 4)
    indices, distances = vq(vectors, code.codebooks[0])
    assert np.array_equal(code.codes.ravel(), indices)
    share = np.sum(distances.astype(np.float64) ** 2) / np.sum(kernel.astype(np.float64) ** 2)
    assert code.relative_error(kernel) == pytest.approx(share, rel=1e-6)
    assert 0 < share < 1
    assert code.relative_error(code.decode()) == 0


def test_code_words_are_the_means_of_what_is_written_with_them():
    """Lloyd's condition, where k-means has come to rest."""
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(6, 4)).astype(np.float32) * 10
    vectors = middles[rng.integers(0, 6, 300)] + rng.normal(size=(300, 4)).astype(np.float32) / 10
    code = learn(vectors, 4, 6)
    for word in range(6):
        np.testing.assert_allclose(code.codebooks[0, word], vectors[code.codes[:, 0] == word].mean(0), rtol=1e-5)
    found = code.codebooks[0][np.lexsort(code.codebooks[0].T)]
    np.testing.assert_allclose(found, middles[np.lexsort(middles.T)], atol=0.1)


def test_a_codebook_for_each_subspace_knows_only_its_own():
    array = np.concatenate([values(50, 4), 100 + values(50, 4)], axis=1)
    code = learn(array, 4, 8, codebook="subspace")
    assert code.codebooks.shape == (2, 8, 4)
    assert code.codebooks[0].max() < 10 < 90 < code.codebooks[1].min()
    for place in range(2):
        alone = array[:, 4 * place : 4 * place + 4]
        assert len(np.unique(code.decode()[:, 4 * place : 4 * place + 4], axis=0)) <= 8
        assert vq(alone, code.codebooks[place])[0].tolist() == code.codes[:, place].tolist()


def test_the_seed_decides():
    array = values(40, 40)
    first, again, other = (learn(array, 4, 16, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.codes, again.codes)
    assert np.array_equal(first.codebooks, again.codebooks)
    assert not np.array_equal(first.codebooks, other.codebooks)


def test_few_different_sub_vectors_are_kept_as_they_are():
    array = values(3, 4)[np.random.default_rng(0).integers(0, 3, 20)]
    code = learn(array, 4, 9)
    assert np.array_equal(code.decode(), array)
    assert code.codebooks.shape == (1, 9, 4)


@pytest.mark.parametrize(("codewords", "dtype"), [(256, np.uint8), (257, np.uint16)])
def test_codes_are_as_short_as_they_can_be(codewords, dtype):
    array = values(400, 2)
    code = encode(array, array[None, :codewords].copy())
    assert code.codes.dtype == dtype
    assert np.array_equal(code.codes[:codewords, 0], np.arange(codewords))


def test_a_sample_stands_for_very_many_sub_vectors():
    array = values(4000, 2)
    code = learn(array, 2, 4)
    assert code.codes.shape == (4000, 1)
    assert code.relative_error(array) < 0.4
