"""Sums over pairs of cosines equal those over a list of all pairs in 50 digits, however many columns and however collapsed."""

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ufm.features import measures
from ufm.features import vectors as summed
from ufm.features.cosine_deviation import cosine_deviation
from ufm.features.vectors import maximal_angle


def by_definition(vectors: np.ndarray) -> tuple[float, float]:
    """Std of the cosines of the pairs, and their mean distance from -1/(C-1), in 50 digits."""
    with mpmath.workdps(50):
        columns = [[mpmath.mpf(float(x)) for x in column] for column in vectors.T]
        C, lengths = len(columns), [mpmath.sqrt(mpmath.fdot(v, v)) for v in columns]
        cosines = [mpmath.fdot(columns[i], columns[j]) / (lengths[i] * lengths[j]) for i in range(C) for j in range(i + 1, C)]
        mean = mpmath.fsum(cosines) / len(cosines)
        variance = mpmath.fsum((x - mean) ** 2 for x in cosines) / max(len(cosines) - 1, 1)
        return float(mpmath.sqrt(variance)), float(mpmath.fsum(abs(x + mpmath.mpf(1) / (C - 1)) for x in cosines) / len(cosines))


def simplex(rng: np.random.Generator, P: int, C: int) -> np.ndarray:
    """A simplex ETF of C columns in P >= C dimensions."""
    return np.linalg.qr(rng.standard_normal((P, C)))[0] @ (np.eye(C) - 1 / C)


@given(st.integers(0, 2**32 - 1), st.integers(2, 13), st.integers(2, 7), st.integers(1, 15), st.booleans())
def test_the_sums_are_those_over_all_pairs(seed: int, C: int, P: int, tile: int, tensor: bool) -> None:
    vectors = np.random.default_rng(seed).standard_normal((P, C))
    deviation, gap = by_definition(vectors)
    given_vectors = torch.from_numpy(vectors) if tensor else vectors
    assert cosine_deviation(given_vectors) == pytest.approx(deviation, rel=1e-12, abs=1e-15)
    assert float(maximal_angle(given_vectors, tile**2)) == pytest.approx(gap, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("P", "C"), [(12, 9), (7, 11)], ids=["C - 1 <= P", "C - 1 > P"])
@pytest.mark.parametrize("spread", [1e-3, 1e-6])
def test_vectors_that_all_but_coincide_keep_their_digits(P: int, C: int, spread: float) -> None:
    """Here cosines are 1 - O(spread^2): a list of them in float64 has lost 11 digits of their deviation at spread = 1e-6."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((P, 1)) + spread * rng.standard_normal((P, C))
    assert cosine_deviation(vectors) == pytest.approx(by_definition(vectors)[0], rel=1e-15 / spread)


@pytest.mark.parametrize("noise", [1e-4, 1e-8, 1e-12])
def test_near_a_simplex_etf_only_round_off_of_the_cosines_is_lost(noise: float) -> None:
    rng = np.random.default_rng(2)
    vectors = simplex(rng, 12, 9) + noise * rng.standard_normal((12, 9))
    deviation, gap = by_definition(vectors)
    for tile in (4, 1024):
        assert cosine_deviation(vectors) == pytest.approx(deviation, abs=2e-16)
        assert float(maximal_angle(vectors, tile**2)) == pytest.approx(gap, abs=2e-16)


def test_many_columns_of_few_dimensions_need_no_more_room_than_two_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    C, P, sizes = 1500, 3, list[int]()
    vectors = torch.from_numpy(np.random.default_rng(3).standard_normal((P, C)))
    unit = vectors / vectors.norm(dim=0)
    cosines = (unit.mT @ unit)[tuple(torch.triu_indices(C, C, 1))]
    inner = summed._absolute_sum
    monkeypatch.setattr(summed, "_absolute_sum", lambda values: (sizes.append(values.numel()), inner(values))[1])
    assert measures.phd_equiangular(vectors) == pytest.approx(float(cosines.std()), rel=1e-12)
    assert measures.phd_maximal_angle(vectors) == pytest.approx(float((cosines + 1 / (C - 1)).abs().mean()), rel=1e-12)
    assert 0 < max(sizes) <= summed.MOST_COSINES


def test_a_zero_vector_is_refused() -> None:
    for measure in (measures.phd_equiangular, measures.phd_maximal_angle):
        with pytest.raises(ValueError, match="a vector is zero"):
            measure(torch.eye(3, 5, dtype=torch.float64))
