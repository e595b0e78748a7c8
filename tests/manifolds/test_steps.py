"""Steps in one go against gradient and retraction one after another, geoopt's own QR, slopes and drift."""

import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import geoopt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from manifolds import geoopt as geoopt_manifolds
from manifolds import normalized_features, steps
from manifolds import pymanopt as pymanopt_manifolds
from manifolds.checks.slopes import measure_slope
from manifolds.class_centering import ClassLayout
from manifolds.metrics import BundleMetric, EmbeddedMetric
from manifolds.renormalized_gradient_step import renormalized_step
from manifolds.retractions import (
    cholesky_retraction,
    horizontal_renormalisation,
    nearest_point,
    polar_retraction,
    renormalisation,
)
from manifolds.torch_optimizer import RiemannianDescent, projected_rule
from tests.manifolds.losses import cross_entropy
from tests.manifolds.points import LAYOUT, P, point
from tests.strategies import Problem, problems
from tests.typed import parameter_on

METRICS = (EmbeddedMetric, BundleMetric)
RETRACTIONS = (polar_retraction, renormalisation, cholesky_retraction, horizontal_renormalisation)
BLOCKS = st.sampled_from([1, 3, 7, 512])


def rounding(X: np.ndarray, G: np.ndarray, V: np.ndarray, eta: float, layout: ClassLayout) -> float:
    """How far apart rounding may put two computations of A Z, the moved deviations Z = (X + V)_D normalized, in Frobenius norm.

    Their entries are sums of at most n + P products, of size |X|_F + eta |G|_F (1 + |X|_2^2 / n): |K D|_F <= |G|_F, and the
    class means of the bundle's gradient have |sym(M (G Y^T)^T) M Y|_F / n <= |G|_F |X|_2^2 / n. What is lost of
    S = Z Z^T / n is amplified by cond(S) in A, and A Z is as large as Z over its smallest standard deviation.
    """
    size = np.linalg.norm(X) + eta * np.linalg.norm(G) * (1 + np.linalg.norm(X, 2) ** 2 / layout.n)
    deviations = np.linalg.svd(layout.deviations(X + V), compute_uv=False) / layout.n**0.5
    condition = (deviations[0] / deviations[-1]) ** 2
    return float(np.finfo(float).eps * (layout.n + len(X)) * condition * size / deviations[-1])


@given(problems(balanced=False), BLOCKS, st.sampled_from([1e-3, 0.1, 1.0]))
def test_a_step_in_one_go_is_gradient_and_retraction_one_after_another(problem: Problem, block: int, eta: float) -> None:
    layout, X, G = problem.layout, problem.X, problem.direction()
    for metric in (cls(layout) for cls in METRICS):
        for retraction in RETRACTIONS:
            V = -eta * metric.gradient(X, G)
            expected, opposite = retraction(X, V, layout), retraction(X, -V, layout)
            with patch.object(steps, "BLOCK_COLUMNS", block), patch.object(steps, "FUSED_FROM", 0):
                once = steps.gradient_step(X, G, eta, metric, retraction)
                torch_once = steps.gradient_step(torch.from_numpy(X), torch.from_numpy(G), eta, metric, retraction)
                batch = steps.gradient_step(X, np.stack([G, -G]), eta, metric, retraction)
            for result in (once, torch_once.numpy(), batch[0]):
                assert np.linalg.norm(result - expected) <= rounding(X, G, V, eta, layout)
            assert np.linalg.norm(batch[1] - opposite) <= rounding(X, G, -V, eta, layout)


