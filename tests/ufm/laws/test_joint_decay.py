"""Law (e): the closed form against the integrated (W, H), its limit, its digits at every time, and the rate of balancing."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from ufm.laws.joint_decay import JointDecayLaw, balance_defect, balanced_start
from ufm.models.joint_decay import JointDecay
from ufm.models.tirer_bruna import BiasFree


@st.composite
def problems(draw, balanced=True):
    """Y, lambda, W, H with C, n, P pairwise distinct: labels of any sizes or Gaussian targets; P on both sides of C."""
    C = draw(st.integers(2, 4))
    sizes = draw(st.lists(st.integers(1, 6), min_size=C, max_size=C).filter(lambda sizes: sum(sizes) != C))
    n = sum(sizes)
    P = draw(st.integers(1, 7).filter(lambda P: P not in (C, n)))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    kind = draw(st.sampled_from(["labels", "gaussian", "low rank"]))
    Y = np.repeat(np.eye(C), sizes, 1) if kind == "labels" else rng.standard_normal((C, n))
    if kind == "low rank":
        Y = rng.standard_normal((C, 1)) @ Y[:1]
    scale = draw(st.sampled_from([0.01, 0.5, 2.0]))
    W, H = scale * rng.standard_normal((C, P)), scale * rng.standard_normal((P, n))
    return Y, draw(st.sampled_from([0.0, 0.1, 1.2])), *(balanced_start(W, H) if balanced else (W, H))


def squared(Z, Y):
    """d/dZ of 1/2 ||Z - Y||^2."""
    return Z - Y


def cross_entropy(Z, Y):
    """d/dZ of the summed cross-entropy of logits Z, labels the largest entries of Y's columns."""
    exp = np.exp(Z - Z.max(0))
    return exp / exp.sum(0) - (Y.argmax(0) == np.arange(len(Y))[:, None])


def integrated(Y, decay, W, H, times, slope=squared):
    """(W, H) at the times by DOP853 on the full state, from the gradients written out."""
    C, P = W.shape

    def field(_, x):
        W, H = x[: C * P].reshape(C, P), x[C * P :].reshape(P, -1)
        R = slope(W @ H, Y)
        return -np.concatenate([(R @ H.T + decay * W).ravel(), (W.T @ R + decay * H).ravel()])

    x0 = np.concatenate([W.ravel(), H.ravel()])
    solution = solve_ivp(field, (0, times[-1]), x0, method="DOP853", t_eval=times, rtol=2.3e-14, atol=1e-15)
    return [(x[: C * P].reshape(C, P), x[C * P :].reshape(P, -1)) for x in solution.y.T]


@settings(max_examples=13)
@given(problems())
def test_the_law_is_the_flow_of_the_full_state(problem):
    """Logits and both Gram matrices to 1e-11 along the whole trajectory, any targets, P on both sides of C."""
    Y, decay, W, H = problem
    law, times = JointDecayLaw(*problem), np.array([0.0, 0.03, 0.6, 2.5, 9.0])
    for t, (W_t, H_t) in zip(times, integrated(Y, decay, W, H, times), strict=True):
        A, B = law.state(t)
        unit = max(1.0, np.linalg.norm(W_t) ** 2)
        for ours, true in ((law.logits(t), W_t @ H_t), (A @ B, W_t @ H_t), (A @ A.T, W_t @ W_t.T), (B.T @ B, H_t.T @ H_t)):
            assert np.abs(ours - true).max() < 1e-11 * unit
        loss = 0.5 * ((W_t @ H_t - Y) ** 2).sum() + decay / 2 * ((W_t**2).sum() + (H_t**2).sum())
        assert law.loss(t) == pytest.approx(loss, rel=1e-10, abs=1e-11)
        assert balance_defect(A, B) < 1e-11 * unit


@given(problems(), st.floats(0.01, 30.0), st.floats(0.01, 30.0))
def test_the_law_goes_on_from_where_it_is(problem, s, t):
    """The state at s + t is the state at t from the state at s: no rotation of feature space enters."""
    Y, decay, *_ = problem
    law = JointDecayLaw(*problem)
    again = JointDecayLaw(Y, decay, *law.state(s))
    size = max(1.0, np.abs(Y).max() ** 2 * Y.shape[1])
    assert np.abs(again.logits(t) - law.logits(s + t)).max() < 1e-9 * size


