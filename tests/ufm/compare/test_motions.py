"""Every predicted flow of the class statistics against gradient descent on the whole tensor and against the closed laws."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifolds.class_centering import ClassLayout
from tests.ufm.compare.descents import descend, descend_jointly, entry_of, labelled, white_start
from ufm.compare.coordinates import Entry, frame_of, gram_of_spectrum, log_gram
from ufm.compare.joint_motion import joint_motion
from ufm.compare.motions import FIRST_STEP, Motion, StiffFlowError, renormalized_motion, trace
from ufm.compare.unnormalized_motion import unnormalized_motion
from ufm.features.snr import snr as snr_of
from ufm.laws.joint import JointFlow, joint_start, run_joint
from ufm.laws.mean_run import growth_time, run_raw
from ufm.laws.mean_system import mean_system
from ufm.laws.singular_value_dynamics import EMBEDDED, RENORMALIZED, UNNORMALIZED

slow = partial(pytest.param, marks=pytest.mark.slow)  # the same law at another pair of sizes and ratio
SIZES = {"equal": [14] * 5, "unequal": [23, 17, 13, 10, 7]}


def anisotropic(rng: np.random.Generator, sizes: list[int], P: int) -> np.ndarray:
    H = white_start(rng, sizes, P, 1.0)
    return np.linalg.qr(rng.standard_normal((P, P)))[0] * np.exp(rng.uniform(-0.5, 0.5, P)) @ H


def distance(path: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Of every point (T, K, K) from the polygon of a path (S, K, K), largest entry first squared and summed. (T,)"""
    a, b = path[:-1].reshape(len(path) - 1, -1), path[1:].reshape(len(path) - 1, -1)
    rows = []
    for p in points.reshape(len(points), -1):
        share = np.clip(((p - a) * (b - a)).sum(1) / ((b - a) ** 2).sum(1), 0, 1)
        rows.append(np.sqrt(((a + share[:, None] * (b - a) - p) ** 2).sum(1)).min())
    return np.array(rows)


def ends(Y: np.ndarray) -> tuple[float, float]:
    diagonal = np.diagonal(Y, axis1=1, axis2=2)
    return float(diagonal.max()) + 0.5, float(diagonal.mean(1).max()) + 0.2


@pytest.mark.parametrize(("kind", "r"), [("unequal", 1.0), ("equal", 3.0), slow("equal", 1.0), slow("unequal", 3.0)])
def test_the_unnormalized_flow_predicts_gradient_descent_from_any_start(kind: str, r: float) -> None:
    sizes = SIZES[kind]
    y = labelled(sizes)
    H = anisotropic(np.random.default_rng(1), sizes, 7)
    entry = entry_of(H, y)
    frame = frame_of(entry.gram())
    seen = log_gram(np.array([entry_of(X, y).gram() for X in descend(H, y, 0.1, 9000, 900, r)]), frame)
    path, _ = trace(unnormalized_motion(entry, r), frame, *ends(seen), 0.005)
    assert abs(seen[-1] - seen[0]).max() > 0.8
    assert abs(seen[-1] - np.diag(np.diag(seen[-1]))).max() > 0.05  # the vectors turn, and that is predicted too
    assert distance(path, seen).max() < 5e-4  # most of it the descent's, in proportion to its rate
    wrong, _ = trace(unnormalized_motion(entry, 1.5 * r), frame, *ends(seen), 0.01)
    assert distance(wrong, seen).max() > 1e-2


