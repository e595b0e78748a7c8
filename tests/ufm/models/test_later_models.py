"""The models that came after: label smoothing, focal loss, softmax codes, SELI, the joint flow with decay, the block kernel."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from tests.typed import gradient_of
from tests.ufm.models.oracles import assert_as_predicted
from tests.ufm.models.problems import RATIOS, SEEDS, shapes, split
from ufm.features.margins import jiang_one_vs_rest_margin
from ufm.models.base import simulate
from ufm.models.jiang import SoftmaxCodes
from ufm.models.joint_decay import JointDecay
from ufm.models.objective.losses import CrossEntropy, Focal, SmoothedCrossEntropy
from ufm.models.objective.peeled import gaussian_point
from ufm.models.seleznova import BlockKernel
from ufm.models.thrampoulidis import Seli
from ufm.models.zhou_losses import FocalLoss, LabelSmoothing
from ufm.models.zhu import Zhu


@given(st.integers(2, 5), st.integers(1, 7), SEEDS, st.floats(0, 0.9), st.floats(0.3, 4))
def test_both_losses_are_those_of_torch_with_their_gradient_and_curvature(C, n, seed, delta, gamma):
    Z, move = gaussian_point(((C, n), (C, n)), seed)
    labels = torch.arange(n) % C
    hard = CrossEntropy(torch.nn.functional.one_hot(labels, C).T.double(), torch.linspace(0.5, 2, n).double())

    def smoothed(Z):
        losses = torch.nn.functional.cross_entropy(Z.T, labels, reduction="none", label_smoothing=delta)
        return (losses * hard.weights).sum()

    def focal(Z):
        log_p = torch.log_softmax(Z, 0).gather(0, labels[None])[0]
        return (-((1 - log_p.exp()) ** gamma) * log_p * hard.weights).sum()

    for ours, true in ((SmoothedCrossEntropy(hard, delta), smoothed), (Focal(hard, gamma), focal)):
        value, gradient = ours.value_and_gradient(Z)
        leaf = Z.clone().requires_grad_()
        (slope,) = torch.autograd.grad(true(leaf), leaf, create_graph=True)
        (bent,) = torch.autograd.grad((slope * move).sum(), leaf)
        assert float(value) == pytest.approx(float(true(Z)), rel=1e-12, abs=1e-14)
        assert torch.allclose(gradient, slope, rtol=1e-9, atol=1e-12)
        assert torch.allclose(ours.curvature_at(Z)(move), bent, rtol=1e-8, atol=1e-11)


@settings(max_examples=8)
@given(shapes(), st.floats(0.08, 1.3), st.floats(0.0, 0.6), RATIOS, SEEDS)
def test_label_smoothing_on_both_sides_of_its_threshold(shape, c, delta, ratio, seed):
    model = LabelSmoothing(**shape, **split(c, ratio, shape["C"], shape["N"]), smoothing=delta)
    if abs(c + delta - 1) > 0.05:
        assert (model.gap > 0) == (c + delta < 1)
        assert_as_predicted(simulate(model, seed))


@settings(max_examples=8)
@given(shapes(), st.floats(0.05, 0.5), st.floats(0.0, 4.0), RATIOS, SEEDS)
def test_focal_minimum_and_minimiser(shape, c, gamma, ratio, seed):
    """Where the bound is attained at a positive gap, solves from random starts end there, though the loss is not convex."""
    model = FocalLoss(**shape, **split(c, ratio, shape["C"], shape["N"]), gamma=gamma)
    if model.gap > 0.3:
        assert_as_predicted(simulate(model, seed))


@given(st.integers(2, 6), st.floats(0.3, 4.0), SEEDS)
def test_no_logits_lie_below_the_bound_of_their_mean_gap(C, gamma, seed):
    """Jensen: each loss is at least phi of the right logit minus the mean of the wrong ones."""
    (Z,) = gaussian_point(((C, 9),), seed, 3.0)
    labels = torch.arange(9) % C
    hard = CrossEntropy(torch.nn.functional.one_hot(labels, C).T.double(), torch.ones(9).double())
    right = Z.gather(0, labels[None])[0]
    gaps = (C * right - Z.sum(0)) / (C - 1)
    for i in range(9):
        one = CrossEntropy(hard.Y[:, i : i + 1], hard.weights[:1])
        for loss, phi in (
            (Focal(one, gamma), FocalLoss(C=C, gamma=gamma)),
            (SmoothedCrossEntropy(one, 0.2), LabelSmoothing(C=C, smoothing=0.2)),
        ):
            assert float(loss.value_and_gradient(Z[:, i : i + 1])[0]) >= phi.loss_at(float(gaps[i])) * (1 - 1e-12) - 1e-12


def test_without_smoothing_or_exponent_both_are_cross_entropy():
    shared = {"C": 4, "N": 3, "P": 5, "lambda_w": 0.02, "lambda_h": 0.03}
    zhu = Zhu(**shared).predicted()
    for model in (LabelSmoothing(smoothing=0.0, **shared), FocalLoss(gamma=0.0, **shared)):
        predicted = model.predicted()
        assert predicted.keys() == zhu.keys()
        for name in zhu:
            assert predicted[name] == pytest.approx(zhu[name], rel=1e-12, abs=1e-13)


def test_the_domain_of_the_focal_loss():
    with pytest.raises(ValueError, match="gamma = -1"):
        FocalLoss(gamma=-1.0)
    with pytest.raises(ValueError, match=r"smoothing = 1\.0"):
        LabelSmoothing(smoothing=1.0)
    strong = FocalLoss(C=3, N=4, P=5, lambda_w=0.4, lambda_h=0.4)
    strong.check_domain()
    assert_as_predicted(simulate(strong))


@pytest.mark.parametrize(("C", "P"), [(3, 4), (4, 3), (5, 2), (8, 2), (5, 3), (6, 3), (7, 4), (8, 4)])
def test_softmax_codes_reach_the_largest_margin(C, P):
    assert_as_predicted(simulate(SoftmaxCodes(C=C, P=P)))


@st.composite
def codes(draw):
    """C and P where the largest margin is known, and W at it: a simplex, a polygon, or simplices at right angles."""
    kind = draw(st.sampled_from(["simplex", "polygon", "simplices"]))
    if kind == "polygon":
        C, P = draw(st.integers(3, 12)), 2
        angle = 2 * np.pi * np.arange(C) / C
        return C, P, np.column_stack([np.cos(angle), np.sin(angle)])
    P = draw(st.integers(2, 6))
    C = draw(st.integers(2, P + 1) if kind == "simplex" else st.integers(P + 2, 2 * P))
    parts = max(C - P, 1)  # simplices of k vectors have k - 1 dimensions each
    sizes = [len(part) for part in np.array_split(range(C), parts)]
    W, used = np.zeros((C, P)), [0, 0]
    for size in sizes:
        simplex = np.linalg.svd(np.eye(size) - 1 / size)[0][:, : size - 1]
        W[used[0] : used[0] + size, used[1] : used[1] + size - 1] = simplex / np.linalg.norm(simplex, axis=1, keepdims=True)
        used = [used[0] + size, used[1] + size - 1]
    return C, P, W


@given(codes(), SEEDS, st.floats(1e-3, 3))
def test_no_unit_vectors_exceed_the_largest_margin_and_known_codes_reach_it(code, seed, size):
    """C/(C-1) up to P + 1 classes, 1 - cos(2 pi/C) in the plane, 1 up to 2 P; near the code and far from it."""
    C, P, W = code
    largest = C / (C - 1) if C <= P + 1 else 1 - np.cos(2 * np.pi / C) if P == 2 else 1.0
    assert SoftmaxCodes(C=C, P=P).largest == pytest.approx(largest, rel=1e-14)
    assert jiang_one_vs_rest_margin(W) == pytest.approx(largest, rel=1e-9)
    other = W + size * np.random.default_rng(seed).standard_normal(W.shape)
    assert jiang_one_vs_rest_margin(other) <= largest * (1 + 1e-9)


def test_a_larger_margin_is_not_met_by_other_starts():
    """The rival: other starts at P = 3 for 5 and for 6 classes never exceed the stated margin."""
    for C in (5, 6):
        model = SoftmaxCodes(C=C, P=3)
        assert all(model.value(model.solve(seed).point) > -1 - 1e-9 for seed in range(1, 5))


def test_softmax_codes_refuse_what_has_no_closed_margin():
    with pytest.raises(ValueError, match=r"C = 7 > 2 P = 6.*use P >= 4 or P = 2"):
        simulate(SoftmaxCodes(C=7, P=3))
    with pytest.raises(ValueError, match="P = 1"):
        simulate(SoftmaxCodes(C=2, P=1))


SIZES = st.lists(st.integers(1, 30), min_size=2, max_size=5)


@settings(max_examples=8)
@given(SIZES, SEEDS)
def test_seli_by_solves(sizes, seed):
    assert_as_predicted(simulate(Seli(C=len(sizes), P=len(sizes) + 1, sizes=tuple(sizes)), seed))


@given(st.lists(st.integers(1, 5000), min_size=2, max_size=9))
def test_seli_certificate_holds_for_any_sizes(sizes):
    """V U^T has negative entries off the labels and columns that sum to 0: a positive combination of active margins."""
    model = Seli(C=len(sizes), sizes=tuple(sizes))
    D = np.asarray(sizes, dtype=np.float64)
    inverse = np.diag(1 / D) - np.outer(1 / D, 1 / D) / (1 / D).sum()
    centred = np.eye(len(D)) - 1 / len(D)
    assert inverse @ (centred * D @ centred) == pytest.approx(centred, abs=1e-11)  # the pseudo-inverse of P D P, a Laplacian
    values, E = np.linalg.eigh(inverse)
    root = (E[:, 1:] * np.sqrt(values[1:])) @ E[:, 1:].T  # the first is the eigenvalue 0 of 1
    assert root[~np.eye(len(D), dtype=bool)].max() < 0
    V, _, U = model.encoding
    first = np.cumsum([0, *sizes[:-1]])
    assert pytest.approx(root, abs=1e-10) == V @ U[first].T
    assert model.certificate < 0


def test_seli_is_the_limit_of_cross_entropy_with_vanishing_decay():
    """Logits over their size approach those of the encoding, slowly: 1 / log(1/decay)."""
    model, far = Seli(C=3, P=4, sizes=(8, 3, 1)), []
    Y, encoding = np.repeat(np.eye(3), (8, 3, 1), axis=1), np.repeat(np.eye(3) - 1 / 3, (8, 3, 1), axis=1)
    labels = torch.as_tensor(Y.argmax(0))
    for decay in (1e-2, 1e-4, 1e-8):

        def loss(x, decay=decay):
            leaf = torch.from_numpy(x).requires_grad_()
            W, H = leaf[:12].view(3, 4), leaf[12:].view(4, 12)
            value = torch.log(torch.nn.functional.cross_entropy((W @ H).T, labels, reduction="sum") + decay / 2 * (leaf**2).sum())
            value.backward()
            return value.item(), gradient_of(leaf).numpy()

        start = np.random.default_rng(0).standard_normal(60)
        x = minimize(
            loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "maxfun": 9000, "gtol": 1e-8, "ftol": 0}
        ).x
        Z = x[:12].reshape(3, 4) @ x[12:].reshape(4, 12)
        far.append(np.linalg.norm(Z / np.linalg.norm(Z) - encoding / np.linalg.norm(encoding)))
    assert far[1] < 0.65 * far[0]
    assert far[2] < 0.65 * far[1]
    assert model.predicted()["minimum"] == pytest.approx(np.linalg.svd(encoding, compute_uv=False).sum())


@settings(max_examples=4)
@given(st.lists(st.integers(1, 7), min_size=2, max_size=4), st.integers(1, 6), st.floats(0, 0.15), SEEDS)
def test_joint_decay_is_law_e_along_the_path(sizes, P, decay, seed):
    assert_as_predicted(simulate(JointDecay(C=len(sizes), P=P, sizes=tuple(sizes), weight_decay=decay), seed))


@settings(max_examples=2)
@example({"C": 3, "N": 2, "P": 4}, 0.25, 0.125, 0.875, 9780)  # the integration passes close to a saddle, where its errors grow
@given(shapes(classes=(2, 4)), st.floats(0.05, 2), st.floats(0.1, 3), st.floats(0, 1), SEEDS)
def test_block_kernel_law_and_invariant(shape, single, step, other, seed):
    kernel = {"kernel_diagonal": other + step + single, "kernel_class": other + step, "kernel_other": other}
    assert_as_predicted(simulate(BlockKernel(**shape, **kernel), seed))


@given(shapes(), SEEDS)
def test_the_block_kernel_is_the_dense_one(shape, seed):
    """Theta, its inverse in the invariant, and its three eigenvalues against an n x n matrix."""
    model = BlockKernel(**shape)
    n, labels = model.layout.n, np.asarray(model.layout.labels)
    Theta = np.where(labels[:, None] == labels, model.kernel_class, model.kernel_other)
    Theta = torch.from_numpy(Theta + (model.kernel_diagonal - model.kernel_class) * np.eye(n))
    W, H, b = gaussian_point(model.shapes, seed)
    assert torch.allclose(model.through_kernel(H), H @ Theta, atol=1e-11)
    assert torch.allclose(model.invariant((W, H, b)), W.mT @ W - H @ torch.linalg.solve(Theta, H.mT), atol=1e-10)
    values = sorted({model.single_rate, model.class_rate, model.class_rate + n * model.kernel_other})
    assert set(np.round(np.linalg.eigvalsh(Theta.numpy()), 9)) <= set(np.round(values, 9))


def test_what_the_block_kernel_refuses():
    with pytest.raises(ValueError, match=r"must descend"):
        BlockKernel(kernel_class=2.0)
    with pytest.raises(ValueError, match=r"weight_decay = -1"):
        JointDecay(weight_decay=-1.0)
