"""Kernels as chains of smaller ones, against NumPy's singular values and products written out."""

import numpy as np
import pytest

from tfcompress.techniques._factorization import ResponsePca, SpatialSvd, Svd, Tucker2, composed

KERNEL = np.random.default_rng(0).normal(size=(3, 2, 5, 7))
PRODUCTS = {
    Svd: "hwir,abro->hwio",
    SpatialSvd: "haix,bwxo->hwio",
    Tucker2: "abix,hwxy,cdyo->hwio",
}


def product(way, kernels):
    return np.einsum(PRODUCTS[way], *kernels)


@pytest.mark.parametrize("way", PRODUCTS)
def test_the_energy_told_is_that_of_the_product(way):
    factorization = way(KERNEL)
    for share in (0.2, 0.5, 0.8):
        ranks = tuple(max(1, int(share * full)) for full in factorization.full_ranks)
        factors = factorization.factors(*ranks)
        assert [kernel.shape for kernel in factors.kernels] == list(factorization.shapes(*ranks))
        error = ((product(way, factors.kernels) - KERNEL) ** 2).sum() / (KERNEL**2).sum()
        # Iteration finds better subspaces for Tucker-2 than those whose energy is known beforehand.
        assert 1 - error >= factorization.kept(*ranks) - 1e-9
        if way is not Tucker2:
            assert 1 - error == pytest.approx(factorization.kept(*ranks))
    assert factorization.kept(*factorization.full_ranks) == 1


@pytest.mark.parametrize(
    ("way", "matrix"),
    [
        (Svd, KERNEL.reshape(30, 7)),
        (SpatialSvd, KERNEL.transpose(0, 2, 1, 3).reshape(15, 14)),
    ],
)
def test_the_error_is_that_of_the_singular_values_dropped(way, matrix):
    values = np.linalg.svd(matrix, compute_uv=False)
    for rank in range(1, len(values) + 1):
        error = np.linalg.norm(product(way, way(KERNEL).factors(rank).kernels) - KERNEL)
        assert error == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), abs=1e-9)


def test_long_and_wide_matrices_are_factored_alike():
    for shape in ((1, 1, 40, 6), (1, 1, 6, 40)):
        kernel = np.random.default_rng(1).normal(size=shape)
        values = np.linalg.svd(kernel[0, 0], compute_uv=False)
        way = Svd(kernel)
        assert way.full_ranks == (6,)
        assert way.kept(4) == pytest.approx((values[:4] ** 2).sum() / (values**2).sum())
        assert np.linalg.norm(product(Svd, way.factors(4).kernels) - kernel) == pytest.approx(
            np.sqrt((values[4:] ** 2).sum())
        )


def test_tucker_energies_are_those_of_the_leading_corner_and_iteration_adds_to_them():
    first = np.linalg.svd(np.moveaxis(KERNEL, 2, 0).reshape(5, -1))[0]
    last = np.linalg.svd(np.moveaxis(KERNEL, 3, 0).reshape(7, -1))[0]
    core = np.einsum("hwio,ia,ob->hwab", KERNEL, first, last)
    way = Tucker2(KERNEL)
    for taken, made in ((1, 1), (3, 2), (4, 6)):
        assert way.kept(taken, made) == pytest.approx((core[..., :taken, :made] ** 2).sum() / (KERNEL**2).sum())
    error = np.linalg.norm(product(Tucker2, way.factors(3, 2).kernels) - KERNEL) ** 2
    assert error < 0.99 * (1 - way.kept(3, 2)) * (KERNEL**2).sum()


