"""Embeddings of several models: CKA as its definition with all pairs of recordings, neighbours as scikit-learn's."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from ecgpipe.analysis import distribution_shift, representations


def made(n: int = 90) -> list[np.ndarray]:
    random = np.random.default_rng(5)
    base = random.standard_normal((n, 6))
    return [
        (base + 40).astype(np.float32),
        (base @ random.standard_normal((6, 9)) + random.standard_normal((n, 9))).astype(np.float32),
        random.standard_normal((n, 4)).astype(np.float32),
    ]


def gram_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Kornblith et al. 2019, equation 3, with matrices of all pairs of recordings."""
    n = len(first)
    centre = np.eye(n) - 1 / n
    kernels = [centre @ (values.astype(float) @ values.astype(float).T) @ centre for values in (first, second)]
    hsic = [np.trace(a @ b) for a, b in ((kernels[0], kernels[1]), (kernels[0],) * 2, (kernels[1],) * 2)]
    return float(hsic[0] / np.sqrt(hsic[1] * hsic[2]))


def unbiased_hsic(first: np.ndarray, second: np.ndarray) -> float:
    """Song et al. 2012, equation 5."""
    n = len(first)
    kernels = [values.astype(float) @ values.astype(float).T for values in (first, second)]
    for kernel in kernels:
        np.fill_diagonal(kernel, 0)
    k, other = kernels
    one = np.ones(n)
    total = (one @ k @ one) * (one @ other @ one) / ((n - 1) * (n - 2))
    return float((np.trace(k @ other) + total - 2 / (n - 2) * (one @ k @ other @ one)) / (n * (n - 3)))


@pytest.mark.parametrize("rows", [7, 4096])
def test_cka_is_that_of_all_pairs_of_recordings(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(representations, "ROWS", rows)
    embeddings = made()
    found = representations.compute_cka(embeddings)
    for one, first in enumerate(embeddings):
        for other, second in enumerate(embeddings):
            assert found.plain[one, other] == pytest.approx(gram_cka(first, second), rel=1e-5)
            own = unbiased_hsic(first, first) * unbiased_hsic(second, second)
            expected = unbiased_hsic(first, second) / np.sqrt(own)
            assert found.unbiased[one, other] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    pair = distribution_shift.compute_linear_cka(*(values.astype(float) for values in embeddings[:2]))
    assert (found.plain[0, 1], found.unbiased[0, 1]) == pytest.approx(pair)


def test_cka_does_not_change_when_a_representation_is_rotated_and_scaled() -> None:
    values = made()[0].astype(float)
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0]
    assert representations.compute_cka([values, 3 * values @ turn + 5]).plain[0, 1] == pytest.approx(1)


def test_cka_of_a_constant_representation_and_of_few_recordings_is_not_defined() -> None:
    found = representations.compute_cka([np.ones((10, 3)), made(10)[1]])
    assert np.isnan(found.plain[0]).all()
    assert np.isnan(found.plain[0, 1])
    assert found.plain[1, 1] == pytest.approx(1)
    few = representations.compute_cka([values[:3] for values in made()])
    assert np.isnan(few.unbiased).all()
    assert np.isfinite(few.plain).all()


def nearest(values: np.ndarray, count: int) -> list[set[int]]:
    search = NearestNeighbors(n_neighbors=count, metric="cosine").fit(values.astype(float))
    return [set(map(int, row)) for row in search.kneighbors(return_distance=False)]


def test_neighbours_in_common_are_scikit_learns() -> None:
    embeddings = made()
    found = representations.measure_overlap(embeddings, 10)
    by_model = [nearest(values, 10) for values in embeddings]
    for one, first in enumerate(by_model):
        for other, second in enumerate(by_model):
            expected = np.mean([len(a & b) / 10 for a, b in zip(first, second, strict=True)])
            assert found.share[one, other] == pytest.approx(expected)
    assert (found.queries, found.recordings, found.nearest) == (90, 90, 10)
    assert found.chance == pytest.approx(10 / 89)


def test_a_patients_own_recordings_are_no_neighbours() -> None:
    random = np.random.default_rng(2)
    base = np.repeat(random.standard_normal((12, 5)), 2, axis=0)  # two of each patient, nearly alike
    embeddings = [base + 0.01 * random.standard_normal(base.shape), random.standard_normal((24, 5))]
    patients = np.arange(24) // 2
    found = representations.measure_overlap(embeddings, 3, patients)
    expected = []
    for row in range(24):
        others = np.flatnonzero(patients != patients[row])
        sets = []
        for values in embeddings:
            directions = values / np.linalg.norm(values, axis=1, keepdims=True)
            sets.append(set(others[np.argsort(-(directions[others] @ directions[row]))[:3]]))
        expected.append(len(sets[0] & sets[1]) / 3)
    assert found.share[0, 1] == pytest.approx(np.mean(expected))


def test_only_some_are_searched_for_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(representations, "QUERIES", 20)
    assert representations.measure_overlap(made(), 10).queries == 20


def test_fewer_recordings_than_neighbours_wanted_count_with_those_that_they_have() -> None:
    found = representations.measure_overlap([values[:4] for values in made()], 10)
    np.testing.assert_allclose(found.share, 1)
