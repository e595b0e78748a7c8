"""What is conserved, over all epochs: jitter is no change, a change is none of jitter, and no basis of the features matters."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sims.comparison.controls import Case, make
from tests.ufm.compare.descents import descend, descend_layer, entry_of, labelled, measured, white_start
from ufm.compare.conserved import (
    change_of_entries,
    change_of_layer,
    change_seen_by_class_means,
    conserved_products,
    largest_change,
)
from ufm.compare.coordinates import Entry, LayerBelow, gram_of_spectrum
from ufm.compare.implied import contradiction, seen_statistics
from ufm.compare.outcome import NAMED, UNDECIDED, Measured
from ufm.compare.selection import judge

SIZES = [23, 17, 13, 10]
MOST = 0.1


def root_of(sigma: np.ndarray) -> np.ndarray:
    values, E = np.linalg.eigh(sigma)
    return (E * np.sqrt(np.clip(values, 0, None))) @ E.T


def symmetric(rng: np.random.Generator, P: int, size: float) -> np.ndarray:
    """exp of a random symmetric matrix whose diagonal has this standard deviation, its other entries 1 / sqrt(2) of it."""
    X = size * rng.standard_normal((P, P))
    values, E = np.linalg.eigh((X + X.T) / 2)
    return (E * np.exp(values)) @ E.T


def with_sigma(run: Measured, factors: np.ndarray) -> list[Entry]:
    """Class statistics with the SNR of a run at every epoch, Sigma_W = R R^T, R = factor (P, P) times the root of the first."""
    assert run.entry is not None
    q = np.sqrt(run.entry.priors)
    root = root_of(run.entry.sigma_w)
    U, _, Vt = np.linalg.svd(np.linalg.solve(root, run.entry.M * q), full_matrices=False)
    polar = U[:, : len(q) - 1] @ Vt[: len(q) - 1]
    grams = gram_of_spectrum(run.omega, run.V, run.entry.priors)
    return [
        Entry(run.counts, R @ root @ polar @ root_of(G) / q, R @ root @ root @ R.T) for R, G in zip(factors, grams, strict=True)
    ]


def volume_kept(T: int, P: int, by: float, seed: int = 0) -> np.ndarray:
    """Diagonal factors of determinant 1, by which Sigma_W is at last exp(-by) to exp(by) of the first. (T, P, P)"""
    logs = np.random.default_rng(seed).permutation(np.linspace(-0.5, 0.5, P)) * by
    return np.array([np.diag(np.exp(s * logs)) for s in np.linspace(0, 1, T)])


@pytest.mark.parametrize("model", ["renormalized", "embedded"])
@pytest.mark.parametrize("by", [0.18, 0.62])  # 20 and 85 % in the direction that changes most
def test_a_sigma_w_that_grows_in_one_direction_and_shrinks_in_another_gets_no_name(model: str, by: float) -> None:
    """Class means that move so that the SNR is that of the law at every epoch, and make all of its growth."""
    (run,) = make(Case(model, C=4, T=12, noise=0.0, anisotropy=0.7, unequal=True), 0)
    kept = [seen_statistics(with_sigma(run, volume_kept(12, 8, 0.0)))]
    moved = [seen_statistics(with_sigma(run, volume_kept(12, 8, by)))]
    assert moved[0].split.share.value == pytest.approx(1.0, abs=0.05)
    assert (judge([run], seen=kept).outcome, judge([run], seen=kept).name) == (NAMED, model)
    verdict = judge([run], seen=moved)
    assert (verdict.outcome, verdict.compatible) == (UNDECIDED, (model,))
    assert "Sigma_W, which it conserves up to a common factor, has changed by" in verdict.reason


@given(seed=st.integers(0, 10**6), r=st.sampled_from([0.3, 1.0, 4.0, np.inf]))
def test_both_changes_are_what_the_definitions_say(seed: int, r: float) -> None:
    """Of two epochs, from A itself: neither Woodbury's identity nor inner products."""
    rng = np.random.default_rng(seed)
    counts = np.array([5, 9, 7])
    entries = []
    for _ in range(2):
        M, root = 2 * rng.standard_normal((6, 3)), symmetric(rng, 6, 0.3)
        entries.append(Entry(counts, M - (M @ counts / counts.sum())[:, None], root @ root.T))
    q = np.sqrt(entries[0].priors)
    S = [e.M * q for e in entries]
    A = [e.sigma_w + s @ s.T / r for e, s in zip(entries, S, strict=True)]
    products = conserved_products(entries)

    def factor(c: float) -> float:
        return c if np.isinf(r) else min(c, 1.0)

    nearest = float((A[0] * A[1]).sum() / (A[0] * A[0]).sum())
    c = factor(nearest)
    change = np.linalg.norm(A[1] / c - A[0]) / np.linalg.norm(A[0])
    assert change_of_entries(products, r) == (pytest.approx(nearest), pytest.approx(change, abs=1e-6))
    frame = np.linalg.qr(np.eye(3) - np.outer(q, q))[0][:, :2]  # of zero sum: any basis of it
    N, still = (frame.T @ S[1].T @ np.linalg.inv(a) @ S[1] @ frame for a in (A[1], A[0]))
    C = root_of(still) @ np.linalg.inv(N) @ root_of(still)
    c = factor(float(np.trace(C)) / 2)
    assert change_seen_by_class_means(products, r) == pytest.approx(np.linalg.norm(C / c - np.eye(2)) / np.sqrt(2), abs=1e-6)