@given(problems(balanced=False), BLOCKS, st.sampled_from([1e-3, 0.1, 1.0]))
def test_the_cheaper_steps_are_the_nearest_point_and_the_papers_scheme(problem: Problem, block: int, eta: float) -> None:
    layout, X, G = problem.layout, problem.X, problem.direction()
    with patch.object(steps, "BLOCK_COLUMNS", block):
        nearest = steps.projected_step(X, G, eta, EmbeddedMetric(layout))
        bundle = steps.projected_step(X, G, eta, BundleMetric(layout))
        scheme = renormalized_step(X, G, eta, layout)
    lost = rounding(X, G, -eta * G, eta, layout)
    assert np.linalg.norm(nearest - nearest_point(X - eta * G, layout)) <= lost
    assert np.linalg.norm(scheme - normalized_features.renormalize(X - eta * G, layout)) <= lost
    assert np.linalg.norm(layout.deviations(bundle) - layout.deviations(nearest)) <= lost
    means = layout.means(X) - eta * layout.means(BundleMetric(layout).gradient(X, G))
    assert np.linalg.norm(layout.means(bundle) - means) <= lost


@pytest.mark.parametrize("cls", METRICS)
def test_projected_and_riemannian_steps_agree_to_first_order(cls: type) -> None:
    """Both leave X with velocity -grad f, and differ by eta^2."""
    X, metric = point(), cls(LAYOUT)
    G = np.random.default_rng(3).standard_normal(X.shape)

    def gap(eta: float) -> float:
        return float(np.linalg.norm(steps.projected_step(X, G, eta, metric) - (X - eta * metric.gradient(X, G))))

    verdict = measure_slope("order", gap, 2, rounding=1e-12)
    assert abs(verdict.slope - 2) < 0.05


@given(problems(balanced=False))
def test_the_cholesky_step_is_geoopts_qr_step_on_the_deviations(problem: Problem) -> None:
    """Another library's gradient and retraction, by Householder reflections: the same point."""
    layout, X, G, eta, stiefel = problem.layout, problem.X, problem.direction(), 0.3, geoopt.EuclideanStiefel()
    root = layout.n**0.5
    Q, W = (torch.from_numpy(layout.deviations(A)).mT.contiguous() for A in (X, G))
    theirs = stiefel.retr(Q / root, -eta / layout.n * stiefel.egrad2rgrad(Q / root, W * root))
    with patch.object(steps, "FUSED_FROM", 0):
        ours = steps.gradient_step(X, G, eta, EmbeddedMetric(layout), cholesky_retraction)
    np.testing.assert_allclose(layout.deviations(ours), root * theirs.mT.numpy(), rtol=0, atol=1e-11)
    np.testing.assert_allclose(layout.means(ours), layout.means(X - eta * G), rtol=0, atol=1e-12)


# torch's own: dynamo instantiates the autograd.Function that it traces
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_recorded_compiled_or_vectorised_step_is_the_same_and_differentiable() -> None:
    X, G = torch.from_numpy(point()), torch.from_numpy(np.random.default_rng(1).standard_normal((P, LAYOUT.n)))
    metric = BundleMetric(LAYOUT)
    every: list[Callable[..., torch.Tensor]] = [
        partial(steps.gradient_step, eta=0.1, metric=metric),
        partial(steps.projected_step, eta=0.1, metric=metric),
        partial(renormalized_step, eta=0.1, layout=LAYOUT),
    ]
    for step in every:
        expected = step(X, G)
        leaf = G.clone().requires_grad_(True)
        recorded = step(X, leaf)
        np.testing.assert_allclose(recorded.detach(), expected, rtol=0, atol=1e-12)
        assert torch.autograd.gradcheck(lambda g, step=step: step(X, g), leaf)
        batch = torch.stack([G, -G])
        np.testing.assert_allclose(torch.vmap(step, in_dims=(None, 0))(X, batch)[0], expected, rtol=0, atol=1e-12)
    compiled = torch.compile(step, fullgraph=True, backend="eager")
    np.testing.assert_allclose(compiled(X, G), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["numpy", "torch", "unfused"])