@pytest.mark.parametrize("kappa", [2.0, slow(0.1)])
def test_the_joint_flow_predicts_descent_of_features_and_classifier_with_decay(kappa: float) -> None:
    sizes = SIZES["unequal"]
    rng, y = np.random.default_rng(3), labelled(sizes)
    H = anisotropic(rng, sizes, 7) + rng.standard_normal((7, 1))
    W, b = 0.3 * rng.standard_normal((5, 7)), 0.1 * rng.standard_normal(5)
    entry = entry_of(H, y, W, b, decay_w=0.01, decay_h=0.02)
    frame = frame_of(entry.gram())
    states = descend_jointly(H, y, W, b, kappa, 0.01, 0.02, 0.04, 9000)
    seen = log_gram(np.array([entry_of(X, y).gram() for X in states]), frame)
    path, _ = trace(joint_motion(entry, kappa), frame, *ends(seen), 0.0025)
    assert abs(seen[-1] - seen[0]).max() > 0.3
    assert distance(path, seen).max() < 2e-3  # the descent's in proportion to its rate, the path's to its spacing squared
    bare = Entry(entry.counts, entry.M, entry.sigma_w, W, b, entry.mean)
    other, _ = trace(joint_motion(bare, kappa), frame, *ends(seen), 0.005)
    assert distance(other, seen).max() > 1e-2