@pytest.mark.parametrize(("C", "T"), [(4, 12), (10, 12), (4, 60)])
@pytest.mark.parametrize("rho", [0.0, 0.95])
def test_jitter_of_three_per_cent_is_no_change_of_sigma_w(C: int, T: int, rho: float) -> None:
    rng, beyond = np.random.default_rng(C + T), 0
    for seed in range(20):
        (run,) = make(Case("renormalized", C=C, T=T, noise=0.01), seed)
        assert run.entry is not None
        P, jitter = len(run.entry.M), [rng.standard_normal((len(run.entry.M),) * 2)]
        for _ in range(T - 1):
            jitter.append(rho * jitter[-1] + np.sqrt(1 - rho**2) * rng.standard_normal((P, P)))
        factors = np.array([np.eye(P) + 0.015 * (X + X.T) / 2 for X in jitter])  # 3 % of Sigma_W
        products = conserved_products(with_sigma(run, factors))
        beyond += not max(change_of_entries(products, np.inf)[1], change_seen_by_class_means(products, np.inf)) <= MOST
    assert beyond == 0


def test_jitter_too_large_to_see_a_change_of_a_tenth_in_gets_no_name() -> None:
    for seed in range(20):
        off = 0.5 * np.random.default_rng(seed).standard_normal((12, 3))
        assert largest_change(off @ off.T / 3) > MOST