def test_the_result_may_be_written_over_the_gradient(kind: str) -> None:
    X, metric = point(), BundleMetric(LAYOUT)
    G = np.random.default_rng(1).standard_normal(X.shape)
    X, G = (X, G) if kind == "numpy" else (torch.from_numpy(X), torch.from_numpy(G))
    retraction = horizontal_renormalisation if kind == "unfused" else cholesky_retraction
    for step in (
        partial(steps.gradient_step, X, eta=0.1, metric=metric, retraction=retraction),
        partial(steps.projected_step, X, eta=0.1, metric=metric),
        partial(renormalized_step, X, eta=0.1, layout=LAYOUT),
    ):
        expected, buffer = step(G=G), G + 0
        with patch.object(steps, "BLOCK_COLUMNS", 4), patch.object(steps, "FUSED_FROM", 0):
            step(G=buffer, out=buffer)
        np.testing.assert_allclose(buffer, expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"out is \(3, 18\)"):
        steps.projected_step(X, G, 0.1, metric, out=G[:3])


def test_small_steps_are_the_maps_one_after_another_and_large_ones_are_fused() -> None:
    """On both sides of the size in docs/geometry.md below which the fused step is slower."""

    def shape_of(entries: int) -> tuple[ClassLayout, np.ndarray]:
        layout = ClassLayout.equal(10, 50)
        return layout, np.random.default_rng(0).standard_normal((entries // layout.n, layout.n))

    for entries, fused in ((6_000, False), (50_000, False), (110_000, True)):
        layout, X = shape_of(entries)
        metric = EmbeddedMetric(layout)
        for step in (
            partial(steps.gradient_step, X, X, 0.1, metric),
            partial(steps.projected_step, X, X, 0.1, metric),
            partial(renormalized_step, X, X, 0.1, layout),
        ):
            with patch.object(steps, "_step", return_value=X) as whole:
                step()
            assert whole.called == fused


def test_inputs_stay_and_half_precision_is_computed_in_float32() -> None:
    X, metric = point(), EmbeddedMetric(LAYOUT)
    G = np.random.default_rng(1).standard_normal(X.shape)
    before = X.copy(), G.copy()
    steps.gradient_step(X, G, 0.1, metric)
    np.testing.assert_array_equal(X, before[0])
    np.testing.assert_array_equal(G, before[1])
    half = steps.gradient_step(torch.from_numpy(X).half(), torch.from_numpy(G).half(), 0.1, metric)
    assert half.dtype == torch.float16
    single = steps.gradient_step(torch.from_numpy(X).half().float(), torch.from_numpy(G).half().float(), 0.1, metric)
    np.testing.assert_array_equal(half, single.half())
    assert steps.gradient_step(X.astype(np.float32), G.astype(np.float32), 0.1, metric, cholesky_retraction).dtype == np.float32


def test_a_step_that_loses_rank_and_an_empty_manifold_are_refused() -> None:
    X, metric = point(), EmbeddedMetric(LAYOUT)
    with pytest.raises(ValueError, match=f"{P} of {P} directions are lost"):
        steps.projected_step(X, X, 1.0, metric)
    with pytest.raises(ValueError, match=f"{P} of {P} directions are lost"):
        renormalized_step(X, X, 1.0, LAYOUT)
    empty = EmbeddedMetric(ClassLayout.equal(3, 2))
    with pytest.raises(ValueError, match=r"C\(N-1\) = 3 < P = 4"):
        steps.gradient_step(np.ones((4, 6)), np.ones((4, 6)), 1.0, empty)


def test_a_step_holds_at_most_2_x_of_memory() -> None:
    layout, rng = ClassLayout.equal(8, 1000), np.random.default_rng(0)
    X = nearest_point(rng.standard_normal((200, layout.n)), layout)
    G = rng.standard_normal(X.shape)
    for step in (
        partial(steps.gradient_step, X, G, 0.01, BundleMetric(layout)),
        partial(steps.gradient_step, X, G, 0.01, EmbeddedMetric(layout), cholesky_retraction),
        partial(steps.projected_step, X, G, 0.01, BundleMetric(layout)),
        partial(renormalized_step, X, G, 0.01, layout),
    ):
        step()
        tracemalloc.start()
        step()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2 * X.nbytes


def walk(step: str, dtype: type, count: int) -> float:
    """Largest residual, measured in float64, on `count` steps of random ambient gradients."""
    layout, rng = ClassLayout((4, 5, 6)), np.random.default_rng(0)
    metric = BundleMetric(layout)
    X = point(layout, 3).astype(dtype)
    worst = 0.0
    for k in range(count):
        G = rng.standard_normal(X.shape).astype(dtype)
        retraction = cholesky_retraction if step == "cholesky" else polar_retraction
        X = steps.projected_step(X, G, 0.1, metric) if step == "projected" else steps.gradient_step(X, G, 0.1, metric, retraction)
        if k % 100 == 99:
            X = X - layout.spread(0.5 * layout.means(X))  # the walk of the means is free: keep it near
            worst = max(worst, float(normalized_features.constraint_residual(X.astype(np.float64), layout)))
    return worst


DRIFT = [(np.float64, 1e-12), (np.float32, 1e-4)]


@pytest.mark.parametrize(("dtype", "allowed"), DRIFT)
@pytest.mark.parametrize("step", ["polar", "cholesky", "projected"])
def test_steps_do_not_drift(step: str, dtype: type, allowed: float) -> None:
    assert walk(step, dtype, 500) < allowed


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "allowed"), DRIFT)
@pytest.mark.parametrize("step", ["polar", "cholesky", "projected"])
def test_steps_do_not_drift_in_1e5(step: str, dtype: type, allowed: float) -> None:
    assert walk(step, dtype, 100_000) < allowed