def test_a_tucker_rank_that_is_full_has_no_kernel_of_its_own():
    way = Tucker2(KERNEL)
    left = way.factors(5, 3)
    assert [kernel.shape for kernel in left.kernels] == [(3, 2, 5, 3), (1, 1, 3, 7)]
    assert left.windows == Svd.windows
    # Only the outputs are reduced: the best that can be is the singular value decomposition.
    np.testing.assert_allclose(
        product(Svd, left.kernels), product(Svd, Svd(KERNEL).factors(3).kernels), rtol=1e-6, atol=1e-9
    )
    right = way.factors(2, 7)
    assert [kernel.shape for kernel in right.kernels] == [(1, 1, 5, 2), (3, 2, 2, 7)]
    assert [int(np.prod(shape)) for shape in way.shapes(5, 3)] == [0, 90, 21]
    values = np.linalg.svd(np.moveaxis(KERNEL, 2, 0).reshape(5, -1), compute_uv=False)
    assert np.linalg.norm(np.einsum("abix,hwxo->hwio", *right.kernels) - KERNEL) == pytest.approx(
        np.sqrt((values[2:] ** 2).sum())
    )


@pytest.mark.parametrize("way", [*PRODUCTS])
def test_neighbouring_kernels_have_components_of_one_norm(way):
    factorization = way(KERNEL)
    *_, before, after = factorization.factors(*(2 for _ in factorization.full_ranks)).kernels
    made, taken = np.moveaxis(before, 3, 0), np.moveaxis(after, 2, 0)
    np.testing.assert_allclose(*(np.linalg.norm(part.reshape(2, -1), axis=1) for part in (made, taken)))


@pytest.mark.parametrize("way", PRODUCTS)
def test_a_chain_composed_is_one_kernel(way):
    kernels = way(KERNEL).factors(*(3 for _ in way(KERNEL).full_ranks)).kernels
    np.testing.assert_allclose(composed(kernels), product(way, kernels), atol=1e-12)


def test_a_kernel_of_zeros_is_a_product_of_zeros():
    for way in PRODUCTS:
        factorization = way(np.zeros((3, 3, 4, 4)))
        assert factorization.kept(*(1 for _ in factorization.full_ranks)) == 1
        assert not product(way, factorization.factors(*(2 for _ in factorization.full_ranks)).kernels).any()


def correlated(count=500, seed=0):
    """Samples `[count, 12]` that lie near a space of four directions, far from the origin."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 4)) @ rng.normal(size=(4, 12)) + 0.05 * rng.normal(size=(count, 12)) + 3


def answered(samples, factors, bias):
    first, last = (kernel[0, 0] for kernel in factors.kernels)
    return samples @ first @ last + (bias if factors.bias is None else factors.bias)


@pytest.mark.parametrize("outputs", [9, 20])
def test_responses_lose_less_than_kernels_where_inputs_are_correlated(outputs):
    samples, rng = correlated(), np.random.default_rng(3)
    kernel, bias = rng.normal(size=(12, outputs)), rng.normal(size=outputs)
    answers = samples @ kernel + bias
    mean = answers.mean(axis=0)
    covariance = np.cov(answers.T, bias=True)
    way = ResponsePca(kernel[None, None], bias, mean, covariance)
    variances = np.linalg.eigvalsh(covariance)[::-1]
    for rank in (2, 4):
        lost = ((answered(samples, way.factors(rank), bias) - answers) ** 2).sum(axis=1).mean()
        assert lost == pytest.approx(variances[rank:].sum())
        assert way.kept(rank) == pytest.approx(variances[:rank].sum() / variances.sum())
        plain = answered(samples, Svd(kernel[None, None]).factors(rank), bias)
        assert 3 * lost < ((plain - answers) ** 2).sum(axis=1).mean()
    full = answered(samples, way.factors(min(12, outputs)), bias)
    np.testing.assert_allclose(full, answers, rtol=1e-6, atol=1e-6)


def test_ranks_are_multiples_or_full():
    assert [axis.tolist() for axis in Svd(KERNEL).ranks_of(3)] == [[3, 6, 7]]
    assert [axis.tolist() for axis in Tucker2(KERNEL).ranks_of(4)] == [[4, 4, 5, 5], [4, 7, 4, 7]]
