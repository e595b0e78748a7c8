"""The generalized Stiefel manifold of a semidefinite form, against formulas with B written out, and its instances."""

import copy
import pickle

import geoopt
import numpy as np
import pymanopt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import manifolds
from manifolds import geoopt as geoopt_manifolds
from manifolds import pymanopt as pymanopt_manifolds
from manifolds.checks.derivatives import check_gradient, check_hessian
from manifolds.checks.manifold import check_manifold
from manifolds.checks.views import GeooptView, PymanoptView
from manifolds.class_centering import ClassLayout
from manifolds.forms import SemidefiniteForm, WeightedCentering
from manifolds.generalized import GeneralizedStiefelMetric
from manifolds.matrix_form import MatrixForm
from manifolds.metrics import EmbeddedMetric
from tests.manifolds.points import cost, seeds
from tests.typed import gradient_of, parameter_on

RNG = np.random.default_rng(0)
WEIGHTS = WeightedCentering(tuple(RNG.uniform(0.3, 2.0, 9)))
FACTOR = MatrixForm.of_factor(RNG.standard_normal((9, 6)))
FORMS: list[SemidefiniteForm] = [WEIGHTS, FACTOR, MatrixForm.of_matrix(np.diag(np.arange(1.0, 8))), ClassLayout((3, 5, 2))]
NAMES = ["weights", "factor", "definite", "classes"]


