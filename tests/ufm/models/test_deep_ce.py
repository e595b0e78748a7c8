"""Deep linear heads under cross-entropy: the quasi-norm, the lowest structures against searches over all ranks, the domain."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from tests.ufm.models.oracles import assert_as_predicted
from tests.ufm.models.problems import SEEDS
from ufm.models.base import simulate
from ufm.models.garrod_keating import DeepCrossEntropy, structures
from ufm.models.zhu import Zhu


def value_and_gradient(x: np.ndarray, C: int, r: int, price: float, p: float) -> tuple[float, np.ndarray]:
    """Mean cross-entropy plus price sum sigma^p of Z = A B^T, written out apart from the model; A, B (C, r)."""
    A, B = x.reshape(2, C, r)
    Z = A @ B.T
    top = Z.max(0)
    e = np.exp(Z - top)
    U, s, Vt = (part[..., :r] if k < 2 else part[:r] for k, part in enumerate(np.linalg.svd(Z)))
    s = np.maximum(s, 1e-300)
    value = float((top + np.log(e.sum(0)) - np.diag(Z)).mean() + price * (s**p).sum())
    G = (e / e.sum(0) - np.eye(C)) / C + price * p * (U * s ** (p - 1)) @ Vt
    return value, np.concatenate([(G @ B).ravel(), (G.T @ A).ravel()])


def search(model: DeepCrossEntropy, rank: int, tries: int) -> float:
    """The lowest value over logits of at most this rank that descents from random starts reach."""
    rng = np.random.default_rng(rank)
    arguments = (model.C, rank, model.price, model.power)
    starts = [rng.choice([1.0, 2.0]) * rng.standard_normal(2 * model.C * rank) for _ in range(tries)]
    options = {"maxiter": 400}
    return min(minimize(value_and_gradient, x, arguments, "L-BFGS-B", jac=True, options=options).fun for x in starts)


def of_price(c: float, C: int, layers: int, N: int = 1, P: int = 9) -> DeepCrossEntropy:
    """A model whose (N lw^M lh)^{1/L} is c."""
    decay = c / N ** (1 / (layers + 1))
    return DeepCrossEntropy(C=C, N=N, P=P, layers=layers, lambda_w=decay, lambda_h=decay)


@given(st.integers(1, 4), SEEDS, st.floats(0.2, 3), st.floats(0.2, 3))
def test_penalties_of_factors_are_at_least_the_quasi_norm_of_their_product(M, seed, lw, lh):
    rng = np.random.default_rng(seed)
    factors = [rng.standard_normal(shape) for shape in ((3, 5), *[(5, 5)] * (M - 1), (5, 7))]
    s, L = np.linalg.svd(np.linalg.multi_dot(factors), compute_uv=False), M + 1
    penalties = lw / 2 * sum((F**2).sum() for F in factors[:-1]) + lh / 2 * (factors[-1] ** 2).sum()
    assert penalties >= L / 2 * (lw**M * lh) ** (1 / L) * (s ** (2 / L)).sum() * (1 - 1e-12)


@given(st.sampled_from([2, 3, 4, 5, 6, 8, 9]))
def test_structures_are_centred_projections_of_their_rank_that_tell_all_classes_apart(C):
    for structure in structures(C):
        Pi = structure.projection
        assert np.allclose(Pi @ Pi.T, Pi, atol=1e-14)
        assert np.allclose(Pi.sum(0), 0, atol=1e-14)
        assert np.trace(Pi) == pytest.approx(structure.rank, abs=1e-12)
        assert (np.diag(Pi)[None] - Pi + 9 * np.eye(C)).min() > 0.01
        assert np.allclose(np.sort(Pi, 0), np.sort(Pi, 0)[:, :1], atol=1e-14)


@settings(max_examples=6, deadline=None)
@given(
    st.sampled_from([(2, 3), (3, 2), (3, 4), (4, 2), (4, 3), (5, 3), (5, 1), (6, 2), (6, 4), (7, 1)]),
    st.floats(0.002, 0.04),
    SEEDS,
)
def test_solves_end_at_the_lowest_structure(case, c, seed):
    C, M = case
    model = of_price(c, C, M, N=3, P=C + 1)
    values = sorted(row[0] for row in model.candidates)
    if (M == 1 or C == 2 or model.lowest[0] < (C - 2) / C * np.log(2)) and np.diff(values[:2]).min(initial=1) > 1e-4:
        assert_as_predicted(simulate(model, seed))


@pytest.mark.parametrize(("C", "M", "c", "name"), [
    (3, 3, 0.01, "simplex"),
    (4, 2, 0.01, "simplex"),
    (4, 3, 0.02, "2 orthogonal simplices of 2"),
    (5, 3, 0.01, "polygon"),
    (6, 2, 0.02, "3 orthogonal simplices of 2"),
    (6, 4, 0.01, "polygon"),
])  # fmt: skip
def test_searches_over_all_ranks_end_at_the_lowest_structure(C, M, c, name):
    model = of_price(c, C, M)
    model.check_domain()
    value, _, structure = model.lowest
    assert structure is not None
    assert structure.name == name
    lowest = {rank: search(model, rank, 6 if rank == structure.rank else 3) for rank in range(1, C)}
    assert min(lowest.values()) == pytest.approx(value, abs=1e-7)
    assert min(lowest, key=lambda rank: lowest[rank]) == structure.rank


def test_where_the_domain_ends_other_solutions_lie_below_the_structures():
    five, three = of_price(0.01, 5, 2), of_price(0.09, 3, 7)
    assert search(five, 3, 8) < five.lowest[0] - 1e-4
    assert search(three, 1, 6) < three.lowest[0] - 0.01
    for model, words in ((five, "not known"), (three, "weaker weight decay"), (of_price(0.01, 8, 2), "C = 8")):
        with pytest.raises(ValueError, match=words):
            model.check_domain()
    with pytest.raises(ValueError, match="P = 2 < C - 1"):
        of_price(0.01, 4, 2, P=2).check_domain()
    with pytest.raises(ValueError, match="layers = 0"):
        DeepCrossEntropy(layers=0)


def test_strong_decay_ends_at_zero():
    for model in (of_price(0.6, 2, 3, P=4), of_price(0.5, 4, 1, P=5)):
        assert model.lowest[1:] == (0.0, None)
        assert_as_predicted(simulate(model, 1))


@given(st.integers(2, 9), st.floats(0.01, 0.09))
def test_one_layer_is_the_model_of_two_factors(C, c):
    deep = of_price(c / C, C, 1, P=C)
    zhu = Zhu(C=C, N=1, P=C, lambda_w=deep.lambda_w, lambda_h=deep.lambda_h)
    assert deep.predicted()["minimum"] == pytest.approx(zhu.predicted()["minimum"], rel=1e-12)
    assert deep.predicted()["H_squared_norm"] == pytest.approx(zhu.predicted()["H_squared_norm"], rel=1e-10)


@pytest.mark.parametrize(("C", "L"), [(C, L) for C in (4, 6, 8) for L in (3, 4, 6)])
def test_orthogonal_pairs_beat_deep_collapse_in_the_limit_of_no_decay_where_2_to_the_p_is_small(C, L):
    """Margins of 1 cost C - 1 at the simplex and (C/2) 2^{2/L} by pairs: 4 classes need L >= 4, more classes L >= 3."""
    simplex, pairs = (
        next(value for value, _, x in of_price(1e-9, C, L - 1).candidates if x.name == name)
        for name in ("simplex", f"{C // 2} orthogonal simplices of 2")
    )
    assert (pairs < simplex) == (C / 2 * 2 ** (2 / L) < C - 1)
