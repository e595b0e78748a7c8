"""pymanopt's own per-manifold list (test_stiefel.py and its kin), single and multi, on both classes; and all its optimizers."""

import numpy as np
import pymanopt
import pytest
import torch
from pymanopt.manifolds.manifold import RiemannianSubmanifold
from pymanopt.optimizers import ConjugateGradient, NelderMead, ParticleSwarm, SteepestDescent, TrustRegions

from manifolds import normalized_features, retractions
from manifolds.class_centering import ClassLayout
from manifolds.pymanopt import EmbeddedNormalizedFeatures, NormalizedFeatures
from tests import oracles
from tests.manifolds.points import cost
from tests.typed import global_state

LAYOUT, P = ClassLayout((3, 4)), 2
CLASSES = (NormalizedFeatures, EmbeddedNormalizedFeatures)


@pytest.fixture(params=CLASSES, ids=lambda cls: cls.__name__)
def manifold_class(request: pytest.FixtureRequest) -> type:
    return request.param


@pytest.fixture(params=[1, 3], ids=["Single", "Multi"])
def manifold(request: pytest.FixtureRequest, manifold_class: type) -> NormalizedFeatures | EmbeddedNormalizedFeatures:
    return manifold_class(LAYOUT, P, copies=request.param, seed=0)


def gram(x: np.ndarray) -> np.ndarray:
    return x @ oracles.class_centering(LAYOUT) @ x.mT


def identity(manifold: NormalizedFeatures) -> np.ndarray:
    return np.broadcast_to(np.eye(P), (*manifold._batch, P, P))


def test_dim(manifold: NormalizedFeatures) -> None:
    assert manifold.dim == manifold.copies * (P * LAYOUT.n - P * (P + 1) / 2)
    assert isinstance(manifold.dim, int)


def test_typical_dist(manifold: NormalizedFeatures) -> None:
    np.testing.assert_allclose(manifold.typical_dist, np.sqrt(manifold.copies * P * LAYOUT.n))


