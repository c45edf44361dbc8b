"""How far numbers and vectors are apart: as SciPy and the definitions have it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg, stats

from ecgpipe.analysis import distribution_shift

probabilities = st.lists(
    st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.9, 1.0]) | st.floats(0, 1), min_size=1, max_size=30
)


@given(probabilities, probabilities)
def test_distributions_are_as_far_apart_as_scipy_computes(first: list[float], second: list[float]) -> None:
    ks, wasserstein = distribution_shift.compare_distributions(np.array(first), np.array(second))
    assert ks == pytest.approx(stats.ks_2samp(first, second, method="asymp").statistic, abs=1e-12)
    assert wasserstein == pytest.approx(stats.wasserstein_distance(first, second), abs=1e-12)


def test_pairs_differ_as_scipy_computes() -> None:
    random = np.random.default_rng(2)
    first = np.round(random.random(200), 1)  # with many ties
    second = np.clip(first**2 + 0.1 * random.standard_normal(200), 0, 1)
    found = distribution_shift.compare_pairs(first, second, (0.5, 0.4))
    assert found.mean == pytest.approx(np.mean([b - a for a, b in zip(first, second, strict=True)]))
    assert found.sd == pytest.approx(stats.tstd(second - first))
    assert found.pearson == pytest.approx(stats.pearsonr(first, second).statistic)
    assert found.spearman == pytest.approx(stats.spearmanr(first, second).statistic)
    assert found.up == sum(a < 0.5 and b >= 0.4 for a, b in zip(first, second, strict=True))
    assert found.down == sum(a >= 0.5 and b < 0.4 for a, b in zip(first, second, strict=True))


def test_correlations_that_are_not_defined_are_none() -> None:
    one = distribution_shift.compare_pairs(np.array([0.2]), np.array([0.4]), (0.5, 0.5))
    assert one.mean == pytest.approx(0.2)
    assert (one.sd, one.pearson, one.spearman) == (None, None, None)
    constant = distribution_shift.compare_pairs(np.full(5, 0.1), np.linspace(0, 1, 5), (0.5, 0.5))
    assert (constant.pearson, constant.spearman) == (None, None)


def test_moments_of_pieces_are_those_of_all_and_keep_their_digits_far_from_zero() -> None:
    vectors = 1e6 + np.random.default_rng(3).standard_normal((101, 5))
    found = distribution_shift.compute_moments(vectors[:0])
    for some in np.array_split(vectors, [1, 7, 7, 60]):
        found = distribution_shift.merge_moments(found, distribution_shift.compute_moments(some))
    assert found.n == 101
    np.testing.assert_allclose(found.mean, vectors.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(vectors.T), rtol=1e-6)
    assert (
        distribution_shift.merge_moments(
            distribution_shift.compute_moments(vectors[:0]), distribution_shift.compute_moments(vectors[:0])
        ).n
        == 0
    )


@pytest.mark.parametrize("n", [200, 4])
def test_the_frechet_distance_is_that_of_the_square_root_of_the_product(n: int) -> None:
    random = np.random.default_rng(4)
    first = random.standard_normal((n, 6)) @ random.standard_normal((6, 6))
    second = 0.5 + random.standard_normal((300, 6))
    root = linalg.sqrtm(np.cov(first.T) @ np.cov(second.T)).real
    expected = ((first.mean(axis=0) - second.mean(axis=0)) ** 2).sum() + np.trace(
        np.cov(first.T) + np.cov(second.T) - 2 * root
    )
    found = distribution_shift.compute_frechet(
        distribution_shift.compute_moments(first), distribution_shift.compute_moments(second)
    )
    assert found == pytest.approx(expected, rel=1e-5)  # of few vectors the product is singular
    assert distribution_shift.compute_frechet(
        distribution_shift.compute_moments(second), distribution_shift.compute_moments(second)
    ) == pytest.approx(0, abs=1e-9)
    moved = distribution_shift.compute_frechet(
        distribution_shift.compute_moments(second),
        distribution_shift.compute_moments(second + np.array([3, 4, 0, 0, 0, 0])),
    )
    assert moved == pytest.approx(25)


def hsic_unbiased(first: np.ndarray, second: np.ndarray) -> float:
    """Equation 4 of Song et al. (JMLR 2012), with all products of pairs."""
    n = len(first)
    k, m = first @ first.T, second @ second.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    product = np.trace(k @ m) + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ m).sum()
    return float(product / (n * (n - 3)))


def test_linear_cka_is_that_of_all_products_of_pairs() -> None:
    random = np.random.default_rng(5)
    first, second = random.standard_normal((40, 7)) + 3, random.standard_normal((40, 9)) - 1
    second[:, :5] += 2 * first[:, :5]
    centre = np.eye(40) - 1 / 40
    k, m = centre @ first @ first.T @ centre, centre @ second @ second.T @ centre
    plain, unbiased = distribution_shift.compute_linear_cka(first, second)
    assert plain == pytest.approx(np.sum(k * m) / np.linalg.norm(k) / np.linalg.norm(m))
    expected = hsic_unbiased(first, second) / np.sqrt(hsic_unbiased(first, first) * hsic_unbiased(second, second))
    assert unbiased == pytest.approx(expected)


def test_linear_cka_does_not_see_rotation_and_scale_and_is_near_zero_without_relation() -> None:
    random = np.random.default_rng(6)
    first = random.standard_normal((50, 8))
    rotated = 3 * first @ stats.ortho_group.rvs(8, random_state=7) + 1
    assert list(distribution_shift.compute_linear_cka(first, rotated)) == pytest.approx([1, 1])
    plain, unbiased = distribution_shift.compute_linear_cka(
        random.standard_normal((50, 200)), random.standard_normal((50, 200))
    )
    assert plain == pytest.approx(0.8, abs=0.05)  # too few recordings
    assert unbiased == pytest.approx(0, abs=0.1)
    assert distribution_shift.compute_linear_cka(first[:3], rotated[:3])[1] is None
    assert distribution_shift.compute_linear_cka(np.ones((9, 2)), first[:9]) == (None, None)