@pytest.mark.parametrize("t", [8.0, 40.0, 1e3, 1e9, 1e300])
def test_no_digit_is_lost_where_the_bare_formula_loses_all(t):
    """Sizes 7, 4, 2: against 400 decimal digits up to t = 40 and the limit beyond; the bare formula is off by 3e-9 at 8."""
    mp = pytest.importorskip("mpmath").mp.clone()
    rng, sizes, decay = np.random.default_rng(3), (7, 4, 2), 0.3
    Y = np.repeat(np.eye(3), sizes, 1)
    W, H = balanced_start(0.3 * rng.standard_normal((3, 5)), rng.standard_normal((5, 13)))
    law = JointDecayLaw(Y, decay, W, H)
    if t > 40:
        assert law.logits(t) == pytest.approx(law.limit(), abs=2e-15)
        return
    mp.dps = 400
    Q, F = mp.matrix(np.vstack([W, H.T]).tolist()), np.block([[-decay * np.eye(3), Y], [Y.T, -decay * np.eye(13)]])
    values, E = mp.eigsy(mp.matrix(F.tolist()))
    start = E.T * Q
    gain = mp.diag([mp.expm1(2 * v * t) / (2 * v) for v in values])
    moved = mp.diag([mp.exp(v * t) for v in values]) * start
    QQ = E * (moved * mp.inverse(mp.eye(5) + start.T * gain * start) * moved.T) * E.T
    exact = np.array((QQ[:3, 3:]).tolist(), dtype=np.float64)
    assert np.abs(law.logits(t) - exact).max() < 2e-15


def test_the_bare_formula_loses_digits_where_the_law_loses_none():
    """Sizes 7, 4, 2 at t = 8: the printed formula in float64 is off by more than 1e-10, the law by none."""
    rng, sizes, decay, t = np.random.default_rng(3), (7, 4, 2), 0.3, 8.0
    Y = np.repeat(np.eye(3), sizes, 1)
    W, H = balanced_start(0.3 * rng.standard_normal((3, 5)), rng.standard_normal((5, 13)))
    Q = np.vstack([W, H.T])
    values, E = np.linalg.eigh(np.block([[-decay * np.eye(3), Y], [Y.T, -decay * np.eye(13)]]))
    moved, gain = (E * np.exp(values * t)) @ E.T @ Q, (E * np.expm1(2 * values * t) / (2 * values)) @ E.T
    bare = moved @ np.linalg.solve(np.eye(5) + Q.T @ gain @ Q, moved.T)
    assert np.abs(bare[:3, 3:] - JointDecayLaw(Y, decay, W, H).logits(t)).max() > 1e-10


any_sizes = st.lists(st.integers(1, 9), min_size=2, max_size=5)


@given(any_sizes, st.floats(0, 2))
def test_the_spectrum_is_that_of_the_class_sizes(sizes, decay):
    """F has the eigenvalues +-sqrt(n_k) - lambda and -lambda, and the law's modes are among them."""
    C, n, rng = len(sizes), sum(sizes), np.random.default_rng(0)
    Y, roots = np.repeat(np.eye(C), sizes, 1), np.sqrt(sizes)
    F = np.block([[-decay * np.eye(C), Y], [Y.T, -decay * np.eye(n)]])
    spectrum = np.sort(np.concatenate([roots, -roots, np.zeros(n - C)])) - decay
    assert np.linalg.eigvalsh(F) == pytest.approx(spectrum, abs=1e-12)
    W, H = balanced_start(rng.standard_normal((C, C + 2)), rng.standard_normal((C + 2, n)))
    rates, top, bottom = JointDecayLaw(Y, decay, W, H).modes
    assert F @ np.vstack([top, bottom]) == pytest.approx(np.vstack([top, bottom]) * rates, abs=1e-12)


