"""No linear map raises G = Mbar^T Sigma_W^{-1} Mbar: the theorem for every kind of map, any class sizes, any ranks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from manifolds.class_centering import ClassLayout
from tests.strategies import Problem, features, problems
from tests.ufm.ledger.maps import EPS, INVERTIBLE, dense_form, form_of, kinds, matrix, statistics
from ufm.features.ranges import snr_in_range
from ufm.features.snr import snr_spectrum
from ufm.features.statistics import ClassStatistics
from ufm.ledger.discrimination import discrimination

SLACK = 1e-9


def lower(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether first <= second in the Loewner order, to 1e-9 of its size."""
    scale = np.linalg.norm(second, 2) + np.finfo(float).tiny
    return float(np.linalg.eigvalsh(second - first)[0]) >= -SLACK * scale


@given(problems(balanced=False))
def test_the_form_is_that_of_the_definition(problem: Problem) -> None:
    form = form_of(problem.H, problem.layout)
    expected = dense_form(problem.H, problem.layout)
    np.testing.assert_allclose(form.gram, expected, atol=1e-9 * float(np.linalg.norm(expected)))
    assert form.dropped == 0
    assert not form.unbounded.size


@given(problems(balanced=False, few_features=True))
def test_omega_are_the_singular_values_of_the_snr_matrix(problem: Problem) -> None:
    omega = form_of(problem.H, problem.layout).omega
    expected = snr_spectrum(problem.H, problem.layout).omega
    assert len(omega) == problem.layout.C - 1
    np.testing.assert_allclose(omega[: len(expected)], expected, rtol=1e-8, atol=1e-9 * expected[0])
    assert (omega[len(expected) :] < 1e-6 * expected[0]).all()


@given(problems(balanced=False), kinds)
def test_every_linear_map_lowers_the_form(problem: Problem, kind: str) -> None:
    before = form_of(problem.H, problem.layout)
    after = form_of(matrix(kind, problem.P, problem.rng) @ problem.H + 3.0, problem.layout)
    assert not after.unbounded.size
    assert lower(after.gram, before.gram)
    assert (after.omega <= before.omega * (1 + SLACK) + SLACK * before.omega[0]).all()
    assert (after.weighted_omega <= before.weighted_omega * (1 + SLACK) + SLACK * before.weighted_omega[0]).all()


@given(problems(balanced=False), st.sampled_from(INVERTIBLE))
def test_injective_maps_lose_nothing(problem: Problem, kind: str) -> None:
    before = form_of(problem.H, problem.layout)
    after = form_of(matrix(kind, problem.P, problem.rng) @ problem.H, problem.layout)
    np.testing.assert_allclose(after.gram, before.gram, atol=1e-8 * float(np.linalg.norm(before.gram)))
    assert after.rank == problem.P


@given(problems(balanced=False))
def test_equality_iff_nothing_discriminating_is_lost(problem: Problem) -> None:
    """Equality holds for the map to the C - 1 discriminants alone, and fails once a direction of them is removed."""
    before = form_of(problem.H, problem.layout)
    stats = statistics(problem.H, problem.layout)
    directions = np.linalg.solve(stats.sigma_w, stats.centred_means)
    basis = np.linalg.svd(directions)[0][:, : min(problem.layout.C - 1, problem.P)]
    kept = form_of(basis.T @ problem.H, problem.layout)
    np.testing.assert_allclose(kept.gram, before.gram, atol=1e-8 * float(np.linalg.norm(before.gram)))
    away = np.linalg.svd(basis[:, :1])[0][:, 1:]
    lost = form_of(away.T @ problem.H, problem.layout)
    assert np.trace(lost.gram) < np.trace(before.gram) * (1 - 1e-6)


@given(problems(balanced=False), kinds, st.data())
def test_contrasts_of_subsets_and_pairs_obey_it_too(problem: Problem, kind: str, data: st.DataObject) -> None:
    before = form_of(problem.H, problem.layout)
    after = form_of(matrix(kind, problem.P, problem.rng) @ problem.H, problem.layout)
    C = problem.layout.C
    k = data.draw(st.integers(2, C))
    subset = np.sort(problem.rng.choice(C, k, replace=False))
    one_hot = np.eye(C)[:, subset]
    E = one_hot - one_hot.mean(1, keepdims=True)
    assert (after.contrasts(E) <= before.contrasts(E) * (1 + SLACK) + 1e-6 * before.omega[0]).all()
    pair = one_hot[:, :1] - one_hot[:, 1:2]
    gap = statistics(problem.H, problem.layout)
    difference = gap.means @ pair[:, 0]
    mahalanobis = difference @ np.linalg.solve(gap.sigma_w, difference)
    assert before.contrasts(pair)[0] ** 2 == pytest.approx(mahalanobis, rel=1e-8)