def written_out(form: SemidefiniteForm) -> tuple[np.ndarray, np.ndarray]:
    """B and M = s B + the projection on ker B, n x n, from B's columns alone."""
    B = form.apply(np.eye(form.columns))
    values, V = np.linalg.eigh(B)
    kernel = V[:, values < 1e-10]
    return B, form.scale * B + kernel @ kernel.T


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_a_form_does_what_its_protocol_says(form: SemidefiniteForm) -> None:
    B, _ = written_out(form)
    n, identity = form.columns, np.eye(form.columns)
    G = form.range_coordinates(identity)
    np.testing.assert_allclose(G @ G.T, B, atol=1e-13)
    assert np.linalg.matrix_rank(B) == form.rank
    assert G.shape == (n, form.factors)
    K = form.kernel_coordinates(identity)
    np.testing.assert_allclose(B @ K, 0, atol=1e-13)
    np.testing.assert_allclose(K.T @ K, np.eye(n - form.rank), atol=1e-13)
    X = RNG.standard_normal((3, n))
    np.testing.assert_allclose(form.combine(X @ G, X @ K), X, atol=1e-12)
    np.testing.assert_allclose(form.range_gradient(X), X @ np.linalg.pinv(G).T, atol=1e-12)


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
@settings(max_examples=5, deadline=None)
@given(rng=seeds())
def test_maps_against_the_constraint_written_out(form: SemidefiniteForm, rng: np.random.Generator) -> None:
    metric, (B, M), P = GeneralizedStiefelMetric(form), written_out(form), 4
    X, Z, E = metric.random_point(P, rng), *rng.standard_normal((2, P, form.columns))
    np.testing.assert_allclose(X @ B @ X.T, np.eye(P), atol=1e-12)
    U, V = metric.project(X, Z), metric.project(X, E)
    np.testing.assert_allclose(U @ B @ X.T + X @ B @ U.T, 0, atol=1e-10)
    np.testing.assert_allclose(metric.inner(X, U, V), np.sum(U @ M * V), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(np.sum((Z - U) @ M * V), 0, atol=1e-9)  # orthogonal
    np.testing.assert_allclose(metric.inner(X, metric.gradient(X, E), U), np.sum(E * U), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(metric.flat(X, U), U @ M, atol=1e-10)
    Y = metric.nearest_point(X + U)
    values, vectors = np.linalg.eigh((X + U) @ B @ (X + U).T)
    root = vectors / np.sqrt(values) @ vectors.T
    kernel = np.linalg.eigh(B)[1][:, : form.columns - form.rank]
    hidden = (X + U) @ kernel @ kernel.T
    np.testing.assert_allclose(Y, root @ (X + U - hidden) + hidden, atol=1e-9)


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_every_check_of_a_manifold_holds(form: SemidefiniteForm) -> None:
    view = PymanoptView(pymanopt_manifolds.GeneralizedStiefel(form, 3, seed=1))
    report = check_manifold(view, retraction_order=2, transport_order=2)
    assert report.passed, report.failures
    assert report.missing == ()
    exact = GeooptView(geoopt_manifolds.GeneralizedStiefelExact(form), (3, form.columns), seed=2)
    report = check_manifold(exact)
    assert report.passed, report.failures


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_gradient_and_hessian_of_a_cost(form: SemidefiniteForm) -> None:
    f, gradient, hessian = cost(3, form.columns)
    manifold = pymanopt_manifolds.GeneralizedStiefel(form, 3, seed=3)
    view = PymanoptView(manifold)

    def riemannian(x: np.ndarray) -> np.ndarray:
        return manifold.euclidean_to_riemannian_gradient(x, gradient(x))

    def second(x: np.ndarray, u: np.ndarray) -> np.ndarray:
        return manifold.euclidean_to_riemannian_hessian(x, gradient(x), hessian(x, u), u)

    for verdict in check_gradient(view, f, riemannian) + check_hessian(view, f, riemannian, second):
        assert verdict.passed, str(verdict)


def test_the_normalized_features_are_its_instance_for_the_class_centering() -> None:
    layout, rng, P = ClassLayout((5, 7, 6)), np.random.default_rng(5), 4
    general, ours = GeneralizedStiefelMetric(layout), EmbeddedMetric(layout)
    X = ours.random_point(P, rng)
    Z, E, H = rng.standard_normal((3, P, layout.n))
    U, W = ours.project(X, Z), ours.project(X, E)
    Y = ours.exp(X, U)
    pairs = {
        "project": (general.project(X, Z), U),
        "gradient": (general.gradient(X, E), ours.gradient(X, E)),
        "hessian": (general.hessian(X, E, H, U), ours.hessian(X, E, H, U)),
        "inner": (general.inner(X, U, W), ours.inner(X, U, W)),
        "exp": (general.exp(X, U), Y),
        "log": (general.log(X, Y), ours.log(X, Y)),
        "dist": (general.dist(X, Y), ours.dist(X, Y)),
        "parallel transport": (general.parallel_transport(X, Y, W), ours.parallel_transport(X, Y, W)),
    }
    for retraction in ("polar", "cholesky", "renormalisation"):
        pairs[retraction] = general.retract(X, U, retraction), ours.retract(X, U, retraction)
    for name, (a, b) in pairs.items():
        np.testing.assert_allclose(a, b, atol=1e-10, err_msg=name)
    assert general.dimension(P) == ours.dimension(P)
    assert general.injectivity_radius == pytest.approx(ours.injectivity_radius)


def test_points_of_two_components_are_told_at_once() -> None:
    form = MatrixForm.of_factor(RNG.standard_normal((6, 3)))
    metric = GeneralizedStiefelMetric(form)
    X = metric.random_point(3, np.random.default_rng(0))
    Y = X.copy()
    Y[0] *= -1
    assert int(metric.shoot(X, Y).shots) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pymanopt_manifolds.GeneralizedStiefel(FACTOR, 7), r"rank\(B\) = 6 < P = 7"),
        (lambda: geoopt_manifolds.GeneralizedStiefel(FACTOR).random(7, 9), r"rank\(B\) = 6 < P = 7"),
        (lambda: geoopt_manifolds.GeneralizedStiefel(FACTOR).random(2, 8), "8 columns but the form 9"),
        (lambda: pymanopt_manifolds.GeneralizedStiefel(FACTOR, 0), "P = 0"),
        (lambda: GeneralizedStiefelMetric(np.eye(3)), "of_matrix"),  # type: ignore[bad-argument-type]
        (lambda: MatrixForm.of_matrix(np.diag([1.0, -0.5])), r"-5\.000e-01"),
        (lambda: MatrixForm.of_matrix(np.array([[1.0, 0.5], [0.0, 1.0]])), r"5\.000e-01"),
        (lambda: MatrixForm.of_matrix(np.ones((2, 3))), r"\(2, 3\)"),
        (lambda: MatrixForm.of_factor(np.zeros((3, 2))), "B = 0"),
        (lambda: MatrixForm.of_factor(np.array([[np.nan]])), "NaN"),
        (lambda: MatrixForm.of_factor(np.ones(3)), r"\(3,\)"),
        (lambda: WeightedCentering((1.0, 0.0, 2.0)), "weight 1 is 0"),
        (lambda: WeightedCentering((1.0,)), "at least two"),
        (lambda: MatrixForm.of_factor(np.eye(3) * 1j), "G is complex"),
        (lambda: MatrixForm.of_matrix(np.eye(3), tolerance=-1.0), r"tolerance = -1\.0"),
        (lambda: MatrixForm.of_factor(np.eye(3), tolerance=float("nan")), "tolerance = nan"),
        (lambda: GeneralizedStiefelMetric(WeightedCentering), "the class WeightedCentering itself"),  # type: ignore[bad-argument-type]
        (lambda: geoopt_manifolds.GeneralizedStiefel(FACTOR, retraction="horizontal renormalisation"), "take 'polar'"),
        (lambda: pymanopt_manifolds.GeneralizedStiefel(FACTOR, 2, retraction="horizontal renormalisation"), "take 'polar'"),
        (lambda: GeneralizedStiefelMetric(WEIGHTS).project(np.ones((2, 1)), np.ones((2, 1))), "1 columns but the form 9"),
        (lambda: GeneralizedStiefelMetric(FACTOR).gradient(np.ones((2, 9)), np.ones((2, 8))), r"G has \(2, 8\)"),
        (lambda: GeneralizedStiefelMetric(FACTOR).nearest_point(np.zeros((2, 9))), "X B X.T is not positive definite: 2 of 2"),
        (lambda: GeneralizedStiefelMetric(FACTOR).retract(np.eye(9)[:3], np.eye(9)[:3], "horizontal renormalisation"), "polar"),
    ],
)
def test_what_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_a_form_is_a_value(form: SemidefiniteForm) -> None:
    assert copy.deepcopy(form) == form
    assert pickle.loads(pickle.dumps(form)) == form
    assert hash(copy.deepcopy(form)) == hash(form)
    assert MatrixForm.of_factor(np.eye(3)) != MatrixForm.of_factor(2 * np.eye(3))
    assert form != MatrixForm.of_factor(np.eye(3))


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_torch_agrees_with_numpy_in_batches(form: SemidefiniteForm, dtype: torch.dtype) -> None:
    metric, P = GeneralizedStiefelMetric(form), 3
    rng = np.random.default_rng(7)
    X = metric.random_point(P, rng, (2,))
    U = metric.project(X, rng.standard_normal(X.shape))
    tolerance = {torch.float64: 1e-10, torch.float32: 2e-4, torch.float16: 0.2}[dtype]
    x, u = (torch.as_tensor(a, dtype=dtype) for a in (X, U))
    for ours, reference in (
        (metric.retract(x, u, "polar"), metric.retract(X, U, "polar")),
        (metric.exp(x, u), metric.exp(X, U)),
        (metric.project(x, u), U),
        (metric.gradient(x, u), metric.gradient(X, U)),
    ):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours.double(), reference, atol=tolerance * np.abs(reference).max())