GEOOPT = (
    geoopt_manifolds.NormalizedFeatures,
    geoopt_manifolds.EmbeddedNormalizedFeatures,
    geoopt_manifolds.EmbeddedNormalizedFeaturesExact,
)


@pytest.mark.parametrize("cls", GEOOPT)
def test_riemannian_descent_is_geoopts_sgd(cls: type) -> None:
    ends = []
    for optimizer_class in (RiemannianDescent, geoopt.optim.RiemannianSGD):
        x = parameter_on(cls(LAYOUT), torch.from_numpy(point()))
        head = torch.nn.Parameter(torch.ones(P, 1, dtype=torch.float64))
        optimizer = optimizer_class([x, head], lr=0.5)

        def closure(x=x, head=head, optimizer=optimizer) -> torch.Tensor:
            optimizer.zero_grad()
            loss = cross_entropy(x * head, LAYOUT)
            loss.backward()
            return loss

        step: Any = optimizer.step  # torch declares a closure of floats
        losses = [step(closure).item() for _ in range(20)]
        assert losses[-1] < losses[0]
        ends.append((x.detach().numpy(), head.detach().numpy()))
    for ours, theirs in zip(*ends, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_projected_descent_lowers_a_loss_and_wrong_use_is_refused() -> None:
    x = parameter_on(GEOOPT[1](LAYOUT), torch.from_numpy(point()))
    idle = torch.nn.Parameter(torch.ones(2))
    optimizer = RiemannianDescent([x, idle], lr=0.5, rule=projected_rule)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = cross_entropy(x, LAYOUT)
        loss.backward()
        losses.append(loss.item())
        assert optimizer.step() is None
    assert (np.diff(losses) < 0).all()
    assert normalized_features.constraint_residual(x.detach(), LAYOUT) < 1e-13
    with pytest.raises(ValueError, match=r"lr = -1\.0"):
        RiemannianDescent([x], lr=-1.0)
    with pytest.raises(ValueError, match=r"use geoopt\.optim"):
        RiemannianDescent([parameter_on(geoopt.EuclideanStiefel(), torch.eye(3))], lr=1.0)


@pytest.mark.parametrize("cls", [pymanopt_manifolds.NormalizedFeatures, pymanopt_manifolds.EmbeddedNormalizedFeatures])
def test_pymanopts_step_is_its_gradient_and_retraction(cls: type) -> None:
    manifold, X = cls(LAYOUT, P), point()
    G = np.random.default_rng(0).standard_normal(X.shape)
    expected = manifold.retraction(X, -0.2 * manifold.euclidean_to_riemannian_gradient(X, G))
    np.testing.assert_allclose(manifold.gradient_step(X, G, 0.2), expected, rtol=0, atol=1e-12)