@given(problems(balanced=False), kinds, st.data())
def test_a_subset_with_its_own_covariance_obeys_it(problem: Problem, kind: str, data: st.DataObject) -> None:
    C, sizes = problem.layout.C, problem.layout.sizes
    k = data.draw(st.integers(2, C))
    subset = sorted(problem.rng.choice(C, k, replace=False).tolist())
    ends = np.cumsum(sizes)
    columns = np.concatenate([np.arange(ends[c] - sizes[c], ends[c]) for c in subset])
    layout = ClassLayout(tuple(sizes[c] for c in subset))
    if layout.n - layout.C < problem.P:
        return
    H = problem.H[:, columns]
    before, after = form_of(H, layout), form_of(matrix(kind, problem.P, problem.rng) @ H, layout)
    assert lower(after.gram, before.gram)


@given(problems(balanced=False))
def test_concatenation_keeps_and_addition_lowers_what_the_pair_has(problem: Problem) -> None:
    """The pair (skip, branch) has at least the skip's form; their sum, a linear map of the pair, has at most the pair's."""
    branch = np.tanh(matrix("permutation", problem.P, problem.rng) @ problem.H)
    pair = form_of(np.concatenate([problem.H, branch]), problem.layout)
    if pair.unbounded.size:
        return
    skip, total = form_of(problem.H, problem.layout), form_of(problem.H + branch, problem.layout)
    assert lower(skip.gram, pair.gram)
    assert lower(total.gram, pair.gram)


@given(problems(balanced=False), st.booleans())
def test_batch_norm_over_everything_at_once_loses_nothing(problem: Problem, affine: bool) -> None:
    layer = torch.nn.BatchNorm1d(problem.P, affine=affine, eps=1e-9).double()
    out = layer.train()(torch.from_numpy(problem.H.T)).detach().numpy().T
    before, after = form_of(problem.H, problem.layout), form_of(out, problem.layout)
    np.testing.assert_allclose(after.gram, before.gram, atol=1e-8 * float(np.linalg.norm(before.gram)))


def test_batch_norm_by_batches_in_training_mode_can_make_collapse() -> None:
    """Each batch has its own affine map, so that a nuisance shared by a batch is removed: no linear map, and omega grows."""
    rng, layout = np.random.default_rng(0), ClassLayout.equal(2, 64)
    signal = np.repeat([-1.0, 1.0], 64)
    batch = np.tile(np.arange(8), 16)
    H = (signal + 0.1 * rng.standard_normal(128) + 10 * rng.standard_normal(8)[batch])[None]
    out = np.empty_like(H)
    for k in range(8):
        layer = torch.nn.BatchNorm1d(1).double().train()
        out[:, batch == k] = layer(torch.from_numpy(H[:, batch == k].T)).detach().numpy().T
    assert form_of(out, layout).omega[0] > 5 * form_of(H, layout).omega[0]


@given(problems(balanced=False), st.integers(1, 4))
def test_rank_deficient_features_are_counted_and_change_nothing(problem: Problem, extra: int) -> None:
    """Copies, dead units and constants: the form is that of the features without them, and what was dropped is counted."""
    A = problem.rng.standard_normal((extra, problem.P))
    dead = np.concatenate([np.zeros((1, problem.layout.n)), np.full((1, problem.layout.n), 7.3)])
    form = form_of(np.concatenate([problem.H, A @ problem.H, dead]), problem.layout)
    before = form_of(problem.H, problem.layout)
    assert form.dropped == extra + 2
    assert not form.unbounded.size
    np.testing.assert_allclose(form.gram, before.gram, atol=1e-7 * float(np.linalg.norm(before.gram)))