@given(any_sizes, st.floats(0.05, 2.5), st.integers(0, 4), st.integers(0, 2**20))
def test_every_class_keeps_its_soft_threshold(sizes, decay, more, seed):
    """Logits of class k tend to (1 - lambda / sqrt(n_k))_+ e_k from a generic start with P >= C."""
    C, n, rng = len(sizes), sum(sizes), np.random.default_rng(seed)
    assume(np.abs(np.sqrt(sizes) - decay).min() > 0.02)
    W, H = balanced_start(rng.standard_normal((C, C + more)), rng.standard_normal((C + more, n)))
    Y = np.repeat(np.eye(C), sizes, 1)
    kept = np.maximum(1 - decay / np.sqrt(sizes), 0)
    if n == C and np.linalg.det(W @ H) < 0:
        H[:, 0] *= -1  # the other half of these starts has a direction that never grows
    law = JointDecayLaw(Y, decay, W, H)
    assert law.logits(1e5) == pytest.approx(np.repeat(np.diag(kept), sizes, 1), abs=1e-9)
    assert law.limit() == pytest.approx(np.repeat(np.diag(kept), sizes, 1), abs=1e-12)


def test_with_one_example_a_class_half_of_the_balanced_starts_never_meet_a_mode():
    """det W H < 0 has a direction with W^T x = -H x; the model starts in the other half."""
    rng, Y = np.random.default_rng(0), np.eye(3)
    W, H = balanced_start(rng.standard_normal((3, 4)), rng.standard_normal((4, 3)))
    for sign in (1, -1):
        H[:, 0] *= np.sign(np.linalg.det(W @ H)) * sign
        logits = JointDecayLaw(Y, 0.3, W, H).logits(20.0)  # later, rounding of the direction has grown
        assert np.linalg.matrix_rank(logits, tol=1e-6) == (3 if sign > 0 else 2)
    model = JointDecay(C=2, N=1, P=2)
    for seed in range(6):
        assert np.linalg.det(np.linalg.multi_dot([np.asarray(x) for x in model.start(seed)])) > 0
        assert model.law(model.start(seed)).logits(1e9) == pytest.approx(model.law(model.start(seed)).limit(), abs=1e-12)


@settings(max_examples=5)
@given(problems(), st.floats(0.01, 0.2))
def test_the_mean_over_examples_is_another_clock_and_another_decay(problem, decay):
    """1/(2n) ||W H - Y||^2 + lambda/2 (||W||^2 + ||H||^2): the law with time / n and n lambda."""
    Y, _, W, H = problem
    n = Y.shape[1]
    times = np.array([0.0, 1.5, 8.0]) * n
    law = JointDecayLaw(Y, n * decay, W, H)
    for t, (W_t, H_t) in zip(times, integrated(Y, decay, W, H, times, lambda Z, Y: (Z - Y) / n), strict=True):
        assert np.abs(law.logits(t / n) - W_t @ H_t).max() < 1e-10 * max(1.0, np.linalg.norm(W_t) ** 2)


def test_equal_classes_stay_equal_for_ever_below_p_equal_c():
    """Equal singular values that round-off tells apart would drift apart as exp(1e-16 t): the end would move with the clock."""
    rng, Y = np.random.default_rng(5), np.repeat(np.eye(4), 3, 1)
    law = JointDecayLaw(Y, 0.1, *balanced_start(0.2 * rng.standard_normal((4, 2)), rng.standard_normal((2, 12))))
    Q = np.linalg.qr(rng.standard_normal((4, 4)))[0]  # in a basis where the equal values are not exactly equal
    turned = JointDecayLaw(Q @ Y, 0.1, Q @ law.W, law.H)
    for one in (law, turned):
        assert one.logits(1e18) == pytest.approx(one.logits(1e3), abs=1e-12)
    assert turned.logits(1e18) == pytest.approx(Q @ law.logits(1e18), abs=1e-12)


