"""The quotient by O(P): horizontal spaces against their definition, laws, Hessians of invariant losses, and what they are for."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import geoopt
import numpy as np
import pymanopt
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pymanopt.optimizers import TrustRegions

from manifolds import geoopt as geoopt_manifolds
from manifolds import pymanopt as pymanopt_manifolds
from manifolds.bundle.connection import horizontal
from manifolds.checks.derivatives import check_gradient, check_hessian
from manifolds.checks.manifold import check_manifold
from manifolds.checks.views import PymanoptView
from manifolds.generalized import GeneralizedStiefelMetric
from manifolds.linalg import skew
from manifolds.metric import Metric
from manifolds.metrics import BundleMetric, EmbeddedMetric
from manifolds.quotient import QuotientMetric
from manifolds.retractions import nearest_point
from tests.manifolds.points import LAYOUT, P, cost
from tests.manifolds.test_generalized import FACTOR
from tests.strategies import Problem, problems
from tests.typed import parameter_on

METRICS: dict[str, Callable[[Any], Metric]] = {
    "embedded": EmbeddedMetric,
    "bundle": BundleMetric,
    "generalized": GeneralizedStiefelMetric,
}
PLAIN: dict[str, Callable[[], Any]] = {
    "embedded": lambda: pymanopt_manifolds.EmbeddedNormalizedFeatures(LAYOUT, P, seed=1),
    "bundle": lambda: pymanopt_manifolds.NormalizedFeatures(LAYOUT, P, seed=1),
    "generalized": lambda: pymanopt_manifolds.GeneralizedStiefel(FACTOR, P, seed=1),
}


@pytest.mark.parametrize("name", list(METRICS))
@given(problem=problems(balanced=False), means=st.sampled_from([1.0, 1e6]))
@settings(max_examples=15, deadline=None)
def test_horizontal_vectors_are_the_tangent_ones_across_the_orbit(name: str, problem: Problem, means: float) -> None:
    layout, rng = problem.layout, problem.rng
    metric = METRICS[name](layout)
    quotient = QuotientMetric(metric)
    X = nearest_point(problem.H + layout.spread(means * layout.means(problem.H)), layout)
    Z, W = rng.standard_normal((2, *X.shape))
    U, V = quotient.project(X, Z), quotient.project(X, W)
    size = float(np.abs(X).max())
    Omega = skew(rng.standard_normal((problem.P, problem.P)))
    turn = Omega @ X
    np.testing.assert_allclose(metric.project(X, turn), turn, rtol=0, atol=1e-11 * size**2)  # the orbit is in the manifold
    allowed = 1e-11 * size
    assert abs(metric.inner(X, turn, U)) < allowed * float(metric.norm(X, turn) * metric.norm(X, Z))
    assert metric.tangency_residual(X, U) < allowed * np.linalg.norm(Z)
    assert quotient.tangency_residual(X, U) < allowed * np.linalg.norm(Z)
    if problem.P > 1:
        assert quotient.tangency_residual(X, turn) > 0.1 * np.linalg.norm(Omega)  # a vertical one is none
    assert metric.norm(X, quotient.project(X, U) - U) < allowed * float(metric.norm(X, Z))
    scale = float(metric.norm(X, Z) * metric.norm(X, W))
    assert abs(metric.inner(X, U, W) - metric.inner(X, Z, V)) < allowed * scale
    Q = np.linalg.qr(rng.standard_normal((problem.P, problem.P)))[0]
    moved = float(1e-10 * size * np.linalg.norm(Z) + 1e-15 * size * abs(U).max())  # the second by the rounding of Q X
    np.testing.assert_allclose(quotient.project(Q @ X, Q @ Z), Q @ U, rtol=0, atol=moved)
    tensors = [torch.as_tensor(A) for A in (X, Z)]
    # U = Z - T X with |T| <= |Z|, and T comes from deviations and singular values right to eps |Z|: T X is to eps |Z| |X|,
    # without the eps |Z| |X|^2 of a T from the rounded S X of the fibre
    np.testing.assert_allclose(quotient.project(*tensors), U, rtol=0, atol=float(1e-13 * size * np.linalg.norm(Z)))
    # Z and its projection have the same part along the orbit, at an X that is on the manifold to eps |X|
    ZP = metric.project(X, Z)
    same = 1e-14 * size * (np.linalg.norm(Z) + np.linalg.norm(ZP))
    np.testing.assert_allclose(metric.rotation_rate(X, Z), metric.rotation_rate(X, ZP), rtol=0, atol=float(same))
    if name == "bundle":  # across the fibre and across the orbit: orthogonal to S X for every S
        lifted = horizontal(X, U, layout)
        assert np.linalg.norm(lifted @ X.T) < allowed * np.linalg.norm(lifted) * np.linalg.norm(X)


@pytest.mark.parametrize("name", list(PLAIN))
def test_the_quotient_passes_every_check_of_a_manifold_that_it_has(name: str) -> None:
    quotient = pymanopt_manifolds.OrthogonalQuotient(PLAIN[name]())
    order = 1 if name == "bundle" else 2
    report = check_manifold(PymanoptView(quotient), retraction_order=order)
    assert report.passed, report.failures
    assert set(report.missing) == {"exp and log", "geodesic", "parallel transport"}
    assert quotient.dim == PLAIN[name]().dim - P * (P - 1) // 2


def invariant(n: int) -> tuple[Callable, Callable, Callable]:
    """f(X) = h(X^T X), its ambient gradient and Hessian: no rotation changes it."""
    A = np.random.default_rng(0).standard_normal((n, n))
    A = A + A.T

    def f(X: np.ndarray) -> float:
        return float(np.sum(A * (X.T @ X)) / 2 + np.sum(np.sin(X.T @ X)) / 4)

    def gradient(X: np.ndarray) -> np.ndarray:
        return X @ (A + np.cos(X.T @ X) / 2)

    def hessian(X: np.ndarray, U: np.ndarray) -> np.ndarray:
        return U @ (A + np.cos(X.T @ X) / 2) - X @ (np.sin(X.T @ X) * (U.T @ X + X.T @ U)) / 2

    return f, gradient, hessian


@pytest.mark.parametrize("name", list(PLAIN))
def test_gradient_and_hessian_of_an_invariant_loss(name: str) -> None:
    plain = PLAIN[name]()
    quotient = pymanopt_manifolds.OrthogonalQuotient(plain)
    f, gradient, hessian = invariant(plain.random_point().shape[-1])
    view = PymanoptView(quotient)

    def riemannian(X: np.ndarray) -> np.ndarray:
        return quotient.euclidean_to_riemannian_gradient(X, gradient(X))

    def second(X: np.ndarray, U: np.ndarray) -> np.ndarray:
        return quotient.euclidean_to_riemannian_hessian(X, gradient(X), hessian(X, U), U)

    for verdict in check_gradient(view, f, riemannian) + check_hessian(view, f, riemannian, second):
        assert verdict.passed, str(verdict)
    X = quotient.random_point()
    np.testing.assert_allclose(riemannian(X), plain.euclidean_to_riemannian_gradient(X, gradient(X)), atol=1e-10)


def rayleigh(manifold: Any, n: int) -> pymanopt.Problem:
    """tr((X X^T)^-1 X S X^T) / 2: the row space of X alone decides, and the lowest eigenvectors of S are its one minimum."""
    A = np.random.default_rng(3).standard_normal((n, n))
    S = torch.as_tensor(A @ A.T / n)

    @pymanopt.function.pytorch(manifold)
    def ratio(X: torch.Tensor) -> torch.Tensor:
        return torch.trace(torch.linalg.solve(X @ X.T, X @ S @ X.T)) / 2

    return pymanopt.Problem(manifold, ratio)


def trace(manifold: Any, n: int) -> pymanopt.Problem:
    """tr(X S X^T) / 2."""
    A = np.random.default_rng(3).standard_normal((n, n))
    S = torch.as_tensor(A @ A.T / n)

    @pymanopt.function.pytorch(manifold)
    def energy(X: torch.Tensor) -> torch.Tensor:
        return torch.sum((X @ S) * X) / 2

    return pymanopt.Problem(manifold, energy)


def hessian_spectrum(problem: pymanopt.Problem, X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Absolute eigenvalues of the Riemannian Hessian at X, of g(u_i, Hess u_j) beside g(u_i, u_j) for a basis u, ascending."""
    manifold = problem.manifold
    basis = [manifold.projection(X, rng.standard_normal(X.shape)) for _ in range(manifold.dim)]
    metric: Any = manifold.metric  # type: ignore[missing-attribute]
    lowered = np.array([metric.flat(X, u).ravel() for u in basis])
    images = np.array([problem.riemannian_hessian(X, u).ravel() for u in basis])
    matrix, products = lowered @ images.T, lowered @ np.asarray(basis, float).reshape(lowered.shape).T
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-8 * np.abs(matrix).max())
    return np.sort(np.abs(scipy.linalg.eigh(matrix + matrix.T, products + products.T, eigvals_only=True)))


