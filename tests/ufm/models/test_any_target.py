"""The penalised squared error with any targets: the theorem by solves, by a certificate, and its special cases."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ufm.models.oracles import assert_as_predicted
from tests.ufm.models.problems import SEEDS
from ufm.models.any_target import BIASES, KINDS, AnyTarget
from ufm.models.base import simulate
from ufm.models.dang import DeepLinear
from ufm.models.squared import Optimum


@st.composite
def targets(draw):
    """Y (q, n), P and penalties, q, n and P pairwise distinct, on both sides of the thresholds, P below q too."""
    q = draw(st.integers(1, 5))
    n = draw(st.integers(2, 11).filter(lambda n: n != q))
    P = draw(st.integers(1, 7).filter(lambda P: P not in (q, n)))
    rng = np.random.default_rng(draw(SEEDS))
    return (
        rng.standard_normal((q, n)) + 3 * rng.standard_normal((q, 1)),
        P,
        draw(st.floats(0.003, 0.3)),
        draw(st.floats(0.003, 0.3)),
    )


def loss(Y, W, H, b, lw, lh):
    """The objective, written out."""
    n = Y.shape[1]
    return ((W @ H + b - Y) ** 2).sum() / (2 * n) + lw / 2 * (W**2).sum() + lh / 2 * (H**2).sum()


def factors(best, P):
    """A point W (q, P), H (P, n) with the stated logits and Gram matrices."""
    k = min(P, len(best.kept))
    frame = np.eye(P)[:k]
    root = np.sqrt(best.kept[:k])
    return (best.U[:, :k] * root * best.ratio**0.5) @ frame, frame.T @ (best.V[:, :k] * root / best.ratio**0.5).T


@given(targets(), st.booleans())
def test_the_stated_minimiser_has_the_stated_value_grams_and_no_gradient(problem, free):
    Y, P, lw, lh = problem
    best = Optimum.of(Y, lw, lh, P, free_bias=free)
    W, H = factors(best, P)
    leaves = [torch.from_numpy(x).requires_grad_() for x in (W, H, best.bias[:, None])]
    value = loss(torch.from_numpy(Y), leaves[0], leaves[1], leaves[2], lw, lh)
    gradient = torch.autograd.grad(value, leaves)
    assert value.item() == pytest.approx(best.minimum, abs=1e-12 * max(1, best.minimum))
    assert max(float(g.abs().max()) for g in gradient[: 3 if free else 2]) < 1e-13 * max(1.0, np.abs(Y).max() ** 2)
    assert pytest.approx(best.classifier_gram, abs=1e-12) == W @ W.T
    assert pytest.approx(best.feature_gram, abs=1e-12) == H.T @ H


@given(targets())
def test_the_theorem_in_the_covariance_of_the_targets(problem):
    """l_H ||H||^2/(2n) + l_W ||W||^2/2, c = l_H l_W, Sigma = cov(Y): logits, W W^T and the minimum as stated."""
    Y, _, lw, lh = problem
    q, n = Y.shape
    P = q + 2
    mean, (values, E) = Y.mean(1, keepdims=True), np.linalg.eigh(np.cov(Y, bias=True).reshape(q, q))
    sigma, c = np.sqrt(values.clip(min=0)), lh * lw
    kept = np.maximum(sigma - np.sqrt(c), 0)
    shrink = (E * np.divide(kept, sigma, out=0 * sigma, where=sigma > 1e-9)) @ E.T
    gram = np.sqrt(lh / lw) * (E * kept) @ E.T
    minimum = np.where(sigma > np.sqrt(c), np.sqrt(c) * sigma - c / 2, sigma**2 / 2).sum()
    W = np.hstack([(E * np.sqrt((lh / lw) ** 0.5 * kept)) @ E.T, np.zeros((q, 2))])
    H = np.linalg.pinv(W, rcond=1e-10) @ shrink @ (Y - mean)
    assert pytest.approx(gram, abs=1e-9) == W @ W.T
    assert pytest.approx(minimum, rel=1e-9, abs=1e-12) == loss(Y, W, H, mean, lw, lh / n)
    best = Optimum.of(Y, lw, lh / n, P, free_bias=True)
    assert best.minimum == pytest.approx(minimum, rel=1e-10, abs=1e-13)
    assert best.logits == pytest.approx(shrink @ (Y - mean), abs=1e-8)
    assert best.classifier_gram == pytest.approx(gram, abs=1e-9)


@given(targets())
def test_no_point_lies_below_the_minimum_by_duality(problem):
    """With P >= q the problem is convex in the logits: the residual over n is sqrt(lw lh) times a subgradient of |Z|_*."""
    Y, _, lw, lh = problem
    P = len(Y) + 3
    best = Optimum.of(Y, lw, lh, P, free_bias=True)
    residual = (Y - best.bias[:, None] - best.logits) / Y.shape[1]
    tau = np.sqrt(lw * lh)
    assert np.linalg.svd(residual, compute_uv=False)[0] <= tau * (1 + 1e-10)
    assert (residual * best.logits).sum() == pytest.approx(tau * best.kept.sum(), rel=1e-9, abs=1e-12)
    assert np.abs(residual.sum(1)).max() < 1e-12


@settings(max_examples=8)
@given(
    st.sampled_from(KINDS),
    st.sampled_from(sorted(BIASES)),
    st.integers(2, 4),
    st.integers(1, 7),
    st.integers(2, 8),
    SEEDS,
    st.floats(0.01, 0.2),
)
def test_solves_from_random_starts_end_at_the_minimum(targets, bias, C, N, P, seed, decay):
    model = AnyTarget(C=C, N=N, P=P, targets=targets, bias=bias, lambda_w=decay, lambda_h=0.04)
    n, s = model.layout.n, np.linalg.svd(model.Y - (model.Y.mean(1, keepdims=True) if bias == "free" else 0), compute_uv=False)
    tau = n * np.sqrt(decay * 0.04)
    close = np.abs(s - tau).min() < 0.03 * tau or (len(s) > P and s[P] > tau and s[P - 1] - s[P] < 0.05 * s[0])
    if not close:  # at a threshold, or where P cuts through nearly equal values, convergence is arbitrarily slow
        assert_as_predicted(simulate(model, seed))


def test_unequal_classes_and_the_covariance_form():
    """W W^T = sqrt(n lh/lw) [Sigma^{1/2} - sqrt(c) I]_+ with c = n lw lh, for three class sizes and a solve."""
    model = AnyTarget(C=3, P=5, targets="classes", sizes=(7, 4, 2), lambda_w=0.02, lambda_h=0.01)
    assert_as_predicted(simulate(model, 1))
    n = model.layout.n
    values, E = np.linalg.eigh(np.cov(model.Y, bias=True))
    kept = np.maximum(np.sqrt(values.clip(min=0)) - np.sqrt(n * model.lambda_w * model.lambda_h), 0)
    expected = np.sqrt(n * model.lambda_h / model.lambda_w) * (E * kept) @ E.T
    assert model.optimum.classifier_gram == pytest.approx(expected, abs=1e-12)


def test_deep_linear_of_one_layer_is_the_bias_free_case():
    shared = {"C": 4, "P": 6, "sizes": (8, 5, 3, 2), "lambda_w": 0.02, "lambda_h": 0.03}
    assert DeepLinear(layers=1, **shared).predicted()["minimum"] == pytest.approx(
        AnyTarget(targets="classes", bias="none", **shared).predicted()["minimum"], rel=1e-12
    )


def test_what_any_targets_refuse():
    with pytest.raises(ValueError, match="targets = cats: unknown here; choose from regression"):
        AnyTarget(targets="cats")
    with pytest.raises(ValueError, match="bias = decayed"):
        AnyTarget(bias="decayed")
    with pytest.raises(ValueError, match=r"noise = 1\.0"):
        AnyTarget(noise=1.0)
    with pytest.raises(ValueError, match=r"P = 2 cuts through equal singular values.*use P >= 3"):
        AnyTarget(C=4, P=2, targets="classes").check_domain()


def test_the_noise_moves_labels_to_other_classes():
    model = AnyTarget(C=5, N=40, targets="noisy-labels", noise=0.3)
    wrong = model.Y.argmax(0) != np.asarray(model.layout.labels)
    assert 0.2 < wrong.mean() < 0.4
    assert (model.Y.sum(0) == 1).all()