@given(power=st.floats(0, 6), rng=seeds(), shift=st.sampled_from([0.0, 1e6]))
@settings(max_examples=13, deadline=None)
def test_ill_conditioned_factors_and_large_parts_in_the_kernel(power: float, rng: np.random.Generator, shift: float) -> None:
    n, k, P = 11, 7, 4
    left, right = (np.linalg.qr(rng.standard_normal((size, k)))[0] for size in (n, k))
    form = MatrixForm.of_factor(left * np.geomspace(1, 10.0**-power, k) @ right.T)
    metric = GeneralizedStiefelMetric(form)
    X = metric.random_point(P, rng)
    X = X + shift * rng.standard_normal((P, n - k)) @ form.kernel.T
    size = np.abs(X).max()
    Y = metric.retract(X, metric.project(X, rng.standard_normal(X.shape)), "polar")
    F = form.range_coordinates(Y)
    # what is left is the rounding of X itself, seen through G, ||G|| = 1
    assert np.linalg.norm(F @ F.T - np.eye(P)) < 100 * np.finfo(np.float64).eps * max(size, np.abs(Y).max())


def test_weights_with_a_large_mean_lose_nothing() -> None:
    metric, rng = GeneralizedStiefelMetric(WEIGHTS), np.random.default_rng(3)
    X = metric.random_point(3, rng) + 1e6
    assert metric.constraint_residual(X) < 1e-8
    U = metric.project(X, rng.standard_normal(X.shape))
    assert metric.tangency_residual(X, U) < 1e-9
    assert metric.constraint_residual(metric.exp(X, U)) < 1e-8


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "line search"])
def test_geoopt_optimizers_find_the_smallest_generalized_eigenvalues(optimizer: str) -> None:
    rng = np.random.default_rng(1)
    S, B = (A @ A.T for A in rng.standard_normal((2, 5, 8)))
    form = MatrixForm.of_matrix(B)
    manifold = geoopt_manifolds.GeneralizedStiefel(form, seed=4)
    x = parameter_on(manifold, manifold.random(2, 5, dtype=torch.float64))
    make = {
        "sgd": lambda: geoopt.optim.RiemannianSGD([x], lr=0.02, momentum=0.9),
        "adam": lambda: geoopt.optim.RiemannianAdam([x], lr=0.02),
        "line search": lambda: geoopt.optim.RiemannianLineSearch([x]),
    }[optimizer]()
    matrix = torch.as_tensor(S)

    def closure() -> float:
        make.zero_grad()
        loss = torch.einsum("pi,ij,pj->", x, matrix, x)
        loss.backward()
        return loss.item()

    import scipy.linalg

    target = float(np.sum(np.asarray(scipy.linalg.eigh(S, B, eigvals_only=True))[:2]))
    for _ in range(60 if optimizer == "line search" else 300):
        if closure() < target * (1 + 1e-6):
            break
        make.step(closure)
    assert closure() == pytest.approx(target, rel=1e-3)