@pytest.mark.parametrize(("name", "loss"), [("embedded", trace), ("bundle", rayleigh), ("generalized", trace)])
def test_trust_regions_meet_a_regular_hessian_on_the_quotient_only(name: str, loss: Callable) -> None:
    """At the minimum the manifold has P (P - 1) / 2 zero eigenvalues, the quotient none; there the last steps are superlinear."""
    plain = PLAIN[name]()
    quotient = pymanopt_manifolds.OrthogonalQuotient(PLAIN[name]())
    n = plain.random_point().shape[-1]
    problem, norms = loss(quotient, n), []
    gradient = problem.riemannian_gradient

    def recorded(X: np.ndarray) -> np.ndarray:
        value = gradient(X)
        norms.append(quotient.norm(X, value))
        return value

    problem._riemannian_gradient = recorded
    X = (
        TrustRegions(verbosity=0, min_gradient_norm=1e-11, max_iterations=60)
        .run(problem, initial_point=plain.random_point())
        .point
    )
    assert quotient.metric.tangency_residual(X, gradient(X)) < 1e-9
    rng, turns = np.random.default_rng(0), P * (P - 1) // 2
    whole, across = (hessian_spectrum(each, X, rng) for each in (loss(plain, n), problem))
    assert len(whole) == len(across) + turns
    assert whole[turns - 1] < 1e-8 * whole[-1]
    assert across[0] > 1e-5 * across[-1]
    np.testing.assert_allclose(whole[turns:], across, rtol=1e-6)
    falling = [norm for norm in norms if norm < 1e-2 * norms[0]]
    assert falling[-1] < 1e-10 * norms[0]
    # order at least 1.5 in the last steps above rounding
    orders = [np.log(b / norms[0]) / np.log(a / norms[0]) for a, b in pairwise(falling) if b > 1e-13]
    assert max(orders[-3:]) > 1.5


