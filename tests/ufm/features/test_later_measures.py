"""Measures that came after: conventions on unequal classes, NC0 and its recursions, NRC, VCI, ranks, NECO, NCI, margins."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, minimize

from manifolds.class_centering import ClassLayout
from tests.strategies import features as random_features
from tests.strategies import problems
from tests.typed import linear
from ufm.features.column_sums import ColumnSums, bias_free_step, cross_entropy_step, squared_error_step, zhao_nc0
from ufm.features.conventions import notebook_nc1, notebook_statistics, roy_effective_rank, xu_vci, xu_vci_of
from ufm.features.margins import hull_distance, jiang_one_vs_rest_margin
from ufm.features.measures import (
    phd_equinorm,
    phd_maximal_angle,
    phd_nc1,
    phd_nc3,
    sakamoto_rnc1,
    sakamoto_rnc1_of_mean_norm,
)
from ufm.features.out_of_distribution import ammar_neco, liu_nci
from ufm.features.regression_collapse import andriopoulos_nrc1, andriopoulos_nrc2, andriopoulos_nrc3
from ufm.features.statistics import block_statistics, statistics_of


@given(problems(balanced=False))
def test_notebook_nc1_is_the_unweighted_formula_and_differs_on_unequal_classes(problem):
    H, layout = problem.H, problem.layout
    stats = block_statistics(H, layout)
    M = np.stack([H[:, np.asarray(layout.labels) == c].mean(1) for c in range(layout.C)], 1)
    centred = M - M.mean(1, keepdims=True)
    D = H - np.repeat(M, layout.sizes, axis=1)
    dense = np.trace(D @ D.T / layout.n @ np.linalg.pinv(centred @ centred.T / layout.C, rcond=1e-10)) / layout.C
    assert notebook_nc1(stats) == pytest.approx(dense, rel=1e-7)
    assert abs(notebook_nc1(stats) / phd_nc1(stats) - 1) > 1e-6


@given(problems())
def test_on_equal_classes_all_conventions_agree(problem):
    stats = block_statistics(problem.H, problem.layout)
    assert notebook_nc1(stats) == pytest.approx(phd_nc1(stats), rel=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e6, 1e8])
def test_on_equal_classes_all_conventions_agree_however_far_away_the_features_lie(offset):
    """What the class means lost when they were rounded is kept: it was dropped, and with it most digits of NC1."""
    rng, y = np.random.default_rng(0), np.repeat(np.arange(4), 9)
    stats = statistics_of(offset + rng.standard_normal((4, 5))[y] + 0.1 * rng.standard_normal((36, 5)), y, 4)
    assert notebook_nc1(stats) == pytest.approx(phd_nc1(stats), rel=1e-12)
    assert notebook_statistics(stats).n == stats.n


@given(problems(balanced=False))
def test_nc2_and_nc3_of_the_notebook_are_those_about_the_mean_of_the_class_means(problem):
    H, layout = problem.H, problem.layout
    stats, W = block_statistics(H, layout), problem.rng.standard_normal((layout.C, problem.P))
    M = np.stack([H[:, np.asarray(layout.labels) == c].mean(1) for c in range(layout.C)], 1)
    M = M - M.mean(1, keepdims=True)  # as the notebook writes it, from here on
    norms = np.linalg.norm(M, axis=0)
    coherence = (M / norms).T @ (M / norms) + 1 / (layout.C - 1)
    ours = notebook_statistics(stats)
    assert phd_equinorm(ours.centred_means) == pytest.approx(norms.std(ddof=1) / norms.mean(), rel=1e-9)
    angle = np.abs(coherence - np.diag(np.diag(coherence))).sum() / (layout.C * (layout.C - 1))
    assert phd_maximal_angle(ours.centred_means) == pytest.approx(angle, rel=1e-9, abs=1e-12)
    distance = np.linalg.norm(W.T / np.linalg.norm(W) - M / np.linalg.norm(M)) ** 2
    assert phd_nc3(ours, W) == pytest.approx(distance, rel=1e-9)
    assert abs(phd_nc3(stats, W) / distance - 1) > 1e-9
    assert ours.n == layout.n


def test_sizes_30_to_1_change_nc1_by_more_than_a_third():
    """The same data, two published conventions: the number means nothing without its convention."""
    rng, layout = np.random.default_rng(0), ClassLayout((300, 100, 30, 10))
    stats = block_statistics(random_features(layout, 6, rng, 1.0), layout)
    assert not 0.75 < notebook_nc1(stats) / phd_nc1(stats) < 1.33


@given(problems())
def test_vci_from_omega_and_from_statistics(problem):
    layout = problem.layout
    stats = block_statistics(problem.H, layout)
    omega = np.linalg.svd(layout.means(problem.X) - problem.X.mean(1, keepdims=True), compute_uv=False)
    K = min(layout.C - 1, problem.P)
    dense = 1 - np.trace(np.linalg.solve(stats.sigma_t, stats.sigma_b)) / K
    assert xu_vci_of(stats) == pytest.approx(dense, abs=1e-10)
    assert float(xu_vci(omega[:K], rank=layout.C - 1)) == pytest.approx(dense, abs=1e-8)


def test_effective_rank():
    assert roy_effective_rank(np.eye(5)[:, :3]) == pytest.approx(3)
    assert roy_effective_rank(np.outer(np.arange(1, 5), np.ones(3))) == pytest.approx(1)
    with pytest.raises(ValueError, match="zero"):
        roy_effective_rank(np.zeros((4, 2)))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_nc0_recursion_of_a_trained_network(nesterov, smoothing):
    """A ReLU net, momentum, mini-batches and a rate drop: 1^T W and 1^T b without data or labels, to round-off."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 11), torch.nn.BatchNorm1d(11), torch.nn.ReLU(), torch.nn.Linear(11, 4)).double()
    last, wd, momentum = linear(net[-1]), 0.02, 0.9
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=momentum, weight_decay=wd, nesterov=nesterov)
    states = [ColumnSums(x.detach().sum(0)) for x in (last.weight, last.bias)]
    for step in range(60):
        lr = 0.1 if step < 30 else 0.01
        for group in optimizer.param_groups:
            group["lr"] = lr
        x, y = torch.randn(8, 6).double(), torch.randint(4, (8,))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y, label_smoothing=smoothing).backward()
        optimizer.step()
        states = [cross_entropy_step(s, lr, wd, momentum, nesterov) for s in states]
    for state, parameter in zip(states, (last.weight, last.bias), strict=True):
        assert torch.allclose(state.sums, parameter.detach().sum(0), rtol=0, atol=2e-15)
    assert zhao_nc0(last.weight.detach()) == pytest.approx(float(states[0].sums.norm()), abs=1e-14)