def test_the_limit_is_the_soft_threshold_of_the_bias_free_model():
    """Of the mean over n examples: lambda n and time t / n."""
    rng, model = np.random.default_rng(0), BiasFree(C=3, P=5, sizes=(9, 4, 2), lambda_w=0.15, lambda_h=0.15)
    n, Y = model.layout.n, np.repeat(np.eye(3), (9, 4, 2), 1)
    W, H = balanced_start(0.1 * rng.standard_normal((3, 5)), rng.standard_normal((5, n)))
    law = JointDecayLaw(Y, n * 0.15, W, H)
    kept = law.logits(1e6)[range(3), np.cumsum([0, 9, 4])]
    assert kept == pytest.approx(np.array(model.predicted()["logits"]), abs=1e-14)
    assert (kept[:1] > 0).all()
    assert np.abs(kept[2]) < 1e-14  # sqrt(2) < lambda: the class is lost
    assert law.loss(1e6) / n == pytest.approx(model.predicted()["minimum"], rel=1e-13)


@given(st.lists(st.tuples(st.floats(0.05, 3), st.floats(1e-3, 2)), min_size=1, max_size=4), st.floats(0, 1.5), st.floats(0.1, 20))
def test_every_mode_of_an_aligned_start_is_logistic(pairs, decay, t):
    """a' = 2 a (s - lambda - a) for the singular values a of W H."""
    s, a = np.array(pairs).T
    k, rng = len(s), np.random.default_rng(1)
    assume(np.abs(s - decay).min() > 1e-3)
    U, V, E = (np.linalg.qr(rng.standard_normal((m, k)))[0] for m in (k + 1, k + 4, k + 2))
    law = JointDecayLaw((U * s) @ V.T, decay, (U * a**0.5) @ E.T, (E * a**0.5) @ V.T)
    growth = s - decay
    logistic = growth / (1 + (growth / a - 1) * np.exp(-2 * growth * t))
    assert np.diag(U.T @ law.logits(t) @ V) == pytest.approx(logistic, rel=1e-12, abs=1e-14)


@settings(max_examples=5)
@given(problems(balanced=False), st.sampled_from([squared, cross_entropy]))
def test_any_start_balances_at_the_rate_of_the_decay_under_any_loss(problem, slope):
    Y, decay, W, H = problem
    times = np.array([0.0, 0.4, 1.5])
    first = W.T @ W - H @ H.T
    for t, (W_t, H_t) in zip(times, integrated(Y, decay, W, H, times, slope), strict=True):
        left = W_t.T @ W_t - H_t @ H_t.T
        assert np.abs(left - np.exp(-2 * decay * t) * first).max() < 1e-11 * max(1.0, np.abs(first).max())


def test_what_the_law_refuses():
    rng = np.random.default_rng(0)
    Y, W, H = rng.standard_normal((3, 7)), rng.standard_normal((3, 4)), rng.standard_normal((4, 7))
    with pytest.raises(ValueError, match=r"needs a balanced start; take W, H = balanced_start"):
        JointDecayLaw(Y, 0.1, W, H)
    W, H = balanced_start(W, H)
    with pytest.raises(ValueError, match=r"weight_decay = -0\.1"):
        JointDecayLaw(Y, -0.1, W, H)
    with pytest.raises(ValueError, match=r"needs W \(C, P\) and H \(P, n\)"):
        JointDecayLaw(Y, 0.1, W, H.T)
    with pytest.raises(ValueError, match="NaN"):
        JointDecayLaw(Y * np.nan, 0.1, W, H)
    with pytest.raises(ValueError, match=r"t = -1\.0: the law runs forward"):
        JointDecayLaw(Y, 0.1, W, H).logits(-1.0)
    with pytest.raises(ValueError, match="2 columns for 3 singular values"):
        balanced_start(W, H[:, :2])


@pytest.mark.parametrize("P", [1, 2])
def test_with_fewer_features_than_kept_modes_the_largest_are_kept(P):
    sizes, decay, rng = (9, 6, 3, 2), 0.2, np.random.default_rng(P)
    W, H = balanced_start(rng.standard_normal((4, P)), rng.standard_normal((P, 20)))
    law = JointDecayLaw(np.repeat(np.eye(4), sizes, 1), decay, W, H)
    kept = np.where(np.arange(4) < P, 1 - decay / np.sqrt(sizes), 0)
    assert law.limit() == pytest.approx(np.repeat(np.diag(kept), sizes, 1), abs=1e-14)
    assert law.logits(1e5) == pytest.approx(law.limit(), abs=1e-12)