def test_trust_regions_solve_a_problem_with_a_kernel() -> None:
    rng = np.random.default_rng(2)
    A = rng.standard_normal((9, 9))
    S = A @ A.T
    manifold = pymanopt_manifolds.GeneralizedStiefel(FACTOR, 2, seed=0)

    @pymanopt.function.numpy(manifold)
    def f(X):
        return float(np.sum(X @ S * X))

    @pymanopt.function.numpy(manifold)
    def egrad(X):
        return 2 * X @ S

    @pymanopt.function.numpy(manifold)
    def ehess(X, U):
        return 2 * U @ S

    problem = pymanopt.Problem(manifold, f, euclidean_gradient=egrad, euclidean_hessian=ehess)
    result = pymanopt.optimizers.TrustRegions(verbosity=0, min_gradient_norm=1e-9).run(problem)
    # free in the kernel: minimised over it, the Schur complement is left
    V, N = FACTOR.basis, FACTOR.kernel
    inside, across, outside = V.T @ S @ V, V.T @ S @ N, N.T @ S @ N
    schur = (inside - across @ np.linalg.solve(outside, across.T)) / np.outer(FACTOR.sigma, FACTOR.sigma)
    assert result.cost == pytest.approx(np.linalg.eigvalsh(schur)[:2].sum(), rel=1e-9)


def test_public_names() -> None:
    assert manifolds.GeneralizedStiefelMetric is GeneralizedStiefelMetric
    assert manifolds.MatrixForm is MatrixForm
    assert manifolds.WeightedCentering is WeightedCentering


def test_a_form_first_used_in_inference_mode_serves_derivatives_later() -> None:
    form = MatrixForm.of_factor(np.random.default_rng(0).standard_normal((9, 5)))
    metric = GeneralizedStiefelMetric(form)
    X = torch.as_tensor(metric.random_point(3, np.random.default_rng(1)), dtype=torch.float32)
    with torch.inference_mode():
        metric.constraint_residual(X)
    leaf = X.clone().requires_grad_(True)
    metric.nearest_point(leaf).pow(3).sum().backward()
    assert torch.isfinite(gradient_of(leaf)).all()