def test_nc0_is_left_by_adamw():
    """The rival: the same net under AdamW does not follow the recursion."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 4).double()
    state, optimizer = ColumnSums(layer.weight.detach().sum(0)), torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.02)
    for _ in range(10):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(torch.randn(8, 6).double()), torch.randint(4, (8,))).backward()
        optimizer.step()
        state = cross_entropy_step(state, 0.1, 0.02)
    assert float((state.sums - layer.weight.detach().sum(0)).abs().max()) > 0.01


@pytest.mark.parametrize("nesterov", [False, True])
def test_squared_error_recursion_needs_features_and_no_labels(nesterov):
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(6, 7), torch.nn.ReLU(), torch.nn.Linear(7, 3)).double()
    other = copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.02, nesterov=nesterov)
    last = linear(net[-1])
    state = ColumnSums(torch.cat([last.weight.detach().sum(0), last.bias.detach().sum()[None] - 1]))
    for _ in range(40):
        x, y = torch.randn(8, 6).double(), torch.nn.functional.one_hot(torch.randint(3, (8,)), 3).double()
        h = torch.cat([net[:-1](x).detach(), torch.ones(8, 1).double()], 1)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()
        state = squared_error_step(state, h.T @ h / 8, 0.1, 0.02, 0.9, nesterov, scale=2 / 3)
    true = torch.cat([last.weight.detach().sum(0), last.bias.detach().sum()[None] - 1])
    assert torch.allclose(state.sums, true, rtol=0, atol=1e-13)
    assert float((linear(other[-1]).weight - last.weight).detach().sum(0).abs().max()) > 0.05  # it moved


def test_without_a_bias_the_mean_drives_the_sums():
    rng = np.random.default_rng(0)
    H, y = rng.standard_normal((5, 40)) + 1, rng.integers(0, 3, 40)
    W, state = rng.standard_normal((3, 5)), None
    state = ColumnSums(W.sum(0))
    for _ in range(30):
        R = W @ H - np.eye(3)[:, y]
        W = W - 0.05 * (R @ H.T / 40 + 0.1 * W)
        state = bias_free_step(state, H @ H.T / 40, H.mean(1), 0.05, 0.1)
    assert state.sums == pytest.approx(W.sum(0), abs=1e-13)


@given(st.integers(2, 6), st.integers(2, 5), st.integers(0, 2**20))
def test_the_distance_from_a_hull_by_nnls_is_that_of_a_quadratic_program(k, P, seed):
    rng = np.random.default_rng(seed)
    points, x = rng.standard_normal((k, P)), 1.5 * rng.standard_normal(P)
    inside = [LinearConstraint(np.eye(k), 0, np.inf), LinearConstraint(np.ones((1, k)), 1, 1)]
    result = minimize(
        lambda a: ((points.T @ a - x) ** 2).sum(),
        np.full(k, 1 / k),
        jac=lambda a: 2 * points @ (points.T @ a - x),
        constraints=inside,
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    assert hull_distance(points, x) == pytest.approx(np.sqrt(result.fun), abs=2e-6)
    assert hull_distance(points, points.mean(0)) < 1e-12


@given(st.integers(2, 8), st.floats(0.1, 10))
def test_margin_of_a_simplex_and_of_a_polygon(C, size):
    assert jiang_one_vs_rest_margin(size * (np.eye(C) - 1 / C)) == pytest.approx(C / (C - 1))
    angles = 2 * np.pi * np.arange(C + 2) / (C + 2)
    polygon = np.stack([np.cos(angles), np.sin(angles)], 1)
    assert jiang_one_vs_rest_margin(torch.from_numpy(polygon)) == pytest.approx(1 - np.cos(angles[1]))


@settings(max_examples=8)
@given(st.integers(0, 2**20), st.integers(1, 3))
def test_neco_and_nci_by_their_dense_formulas(seed, k):
    rng = np.random.default_rng(seed)
    train, test, W, b = (
        rng.standard_normal((30, 5)) + 2,
        rng.standard_normal((4, 5)),
        rng.standard_normal((3, 5)),
        rng.standard_normal(3),
    )
    values, E = np.linalg.eigh(np.cov(train.T))
    z = test - train.mean(0)
    top = E[:, np.argsort(values)[::-1][:k]]
    dense = np.linalg.norm(z @ top @ top.T, axis=1) / np.linalg.norm(z, axis=1)
    assert ammar_neco(test, train, k) == pytest.approx(dense, abs=1e-10)
    picked = W[(test @ W.T + b).argmax(1)]
    nci = [w @ v / np.linalg.norm(v) + 0.01 * np.abs(h).sum() for w, v, h in zip(picked, z, test, strict=True)]
    assert liu_nci(test, W, b, train.mean(0), 0.01) == pytest.approx(np.array(nci), rel=1e-12)
    t = torch.from_numpy
    assert ammar_neco(t(test), t(train), k).numpy() == pytest.approx(dense, abs=1e-10)
    assert liu_nci(t(test), t(W), t(b), t(train).mean(0), 0.01).numpy() == pytest.approx(np.array(nci), rel=1e-12)


def test_nrc_of_features_that_have_and_have_not_collapsed():
    rng = np.random.default_rng(0)
    Y, frame = rng.standard_normal((40, 2)), np.linalg.qr(rng.standard_normal((6, 2)))[0]
    collapsed, W = Y @ frame.T + 3, frame.T
    assert andriopoulos_nrc1(collapsed, 2) < 1e-25
    assert andriopoulos_nrc2(collapsed, W) < 1e-25
    loose = collapsed + 0.5 * rng.standard_normal(collapsed.shape)
    assert andriopoulos_nrc1(loose, 2) > 0.05
    assert andriopoulos_nrc1(loose, 6) == andriopoulos_nrc1(loose, 9) == 0  # q >= P: nothing is left outside
    assert andriopoulos_nrc2(loose, W) >= andriopoulos_nrc1(loose, 2)
    values, E = np.linalg.eigh(np.cov(Y.T, bias=True))
    root = (E * np.sqrt(np.sqrt(values) - 0.1)) @ E.T
    assert andriopoulos_nrc3(root @ frame.T, Y, 0.01) < 1e-25
    assert andriopoulos_nrc3(frame.T, Y, 0.01) > 1e-3


def test_what_the_measures_refuse():
    x = np.ones((3, 2))
    for call, message in (
        (lambda: ammar_neco(x, x, 3), "k = 3"),
        (lambda: ammar_neco(x, x, 1), "lies on the mean"),
        (lambda: ammar_neco(np.eye(4), np.eye(4)[:3], 3), "k = 3: the training features span 2 directions"),
        (lambda: liu_nci(x, np.eye(2), np.zeros(2), np.zeros(2), -1.0), "alpha = -1"),
        (lambda: jiang_one_vs_rest_margin(np.zeros((3, 2))), "row 0 of W is zero"),
        (lambda: andriopoulos_nrc1(x, 0), "q = 0"),
        (lambda: andriopoulos_nrc2(np.eye(2), np.zeros((1, 2))), "W is zero"),
        (lambda: andriopoulos_nrc3(np.eye(2), np.eye(2), 9.0), "no direction of the targets"),
        (lambda: xu_vci(np.ones(3), rank=2), "rank = 2 < 3"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@given(problems(balanced=False), st.floats(1e-3, 1e3))
def test_rnc1_is_the_within_class_variance_of_features_over_their_largest_or_mean_norm(problem, scale):
    H, layout = problem.H, problem.layout
    stats, rows, longest = block_statistics(H, layout), H.T, np.linalg.norm(H, axis=0).max()
    unit = H / longest
    D = np.concatenate([unit[:, np.asarray(layout.labels) == c] for c in range(layout.C)], 1)
    D = D - np.concatenate(
        [np.repeat(unit[:, np.asarray(layout.labels) == c].mean(1)[:, None], k, 1) for c, k in enumerate(layout.sizes)], 1
    )
    paper, code = sakamoto_rnc1(stats, rows), sakamoto_rnc1_of_mean_norm(stats, rows)
    assert paper == pytest.approx((D**2).sum() / layout.n, rel=1e-9)
    assert code == pytest.approx(paper * (longest / np.linalg.norm(H, axis=0).mean()) ** 2, rel=1e-12)
    assert sakamoto_rnc1(block_statistics(scale * H, layout), scale * rows) == pytest.approx(paper, rel=1e-9)
    tensors = torch.from_numpy(np.ascontiguousarray(H)), torch.from_numpy(np.ascontiguousarray(rows))
    assert sakamoto_rnc1(block_statistics(tensors[0], layout), tensors[1]) == pytest.approx(paper, rel=1e-12)


def test_rnc1_refuses_features_of_other_statistics_and_without_a_scale():
    layout = ClassLayout((2, 3))
    H = np.random.default_rng(0).standard_normal((4, 5))
    with pytest.raises(ValueError, match="not the"):
        sakamoto_rnc1(block_statistics(H, layout), H)
    with pytest.raises(ValueError, match="zero"):
        sakamoto_rnc1(block_statistics(0 * H, layout), 0 * H.T)


def data(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (50, 6), W (3, 6) and targets (50, 3)."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((50, 6)), rng.standard_normal((3, 6)), rng.standard_normal((50, 3))


@pytest.mark.parametrize(
    ("size", "dtype", "rtol"), [(1e-25, np.float32, 1e-5), (1e25, np.float32, 1e-5), (1e-120, np.float64, 1e-9)]
)
def test_directions_do_not_depend_on_a_size_whose_square_the_dtype_cannot_hold(size: float, dtype: type, rtol: float) -> None:
    """Lengths of 1e25 are infinite in float32 when squared, and every feature was then 0: NRC1 = 0, full collapse."""
    H, W, Y = data()
    large, V = (size * H).astype(dtype), (size * W).astype(dtype)
    assert andriopoulos_nrc1(large, 2) == pytest.approx(andriopoulos_nrc1(H, 2), rel=rtol)
    assert andriopoulos_nrc2(large, V) == pytest.approx(andriopoulos_nrc2(H, W), rel=rtol)
    assert andriopoulos_nrc3(V, Y, 0.01) == pytest.approx(andriopoulos_nrc3(W, Y, 0.01), rel=rtol)
    np.testing.assert_allclose(ammar_neco(large, large[:40], 3), ammar_neco(H, H[:40], 3), rtol=rtol)
    assert jiang_one_vs_rest_margin(V) == pytest.approx(jiang_one_vs_rest_margin(W), rel=rtol)
    assert zhao_nc0(V) == pytest.approx(size * zhao_nc0(W), rel=rtol)


def test_shapes_that_numpy_would_stretch_are_refused() -> None:
    """A classifier of one target beside three, a bias or a mean of one entry: each gave a number."""
    H, W, Y = data()
    with pytest.raises(ValueError, match=r"\(1, 6\): \(3, P\) is needed"):
        andriopoulos_nrc3(W[:1], Y, 0.01)
    with pytest.raises(ValueError, match=r"b \(1,\).*\(3,\) and \(6,\) are needed"):
        liu_nci(H, W, np.ones(1), H.mean(0), 0.1)
    with pytest.raises(ValueError, match=r"global_mean \(1,\).*\(3,\) and \(6,\) are needed"):
        liu_nci(H, W, np.ones(3), np.ones(1), 0.1)
    with pytest.raises(ValueError, match=r"\(6,\): \(n, P\) is needed"):
        zhao_nc0(W[0])


def test_what_is_no_number_is_called_so() -> None:
    """NaN was refused as a feature on the mean or a row of zeros, or came back."""
    H, W, Y = data()
    for call in (
        lambda: andriopoulos_nrc1(np.nan * H, 2),
        lambda: andriopoulos_nrc2(H, np.nan * W),
        lambda: andriopoulos_nrc3(W, np.inf * Y, 0.01),
        lambda: ammar_neco(np.nan * H, H, 2),
        lambda: liu_nci(np.nan * H, W, np.ones(3), H.mean(0), 0.1),
        lambda: jiang_one_vs_rest_margin(np.nan * W),
        lambda: zhao_nc0(np.nan * W),
    ):
        with pytest.raises(ValueError, match="NaN or infinite"), np.errstate(invalid="ignore"):
            call()
    with pytest.raises(ValueError, match="c = -1"):
        andriopoulos_nrc3(W, Y, -1.0)
    with pytest.raises(ValueError, match="alpha = inf"):
        liu_nci(H, W, np.ones(3), H.mean(0), np.inf)
    with pytest.raises(ValueError, match=r"q is 2\.5"):
        andriopoulos_nrc1(H, 2.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_vci_divides_by_the_rank_that_sigma_b_has_where_class_means_coincide(offset: float) -> None:
    """Two of three classes share their mean: the rank is 1, and C - 1 = 2 gave 0.51 where the formula has 0.03."""
    rng, y = np.random.default_rng(0), np.repeat([0, 1, 2], 10)
    D = rng.standard_normal((30, 3))
    D -= np.stack([D[y == c].mean(0) for c in range(3)])[y]
    H = np.array([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]])[y] + 0.125 * D
    M = np.stack([H[y == c].mean(0) for c in range(3)]) - H.mean(0)
    B, T = M.T @ M / 3, np.cov(H.T, bias=True)
    exact = 1 - np.trace(np.linalg.inv(T) @ B) / np.linalg.matrix_rank(B)
    assert np.linalg.matrix_rank(B) == 1
    assert xu_vci_of(statistics_of(H + offset, y, 3)) == pytest.approx(exact, rel=1e-6)
    with pytest.raises(ValueError, match="all class means coincide"):
        xu_vci_of(statistics_of(D[:10].repeat(3, 0)[np.argsort(np.tile([0, 1, 2], 10), kind="stable")], y, 3))