@pytest.mark.parametrize("name", list(PLAIN))
def test_a_loss_that_sees_rotations_is_told(name: str) -> None:
    quotient = pymanopt_manifolds.OrthogonalQuotient(PLAIN[name]())
    f, gradient, _ = cost(P, quotient.random_point().shape[-1])
    failures = [
        verdict.name
        for verdict in check_gradient(
            PymanoptView(quotient), f, lambda X: quotient.euclidean_to_riemannian_gradient(X, gradient(X))
        )
        if not verdict.passed
    ]
    assert failures == ["the cost is invariant under rotation"]


def test_what_is_refused() -> None:
    plain = PLAIN["embedded"]()
    with pytest.raises(ValueError, match="is not a manifold of this module"):
        pymanopt_manifolds.OrthogonalQuotient(pymanopt.manifolds.Stiefel(5, 2))
    with pytest.raises(ValueError, match="no metric to take the quotient of"):
        pymanopt_manifolds.OrthogonalQuotient(pymanopt_manifolds.OrthogonalQuotient(plain))
    with pytest.raises(ValueError, match="no metric to take the quotient of"):
        QuotientMetric(LAYOUT)  # type: ignore[bad-argument-type]
    with pytest.raises(ValueError, match="cholesky retraction does not commute with rotations X -> Q X"):
        pymanopt_manifolds.OrthogonalQuotient(pymanopt_manifolds.EmbeddedNormalizedFeatures(LAYOUT, P, retraction="cholesky"))
    with pytest.raises(ValueError, match="not a manifold of this module with a retraction"):
        geoopt_manifolds.OrthogonalQuotient(geoopt_manifolds.EmbeddedNormalizedFeaturesExact(LAYOUT))
    quotient = pymanopt_manifolds.OrthogonalQuotient(plain)
    X, Y = quotient.random_point(), quotient.random_point()
    for method in (quotient.log, quotient.dist, quotient.pair_mean):
        with pytest.raises(NotImplementedError, match="dist before the quotient, on the manifold, is an upper bound"):
            method(X, Y)


@pytest.mark.parametrize("make", [geoopt_manifolds.EmbeddedNormalizedFeatures, geoopt_manifolds.NormalizedFeatures])
def test_geoopts_optimizers_take_the_quotient_and_carry_horizontal_momentum(make: Callable) -> None:
    manifold = geoopt_manifolds.OrthogonalQuotient(make(LAYOUT, seed=1))
    A = np.random.default_rng(3).standard_normal((LAYOUT.n, LAYOUT.n))
    S = torch.as_tensor(A @ A.T / LAYOUT.n)

    def loss(X: torch.Tensor) -> torch.Tensor:
        return torch.trace(torch.linalg.solve(X @ X.T, X @ S @ X.T)) / 2

    x = parameter_on(manifold, manifold.random(P, LAYOUT.n, dtype=torch.float64))
    optimizer = geoopt.optim.RiemannianSGD([x], lr=2.0, momentum=0.9)
    first = loss(x.detach()).item()
    for _ in range(80):
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()
    least = float(torch.linalg.eigvalsh(S)[:P].sum()) / 2
    assert loss(x.detach()).item() - least < 0.05 * (first - least)
    assert manifold.check_point_on_manifold(x)
    momentum = optimizer.state[x]["momentum_buffer"]
    assert manifold.metric.tangency_residual(x.detach(), momentum) < 1e-9
    assert manifold == geoopt_manifolds.OrthogonalQuotient(make(LAYOUT, seed=2))
    assert manifold != make(LAYOUT)