@given(problems(balanced=False))
def test_signal_without_noise_is_infinite_and_the_rest_stays_finite(problem: Problem) -> None:
    """A feature that tells class 0 from the others without any noise: one omega is inf, the others exclude its contrast."""
    C = problem.layout.C
    one_hot = np.repeat(np.eye(C), problem.layout.sizes, axis=1)
    form = form_of(np.concatenate([problem.H, one_hot[:1]]), problem.layout)
    assert np.isinf(form.omega[0])
    assert np.isfinite(form.omega[1:]).all()
    before = form_of(problem.H, problem.layout)
    assert (form.omega[1:] <= before.omega[:-1] * (1 + SLACK)).all()  # interlacing: a contrast less
    assert (form.omega >= before.omega * (1 - SLACK)).all()  # and the theorem: H is a linear map of the features here
    turn = np.linalg.qr(problem.rng.standard_normal((problem.P + 1, problem.P + 1)))[0]
    turned = form_of(turn @ np.concatenate([problem.H, one_hot[:1]]), problem.layout)  # no feature is without noise now
    assert np.isinf(turned.omega[0])
    np.testing.assert_allclose(turned.omega[1:], form.omega[1:], rtol=1e-7, atol=1e-7 * before.omega[0])


def test_for_the_pseudo_inverse_alone_the_theorem_is_false() -> None:
    """Features (noise, signal): Mbar^T Sigma_W^+ Mbar is 0, after their sum it is not; in the extended sense it falls."""
    layout = ClassLayout.equal(2, 50)
    noise = np.random.default_rng(1).standard_normal(100)
    noise -= np.repeat([noise[:50].mean(), noise[50:].mean()], 50)
    H = np.stack([noise, np.repeat([-1.0, 1.0], 50)])
    before, after = form_of(H, layout), form_of(H.sum(0, keepdims=True), layout)
    assert np.trace(before.gram) < 1e-12 < 1 < np.trace(after.gram)
    assert np.isinf(before.omega[0])
    assert np.isfinite(after.omega[0])


@given(problems(balanced=False), st.integers(1, 3))
def test_where_no_signal_is_lost_the_values_are_those_of_the_range(problem: Problem, extra: int) -> None:
    H = np.concatenate([problem.H, problem.rng.standard_normal((extra, problem.P)) @ problem.H])
    stats = statistics(H, problem.layout)
    tensors = ClassStatistics(*(torch.from_numpy(a) for a in (stats.counts, stats.means, stats.sigma_w, stats.class_variances)))
    known = snr_in_range(tensors, EPS)
    for form in (discrimination(stats, EPS), discrimination(tensors, EPS)):
        assert form.dropped == known.dropped
        np.testing.assert_allclose(form.omega[: len(known.omega)], known.omega, rtol=1e-6, atol=1e-6 * known.omega[0])


def test_nonlinearities_can_raise_it() -> None:
    """The theorem's tests could not pass for a code that never finds growth."""
    layout, rng = ClassLayout.equal(2, 500), np.random.default_rng(2)
    H = features(layout, 1, rng, 0) * 0 + np.repeat([[-2.0, 2.0]], 500, axis=1) + rng.standard_normal((1, 1000))
    after = form_of(np.concatenate([np.maximum(H + 1.5, 0), np.maximum(1.5 - H, 0)]), layout)
    assert after.omega[0] > 1.2 * form_of(H, layout).omega[0]


@pytest.mark.parametrize("mean", [1e3, 1e7])
@pytest.mark.parametrize("shrink", [1e-3, 1e-6])
def test_values_hold_where_collapse_lives(mean: float, shrink: float) -> None:
    """Large means, tiny and badly scaled deviations: omega against that of the same problem without either."""
    layout, rng = ClassLayout((40, 50, 70)), np.random.default_rng(3)
    D = features(layout, 6, rng, 0.0)
    D = layout.deviations(D)
    M = np.linalg.qr(rng.standard_normal((6, 3)))[0] * 5
    plain = form_of(D + layout.spread(M), layout).omega
    scales = np.logspace(0, -6, 6)[:, None] * shrink
    moved = form_of(scales * (D + layout.spread(M)) + mean * scales, layout).omega
    np.testing.assert_allclose(moved, plain, rtol=20 * EPS * mean + 1e-9)


def test_complete_collapse_is_refused() -> None:
    layout = ClassLayout.equal(3, 4)
    with pytest.raises(ValueError, match="collapse is complete"):
        form_of(np.repeat(np.eye(3), 4, axis=1), layout)