@pytest.mark.parametrize("T", [2, 3, 4, 7, 8, 12, 13, 60])
@pytest.mark.parametrize("shape", ["steady", "step", "bump", "first", "last"])
def test_a_change_of_any_shape_is_found_among_any_number_of_epochs(shape: str, T: int) -> None:
    at = np.arange(T)
    along = {
        "steady": at / (T - 1),
        "step": (at >= T // 2).astype(float),
        "bump": np.sin(np.pi * at / (T - 1)) if T > 2 else at / 1.0,
        "first": (at > 0).astype(float),
        "last": (at == T - 1).astype(float),
    }[shape]
    for change in (0.05, 0.2):
        largest = largest_change(np.outer(along, along) * change**2)
        assert (largest > MOST) is (change > MOST)
        assert largest <= 1.2 * change
    assert shape != "steady" or T == 2 or largest == pytest.approx(0.2)


@pytest.mark.parametrize(("dtype", "far"), [("float64", 0.0), ("float32", 0.0), ("float64", 1e6)])
@pytest.mark.parametrize("r", [1.0, 4.0])
def test_descent_conserves_in_both_views_also_in_float32_and_far_from_zero(dtype: str, far: float, r: float) -> None:
    rng, y = np.random.default_rng(1), labelled(SIZES)
    E = np.linalg.qr(rng.standard_normal((7, 7)))[0]
    start = (E * np.exp(rng.uniform(-0.5, 0.5, 7))) @ E.T @ white_start(rng, SIZES, 7, 1.0)
    rows = [(H + far).astype(dtype).astype(float) for H in descend(start, y, 0.8 / r, 1000, 100, r)]
    products = conserved_products([entry_of(H, y) for H in rows])
    assert change_of_entries(products, r)[1] < 0.01
    assert change_seen_by_class_means(products, r) < 0.01
    assert change_of_entries(products, 8 * r)[1] > MOST


def test_a_fixed_basis_of_the_features_changes_nothing_that_class_means_see() -> None:
    rng, y = np.random.default_rng(2), labelled(SIZES)
    start = white_start(rng, SIZES, 7, 1.0)
    basis = rng.standard_normal((7, 7)) * np.exp(rng.uniform(-3, 3, 7))
    rows = [H * np.exp(0.05 * k * np.linspace(-1, 1, 7))[:, None] for k, H in enumerate(descend(start, y, 0.8, 1000, 100))]
    seen, turned = (conserved_products([entry_of(A @ H, y) for H in rows]) for A in (np.eye(7), basis))
    for r in (1.0, np.inf):
        change = change_seen_by_class_means(seen, r)
        assert change > MOST
        assert change_seen_by_class_means(turned, r) == pytest.approx(change, rel=1e-6)


def test_class_means_that_lose_a_direction_of_the_start_are_not_as_any_flow_has_them() -> None:
    y = labelled(SIZES)
    first = entry_of(white_start(np.random.default_rng(0), SIZES, 7, 1.0), y)
    U, s, Vt = np.linalg.svd(first.M, full_matrices=False)
    lost = Entry(first.counts, (U[:, :1] * s[0]) @ Vt[:1], first.sigma_w)
    centred = Entry(first.counts, lost.M - (lost.M @ lost.priors)[:, None], first.sigma_w)
    assert change_seen_by_class_means(conserved_products([first, first, centred]), np.inf) == np.inf


def test_plain_descent_seen_in_a_basis_that_moves_where_features_vary_little_gets_no_name() -> None:
    """The entries of Sigma_T, whose largest directions stand still, do not tell; the directions of the class means do."""
    rng, y = np.random.default_rng(3), labelled(SIZES)
    start = white_start(rng, SIZES, 4, 1.0)
    scale = np.r_[np.ones(4), np.full(2, 30.0)]
    wide = np.vstack([start, rng.standard_normal((2, len(y)))]) * scale[:, None]
    rows = descend(wide, y, 0.5, 1200, 100)
    logs = np.r_[np.array([1.0, -1.0, 0.5, -0.5]), 0, 0]
    moved = [H * np.exp(0.02 * k * logs)[:, None] for k, H in enumerate(rows)]
    products = conserved_products([entry_of(H, y) for H in moved])
    assert change_of_entries(products, 1.0)[1] < MOST / 10
    assert change_seen_by_class_means(products, 1.0) > MOST
    assert change_seen_by_class_means(conserved_products([entry_of(H, y) for H in rows]), 1.0) < 0.01


def test_a_layer_over_fixed_features_conserves_what_it_says_and_another_does_not() -> None:
    rng, y = np.random.default_rng(5), labelled(SIZES)
    Z = white_start(rng, SIZES, 9, 4.0)
    below, priors = entry_of(Z, y), np.array(SIZES) / sum(SIZES)
    first, *_, last = descend_layer(Z, y, rng.standard_normal((6, 9)), 0.5, 2000, 200)
    start = LayerBelow(first, below.M, below.sigma_w)
    assert np.linalg.norm(last - first) > 0.1 * np.linalg.norm(first)
    assert change_of_layer(start, LayerBelow(last, below.M, below.sigma_w), priors) < 0.01
    for A, M, sigma in ((1.2 * last, 1.0, 1.0), (last, 1.2, 1.0), (last, 1.0, 1.2)):
        change = change_of_layer(start, LayerBelow(A, M * below.M, sigma * below.sigma_w), priors)
        assert change == pytest.approx(0.44 if A is not last else 0.2, abs=0.01)
    seen = seen_statistics([entry_of(A @ Z, y) for A in (first, last)])
    assert contradiction("layer", None, [seen, replace(seen, layer=0.05), None, "of no flow"], MOST) == ""
    assert "have changed by 30%" in contradiction("layer", None, [replace(seen, layer=0.05), replace(seen, layer=0.3)], MOST)


@pytest.mark.parametrize("decay", [0.0, 0.002])
def test_weight_decay_of_a_layer_changes_a_a_t_by_a_factor_and_its_snr_by_a_clock_alone(decay: float) -> None:
    rng, y = np.random.default_rng(5), labelled(SIZES)
    Z = white_start(rng, SIZES, 9, 4.0)
    below, priors = entry_of(Z, y), np.array(SIZES) / sum(SIZES)
    maps = descend_layer(Z, y, rng.standard_normal((6, 9)), 0.1, 2000, 100, decay)
    first, last = (LayerBelow(A, below.M, below.sigma_w) for A in (maps[0], maps[-1]))
    assert np.linalg.norm(last.A) / np.linalg.norm(first.A) == pytest.approx(np.exp(-200 * decay), rel=0.02)
    assert change_of_layer(first, last, priors) < 0.01
    run = measured([A @ Z for A in maps], y)
    assert run.entry is not None
    verdict = judge([replace(run, entry=replace(run.entry, layer=first))])
    assert verdict.support["layer"].rms < 1e-3
    assert not verdict.support["layer"].refuted