@pytest.mark.parametrize("decay", [0.0, 1e3, 1e18])
def test_a_bias_that_begins_at_zero_asks_for_no_short_steps(decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ufm.compare.motions.MOST_FLOW_STEPS", 1500)
    y = labelled(SIZES["unequal"])
    H = anisotropic(np.random.default_rng(3), SIZES["unequal"], 7)
    entry = entry_of(H, y, np.eye(5, 7), np.zeros(5), decay_w=0.01, decay_h=decay)
    path, _ = trace(joint_motion(entry, 0.1), frame_of(entry.gram()), 5.0, 3.0, 0.05)
    assert len(path) > 10


def test_a_flow_that_no_number_of_steps_follows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ufm.compare.motions.MOST_FLOW_STEPS", 10)
    y = labelled(SIZES["equal"])
    entry = entry_of(anisotropic(np.random.default_rng(3), SIZES["equal"], 7), y, np.eye(5, 7), np.zeros(5))
    with pytest.raises(StiffFlowError, match="10 steps"):
        trace(joint_motion(entry, 0.1), frame_of(entry.gram()), 5.0, 3.0, 0.05)


@pytest.mark.parametrize(
    ("kind", "r"),
    [
        ("unequal", 0.4),
        ("equal", 6.0),
        *(slow(kind, r) for kind, r in (("unequal", 1.0), ("equal", 0.4), ("equal", 1.0), ("unequal", 6.0))),
    ],
)
def test_the_unnormalized_path_is_that_of_the_law(kind: str, r: float) -> None:
    sizes = SIZES[kind]
    H = anisotropic(np.random.default_rng(6), sizes, 8)
    H = H - H.mean(1, keepdims=True)
    layout, entry = ClassLayout(tuple(sizes)), entry_of(H, labelled(sizes))
    system = mean_system(H, layout, snr_of(H, layout), r)
    run = run_raw(system, np.linspace(0, growth_time(system, 3.0), 12))
    assert run.V_t is not None
    frame = frame_of(entry.gram())
    points = log_gram(gram_of_spectrum(run.omega, run.V_t, entry.priors), frame)
    coarse, fine = (
        distance(trace(unnormalized_motion(entry, r), frame, *ends(points), spacing)[0], points).max()
        for spacing in (0.01, 0.0025)
    )
    assert coarse < 5e-4
    assert fine < coarse / 8  # of second order


@pytest.mark.parametrize("kappa", [0.2, 5.0, slow(50.0)])
def test_the_joint_path_is_that_of_the_law(kappa: float) -> None:
    sizes = SIZES["unequal"]
    rng, n = np.random.default_rng(3), sum(SIZES["unequal"])
    H = anisotropic(rng, sizes, 7) + rng.standard_normal((7, 1))
    W, b = 0.3 * rng.standard_normal((5, 7)), 0.1 * rng.standard_normal(5)
    entry = entry_of(H, labelled(sizes), W, b, decay_w=0.01, decay_h=0.02)
    flow = JointFlow(tuple(sizes), 0.01, 0.02 / n, 0.0, kappa / n)  # time and decay of the features in units of n
    run = run_joint(flow, W, b, *joint_start(H, ClassLayout(tuple(sizes))), np.linspace(0, 3.0 * n, 12)).trajectory()
    assert run.V_t is not None
    frame = frame_of(entry.gram())
    points = log_gram(gram_of_spectrum(run.omega, run.V_t, entry.priors), frame)
    assert abs(points[-1] - points[0]).max() > 0.3
    coarse, fine = (
        distance(trace(joint_motion(entry, kappa), frame, *ends(points), spacing)[0], points).max() for spacing in (0.04, 0.01)
    )
    assert fine < 2e-4
    assert fine < coarse / 8  # of second order, as a chord is


def test_the_joint_flow_of_a_fast_classifier_is_the_unnormalized_flow() -> None:
    y = labelled(SIZES["equal"])
    H = anisotropic(np.random.default_rng(1), SIZES["equal"], 7)
    bare = entry_of(H, y)
    wide = np.vstack([H, np.ones(len(y))])
    W = np.linalg.lstsq(wide.T, np.eye(5)[:, y].T, rcond=None)[0].T
    frame = frame_of(bare.gram())
    end = float(np.diagonal(log_gram(bare.gram(), frame)).mean()) + 1.0
    path, _ = trace(unnormalized_motion(bare), frame, np.inf, end + 0.1, 0.005)
    fast, _ = trace(joint_motion(entry_of(H, y, W[:, :-1], W[:, -1]), 1e5), frame, np.inf, end, 0.005)
    assert distance(path, fast).max() < 2e-3


@settings(max_examples=6, deadline=None)
@given(st.integers(3, 6), st.integers(0, 3), st.integers(0, 2**16))
def test_balanced_flows_are_the_closed_laws(C: int, more: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    P, N = C + more, 2 * C + 3
    y = labelled([N] * C)
    H = white_start(rng, [N] * C, P, 1.0)
    entry = entry_of(H, y)
    G = entry.gram()
    frame = frame_of(G)
    total = entry.sigma_w + entry.M @ entry.M.T / C
    values, E = np.linalg.eigh(total)
    white = (E / np.sqrt(values)) @ E.T
    conserved = Entry(entry.counts, white @ entry.M, white @ entry.sigma_w @ white.T)  # Sigma_T = I
    for law, motion in (
        (RENORMALIZED, renormalized_motion(G, entry.counts)),
        (EMBEDDED, renormalized_motion(G, entry.counts, np.inf)),
        (UNNORMALIZED, unnormalized_motion(conserved)),
    ):
        Y, _ = trace(motion, frame, 3.0, 1.0, 0.005)
        omega = np.sqrt(C) * np.exp(np.diagonal(Y, axis1=1, axis2=2))
        t = np.array([law.time(row[:1], omega[0, :1], C, N)[0] for row in omega])
        np.testing.assert_allclose(np.log(omega), law.log_omega(t, omega[0], C, N), atol=2e-5 if law is UNNORMALIZED else 1e-7)
        off = abs(Y - np.eye(C - 1) * Y).max()
        assert off < 1e-7


def test_a_renormalized_flow_of_unequal_classes_is_that_of_the_whole_tensor() -> None:
    """Renormalize after every small step, on the features themselves."""
    sizes = SIZES["unequal"]
    y = labelled(sizes)
    n, C = len(y), len(sizes)
    H = white_start(np.random.default_rng(4), sizes, 6, 1.0)
    entry = entry_of(H, y)
    frame = frame_of(entry.gram())
    seen = [entry.gram()]
    for k in range(1, 3001):
        wide = np.vstack([H, np.ones(n)])
        W = np.linalg.solve(wide @ wide.T, wide @ np.eye(C)[:, y].T).T
        H = H - 2.0 * W[:, :-1].T @ (W @ wide - np.eye(C)[:, y]) / n
        start = entry_of(H, y)
        values, E = np.linalg.eigh(start.sigma_w)
        H = (E / np.sqrt(values)) @ E.T @ (H - H.mean(1, keepdims=True))
        if k % 300 == 0:
            seen.append(entry_of(H, y).gram())
    points = log_gram(np.array(seen), frame)
    path, _ = trace(renormalized_motion(entry.gram(), entry.counts), frame, *ends(points), 0.01)
    assert abs(points[-1] - points[0]).max() > 0.2
    assert abs(points[-1] - np.eye(C - 1) * points[-1]).max() > 1e-3  # V is not frozen
    assert distance(path, points).max() < 1e-3


def test_a_ridge_rescales_the_renormalized_flow() -> None:
    C, lam, u = 4, 0.7, np.array([0.5, 1.0, 2.0])
    V = np.linalg.qr(np.eye(C) - 1 / C)[0][:, : C - 1]
    G = (V * u) @ V.T
    path, _ = trace(renormalized_motion(G, np.full(C, 10), 1.0, lam), frame_of(G), 3.0, 1.0)
    phi = np.log(np.exp(2 * np.diagonal(path, axis1=1, axis2=2)))
    phi = phi + np.exp(phi) / (1 + lam)
    np.testing.assert_allclose(np.diff(phi - phi[:, :1], axis=0), 0, atol=1e-7)


def test_coordinates_ignore_the_basis_of_the_features_and_give_the_spectrum_back() -> None:
    sizes = SIZES["unequal"]
    rng, y = np.random.default_rng(5), labelled(sizes)
    H = white_start(rng, sizes, 6, 1.0)
    G = entry_of(H, y).gram()
    A = rng.standard_normal((6, 6))
    np.testing.assert_allclose(entry_of(A @ H + 3.0, y).gram(), G, atol=1e-9)
    values, vectors = np.linalg.eigh(G)
    log_sqrt_u, turn = np.linalg.eigh(log_gram(G, frame_of(G)))
    np.testing.assert_allclose(np.exp(2 * log_sqrt_u), values[1:], rtol=1e-10)
    np.testing.assert_allclose(abs(turn[:, ::-1]), np.eye(4), atol=1e-6)
    omega = np.sqrt(5 * values[::-1][:4])
    equal = gram_of_spectrum(omega, vectors[:, ::-1][:, :4], np.full(5, 0.2))
    np.testing.assert_allclose(equal, G, atol=1e-12)


def test_what_cannot_be_predicted_says_why() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Entry(np.ones(3), np.zeros((4, 3)), np.eye(5))
    with pytest.raises(ValueError, match="NaN or infinite"):
        Entry(np.ones(3), np.full((4, 3), np.nan), np.eye(4))
    singular = Entry(np.ones(3), np.ones((4, 3)), np.diag([1.0, 1, 1, 0]))
    with pytest.raises(ValueError, match="not positive definite"):
        singular.gram()
    with pytest.raises(ValueError, match="W and b"):
        joint_motion(Entry(np.ones(3), np.ones((4, 3)), np.eye(4)), 1.0)


@pytest.mark.parametrize("r", [1.0, 3.0, np.inf])
def test_renormalized_flows_of_many_starts_at_once_are_those_of_each(r: float) -> None:
    rng = np.random.default_rng(7)
    grams = np.array([entry_of(white_start(rng, SIZES["unequal"], 7, u), labelled(SIZES["unequal"])).gram() for u in (0.5, 2.0)])
    counts = np.array(SIZES["unequal"])
    together = renormalized_motion(grams, counts, r, 0.1)
    both = together.gram(together.step(together.state, 0.3))
    for gram, seen in zip(grams, both, strict=True):
        alone = renormalized_motion(gram, counts, r, 0.1)
        np.testing.assert_allclose(seen, alone.gram(alone.step(alone.state, 0.3)), rtol=1e-10, atol=1e-12)


def test_a_path_whose_speed_hardly_shows_in_a_short_step_is_followed_to_its_end() -> None:
    """Steps that move log omega by h^1.8: four times one that is too short to be taken is too long."""

    def step(x: np.ndarray, h: float) -> np.ndarray:
        return x + 0.002 * (h / FIRST_STEP) ** 1.8

    motion = Motion(np.array(0.0), step, lambda x: np.diag(np.exp(2 * (x + np.array([0.0, 0.3])))))
    Y, times = trace(motion, np.eye(2), np.inf, 0.5, 0.01)
    assert np.diagonal(Y[-1]).mean() > 0.5
    assert abs(np.diff(Y, axis=0)).max() <= 0.02
    assert len(Y) < 200
    assert (np.diff(times) > 0).all()