def test_inner_product_and_norm(manifold: NormalizedFeatures) -> None:
    x = manifold.random_point()
    a, b = manifold.random_tangent_vector(x), manifold.random_tangent_vector(x)
    if isinstance(manifold, EmbeddedNormalizedFeatures):
        expected = np.sum(a * b)
    else:
        from manifolds.bundle.connection import horizontal

        expected = np.sum(horizontal(x, a, LAYOUT) * horizontal(x, b, LAYOUT))
    np.testing.assert_allclose(manifold.inner_product(x, a, b), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(manifold.norm(x, a), 1.0, rtol=1e-10)
    assert isinstance(manifold.inner_product(x, a, b), float)


def test_projection(manifold: NormalizedFeatures) -> None:
    x = manifold.random_point()
    z = np.random.default_rng(0).standard_normal(x.shape)
    C_M = oracles.class_centering(LAYOUT)
    middle = x @ C_M @ z.mT + z @ C_M @ x.mT
    right = LAYOUT.n * x @ C_M if isinstance(manifold, EmbeddedNormalizedFeatures) else x
    np.testing.assert_allclose(manifold.projection(x, z), z - middle @ right / 2, rtol=0, atol=1e-10)
    np.testing.assert_allclose(manifold.to_tangent_space(x, z), manifold.projection(x, z))


def test_random_point(manifold: NormalizedFeatures) -> None:
    state = global_state()
    x, y = manifold.random_point(), manifold.random_point()
    np.testing.assert_allclose(gram(x), identity(manifold), rtol=0, atol=1e-12)
    assert np.linalg.norm(x - y) > 1e-6
    assert (global_state() == state).all()
    again = type(manifold)(LAYOUT, P, copies=manifold.copies, seed=0).random_point()
    np.testing.assert_array_equal(x, again)


def test_random_tangent_vector(manifold: NormalizedFeatures) -> None:
    x = manifold.random_point()
    u, v = manifold.random_tangent_vector(x), manifold.random_tangent_vector(x)
    C_M = oracles.class_centering(LAYOUT)
    np.testing.assert_allclose(x @ C_M @ u.mT + u @ C_M @ x.mT, 0 * identity(manifold), rtol=0, atol=1e-12)
    assert np.linalg.norm(u - v) > 1e-6


def test_zero_vector(manifold: NormalizedFeatures) -> None:
    x = manifold.random_point()
    np.testing.assert_array_equal(manifold.zero_vector(x), np.zeros_like(x))


def test_euclidean_to_riemannian_gradient(manifold: NormalizedFeatures) -> None:
    x = manifold.random_point()
    egrad = np.random.default_rng(0).standard_normal(x.shape)
    rgrad, u = manifold.euclidean_to_riemannian_gradient(x, egrad), manifold.random_tangent_vector(x)
    np.testing.assert_allclose(manifold.inner_product(x, rgrad, u), np.sum(egrad * u), rtol=0, atol=1e-11)
    np.testing.assert_allclose(manifold.projection(x, rgrad), rgrad, rtol=0, atol=1e-11)


def test_euclidean_to_riemannian_hessian_of_the_embedded_metric_against_pymanopts_own_oracle() -> None:
    """As pymanopt's tools.testing: P of the derivative of x -> P_x(egrad) along u, plus P(ehess)."""
    manifold = EmbeddedNormalizedFeatures(LAYOUT, P, seed=0)
    C_M, n = oracles.class_centering(LAYOUT), LAYOUT.n

    def projection(x: np.ndarray, z: np.ndarray) -> np.ndarray:
        return z - (n / 2) * (x @ C_M @ z.T + z @ C_M @ x.T) @ x @ C_M

    x = manifold.random_point()
    u = manifold.random_tangent_vector(x)
    egrad, ehess = np.random.default_rng(0).standard_normal((2, *x.shape))
    turned = oracles.directional_derivative(lambda y: projection(y, egrad), x, u)
    expected = projection(x, turned + projection(x, ehess))
    np.testing.assert_allclose(manifold.euclidean_to_riemannian_hessian(x, egrad, ehess, u), expected, rtol=0, atol=1e-7)
    inherited = RiemannianSubmanifold.euclidean_to_riemannian_hessian(manifold, x, egrad, ehess, u)
    ours = manifold.euclidean_to_riemannian_hessian(x, egrad, ehess, u)
    np.testing.assert_allclose(inherited, ours, rtol=0, atol=1e-12)  # pymanopt's P(ehess) + weingarten


@pytest.mark.parametrize(
    "retraction", [retractions.renormalisation, retractions.polar_retraction, retractions.cholesky_retraction]
)
def test_retraction(manifold_class: type, retraction: object) -> None:
    manifold = manifold_class(LAYOUT, P, retraction=retraction, seed=0)
    x = manifold.random_point()
    u = manifold.random_tangent_vector(x)
    np.testing.assert_allclose(gram(manifold.retraction(x, u)), np.eye(P), rtol=0, atol=1e-12)
    np.testing.assert_allclose(manifold.retraction(x, 1e-6 * u), x + 1e-6 * u, rtol=0, atol=1e-10)


def test_exp(manifold: NormalizedFeatures) -> None:
    x = manifold.random_point()
    u = manifold.random_tangent_vector(x)
    np.testing.assert_allclose(gram(manifold.exp(x, u)), identity(manifold), rtol=0, atol=1e-12)
    np.testing.assert_allclose(manifold.exp(x, 1e-6 * u), x + 1e-6 * u, rtol=0, atol=1e-10)


def test_transport(manifold: NormalizedFeatures) -> None:
    x = manifold.random_point()
    u, v = manifold.random_tangent_vector(x), manifold.random_tangent_vector(x)
    y = manifold.retraction(x, u)
    np.testing.assert_allclose(manifold.transport(x, y, v), manifold.projection(y, v), rtol=0, atol=1e-12)
    moved = manifold.parallel_transport(x, y, v)
    np.testing.assert_allclose(manifold.norm(y, moved), 1.0, rtol=1e-8)


def test_dist_exp_log_and_pair_mean(manifold: NormalizedFeatures) -> None:
    x = manifold.random_point()
    u = manifold.random_tangent_vector(x)
    y = manifold.exp(x, u)
    np.testing.assert_allclose(manifold.log(x, y), u, rtol=0, atol=1e-8)
    np.testing.assert_allclose(manifold.exp(x, manifold.log(x, y)), y, rtol=0, atol=1e-8)
    np.testing.assert_allclose(manifold.dist(x, y), 1.0, rtol=1e-8)
    z = manifold.pair_mean(x, y)
    np.testing.assert_allclose(manifold.dist(x, z), manifold.dist(y, z), rtol=1e-6)
    assert manifold.dist(x, x) == pytest.approx(0, abs=1e-9)


def test_an_empty_manifold_and_no_copies_are_refused(manifold_class: type) -> None:
    with pytest.raises(ValueError, match="n - C = 5 < P = 6"):
        manifold_class(LAYOUT, 6)
    with pytest.raises(ValueError, match="copies = 0"):
        manifold_class(LAYOUT, P, copies=0)


def numpy_problem(manifold: NormalizedFeatures) -> pymanopt.Problem:
    f, gradient, hessian = cost(P, LAYOUT.n)
    return pymanopt.Problem(
        manifold,
        pymanopt.function.numpy(manifold)(f),
        euclidean_gradient=pymanopt.function.numpy(manifold)(gradient),
        euclidean_hessian=pymanopt.function.numpy(manifold)(hessian),
    )


def torch_problem(manifold: NormalizedFeatures) -> pymanopt.Problem:
    rng = np.random.default_rng(0)
    Q, q = rng.standard_normal((P * LAYOUT.n, P * LAYOUT.n)) / (P * LAYOUT.n) ** 0.5, rng.standard_normal((P, LAYOUT.n))
    Q_t, q_t = torch.from_numpy(Q + Q.T), torch.from_numpy(q)

    @pymanopt.function.pytorch(manifold)
    def f(X: torch.Tensor) -> torch.Tensor:
        flat = X.reshape(-1)
        return 0.5 * flat @ Q_t @ flat + (q_t * X).sum() + X.sin().sum()

    return pymanopt.Problem(manifold, f)


def bounded(manifold: NormalizedFeatures) -> pymanopt.Problem:
    """Distance to a fixed target, in torch: bounded below although the class means are not bounded."""
    target = torch.from_numpy(np.random.default_rng(4).standard_normal((P, LAYOUT.n)) + 1)

    @pymanopt.function.pytorch(manifold)
    def f(X: torch.Tensor) -> torch.Tensor:
        return ((X - target) ** 2).sum() / 2

    return pymanopt.Problem(manifold, f)


def best() -> float:
    """The minimum of `bounded`: half the squared distance to the nearest point."""
    target = np.random.default_rng(4).standard_normal((P, LAYOUT.n)) + 1
    return float(((retractions.nearest_point(target, LAYOUT) - target) ** 2).sum() / 2)


def test_numpy_and_torch_costs_have_the_same_derivatives(manifold_class: type) -> None:
    manifold = manifold_class(LAYOUT, P, seed=0)
    ours, theirs = numpy_problem(manifold), torch_problem(manifold)
    x = manifold.random_point()
    u = manifold.random_tangent_vector(x)
    np.testing.assert_allclose(float(ours.cost(x)), float(theirs.cost(x)), rtol=1e-12)
    np.testing.assert_allclose(ours.riemannian_gradient(x), theirs.riemannian_gradient(x), rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.riemannian_hessian(x, u), theirs.riemannian_hessian(x, u), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "optimizer",
    [
        SteepestDescent(verbosity=0, max_iterations=300),
        *(
            ConjugateGradient(verbosity=0, max_iterations=200, beta_rule=rule)
            for rule in ("FletcherReeves", "PolakRibiere", "HestenesStiefel", "HagerZhang", "LiuStorey")
        ),
        TrustRegions(verbosity=0),
    ],
    ids=["SD", "CG-FR", "CG-PR", "CG-HS", "CG-HZ", "CG-LS", "TR"],
)
def test_gradient_optimizers_find_the_known_minimum(manifold_class: type, optimizer: object) -> None:
    manifold = manifold_class(LAYOUT, P, seed=0)
    result = optimizer.run(bounded(manifold), initial_point=manifold.random_point())  # type: ignore[attr-defined]
    np.testing.assert_allclose(float(result.cost), best(), rtol=1e-6)
    assert normalized_features.constraint_residual(result.point, LAYOUT) < 1e-13


def test_trust_regions_converges_quadratically(manifold_class: type) -> None:
    manifold = manifold_class(LAYOUT, P, seed=0)
    result = TrustRegions(verbosity=0, min_gradient_norm=1e-10).run(bounded(manifold), initial_point=manifold.random_point())
    assert result.gradient_norm is not None
    assert result.gradient_norm < 1e-10
    assert result.iterations < 40


@pytest.mark.parametrize(
    "cls", [EmbeddedNormalizedFeatures, pytest.param(NormalizedFeatures, marks=pytest.mark.slow)], ids=lambda c: c.__name__
)
@pytest.mark.parametrize("optimizer_class", [ParticleSwarm, pytest.param(NelderMead, marks=pytest.mark.slow)])
def test_optimizers_without_gradients_run_and_improve(cls: type, optimizer_class: type) -> None:
    layout = ClassLayout((2, 3))
    manifold = cls(layout, 1, seed=0)
    target = np.random.default_rng(4).standard_normal((1, layout.n)) + 4  # beyond every starting mean

    @pymanopt.function.numpy(manifold)
    def f(X: np.ndarray) -> float:
        return float(((X - target) ** 2).sum() / 2)

    np.random.seed(0)  # noqa: NPY002 - ParticleSwarm itself draws from it
    options = (
        {"population_size": 6, "max_iterations": 10}
        if optimizer_class is ParticleSwarm
        else {"max_iterations": 3 if cls is EmbeddedNormalizedFeatures else 2}  # pymanopt stops before the last one
    )
    start = [manifold.random_point() for _ in range(6)]
    best_start = min(f(x) for x in start)
    twin = cls(layout, 1, seed=0)
    result = optimizer_class(verbosity=0, **options).run(
        pymanopt.Problem(twin, pymanopt.function.numpy(twin)(f._original_function))
    )
    # one iteration of a simplex of integrated geodesics may only keep the best point
    assert float(result.cost) < best_start or (cls is NormalizedFeatures and float(result.cost) == best_start)
    assert normalized_features.constraint_residual(result.point, layout) < 1e-13
