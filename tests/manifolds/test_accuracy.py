"""Where collapse lives: class means up to 1e7, within-class covariances of condition up to 1e14, in both precisions."""

import mpmath
import numpy as np
import pytest
import torch

from manifolds import normalized_features, retractions, steps
from manifolds.bundle.connection import bundle_inner, fibre_scale, horizontal
from manifolds.class_centering import ClassLayout
from manifolds.embedded.curvature import weingarten
from manifolds.metrics import BundleMetric, EmbeddedMetric
from manifolds.renormalized_gradient_step import renormalized_step
from tests.manifolds.points import point
from tests.typed import gradient_of

LAYOUT, P = ClassLayout((9, 14, 11)), 5
DTYPES = [np.float64, np.float32]
CONVERSIONS = [np.asarray, torch.from_numpy]


def ill_conditioned(condition: float, dtype: type, means: float = 1.0, size: int = P, layout: ClassLayout = LAYOUT) -> np.ndarray:
    """Features whose deviations have singular values from 1 down to 1 / condition in random directions. (P, n)"""
    rng = np.random.default_rng(0)
    D = normalized_features.renormalize(layout.deviations(rng.standard_normal((size, layout.n))), layout)
    Q = np.linalg.qr(rng.standard_normal((size, size)))[0]
    D = (Q * np.geomspace(1, 1 / condition, size)) @ (Q.T @ D)
    return (D + layout.spread(means * rng.standard_normal((size, layout.C)))).astype(dtype)


def far_point(means: float) -> np.ndarray:
    """A point whose class means are of that size. (P, n)"""
    X = point(LAYOUT, P)
    M = means * np.random.default_rng(1).standard_normal((P, LAYOUT.C))
    return normalized_features.renormalize(LAYOUT.deviations(X), LAYOUT) + LAYOUT.spread(M)


def residual(X: np.ndarray, layout: ClassLayout = LAYOUT) -> float:
    """||X C_M X^T - I||_F in float64."""
    D: np.ndarray = layout.deviations(np.asarray(X, np.float64))
    return float(np.linalg.norm(D @ D.T / layout.n - np.eye(len(D))))


@pytest.mark.parametrize("convert", CONVERSIONS)
@pytest.mark.parametrize(
    ("dtype", "condition"),
    [(np.float64, c) for c in (1.0, 5.0, 1e3, 1e6, 1e7)] + [(np.float32, c) for c in (1.0, 5.0, 300.0, 1e3)],
)
def test_every_way_to_the_manifold_is_feasible_to_rounding_whatever_the_condition(dtype: type, condition: float, convert) -> None:
    """At most 50 eps sqrt(P). cond(D) = 1e7 is cond(Sigma_W) = 1e14."""
    Z, bound = convert(ill_conditioned(condition, dtype, means=1 / condition)), 50 * np.finfo(dtype).eps * P**0.5
    X = 0 * Z
    points = {
        retraction.name: retraction(X, Z, LAYOUT) for retraction in retractions.RETRACTIONS.values() if not retraction.lifts
    }
    points |= {"renormalize": normalized_features.renormalize(Z, LAYOUT), "nearest": retractions.nearest_point(Z, LAYOUT)}
    points |= {"scheme": renormalized_step(X, -Z, 1.0, LAYOUT)}
    points |= {"projected": steps.projected_step(X, -Z, 1.0, EmbeddedMetric(LAYOUT))}
    for name, moved in points.items():
        assert residual(moved) < bound, name


@pytest.mark.parametrize("convert", CONVERSIONS)
@pytest.mark.parametrize(
    ("dtype", "means", "condition"),
    [(np.float64, m, c) for m in (1e3, 1e6) for c in (5.0, 1e3, 1e6)]
    + [(np.float32, m, c) for m in (1.0, 1e3) for c in (5.0, 1e3)],
)
def test_class_means_cost_their_storage_only_however_thin_the_deviations(
    dtype: type, means: float, condition: float, convert
) -> None:
    """Rounding of the means, left in the deviations and divided by the smallest of them, is as large as they are.

    Of ||D E^T + E D^T||_F / n with entries of E, the rounding of a stored point, up to eps max|M| / 2: eps max|M| sqrt(P).
    """
    Z = convert(ill_conditioned(condition, dtype, means) * dtype(1e-2))
    eps = float(np.finfo(dtype).eps)
    for move in (retractions.nearest_point, lambda Z, layout: retractions.cholesky_retraction(0 * Z, Z, layout)):
        moved = move(Z, LAYOUT)
        stored = eps * float(abs(LAYOUT.means(moved)).max()) * P**0.5
        assert residual(moved) < 50 * eps * P**0.5 + stored


@pytest.mark.parametrize("condition", [10.0, 1e4])
def test_the_nearest_point_of_an_ill_conditioned_one_is_right_to_its_condition(condition: float) -> None:
    """Against 60 digits: the polar factor is sensitive to cond(D) eps, and no more than that is lost."""
    Z = ill_conditioned(condition, np.float64)
    with mpmath.workdps(60):
        D = mpmath.matrix(LAYOUT.deviations(Z).tolist())
        values, E = mpmath.eigsy(D * D.T / LAYOUT.n)
        A = E * mpmath.diag([1 / mpmath.sqrt(value) for value in values]) * E.T
        expected = np.array((A * D).tolist(), dtype=np.float64)
    ours = LAYOUT.deviations(retractions.nearest_point(Z, LAYOUT))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=100 * condition * np.finfo(float).eps)


@pytest.mark.parametrize("condition", [3.0, 30.0, 1e3])
def test_derivatives_through_two_passes_are_the_differences(condition: float) -> None:
    Z = torch.from_numpy(ill_conditioned(condition, np.float64))
    W = torch.from_numpy(np.random.default_rng(2).standard_normal(Z.shape)) / condition
    for move in (
        normalized_features.renormalize,
        retractions.nearest_point,
        lambda Z, layout: retractions.cholesky_retraction(0 * Z, Z, layout),
    ):
        forward = torch.func.jvp(lambda Z, move=move: move(Z, LAYOUT), (Z,), (W,))[1]
        h = 1e-5
        expected = ((move(Z + h * W, LAYOUT) - move(Z - h * W, LAYOUT)) / (2 * h)).numpy()
        np.testing.assert_allclose(forward, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
        leaf = Z.clone().requires_grad_(True)
        (move(leaf, LAYOUT) * W).sum().backward()
        np.testing.assert_allclose((gradient_of(leaf) * W).sum(), (forward * W).sum(), rtol=1e-9)


@pytest.mark.parametrize("means", [1.0, 1e3, 1e6, 1e7])
@pytest.mark.parametrize("metric", [EmbeddedMetric(LAYOUT), BundleMetric(LAYOUT)], ids=lambda m: type(m).__name__)
def test_projections_are_tangent_to_rounding_however_large_the_means(metric, means: float) -> None:
    """What is stored beside means of that size has their rounding; no more than that may be lost."""
    X, Z = far_point(means), np.random.default_rng(3).standard_normal((P, LAYOUT.n)) + means
    D, U = LAYOUT.deviations(X), metric.project(X, Z)
    stored = means * (1 if isinstance(metric, EmbeddedMetric) else means)  # Pi moves means by S M
    allowed = 1e-12 + 50 * np.finfo(float).eps * stored
    D_U = LAYOUT.deviations(U)
    assert np.linalg.norm(D @ D_U.T + D_U @ D.T) / LAYOUT.n < allowed
    assert normalized_features.tangency_residual(X, U, LAYOUT) < allowed


def exact_deviations(X: np.ndarray) -> mpmath.matrix:
    """X less its class means, in 50 digits."""
    D, start = mpmath.matrix(X.tolist()), 0
    for size in LAYOUT.sizes:
        for p in range(len(X)):
            mean = mpmath.fsum(D[p, i] for i in range(start, start + size)) / size
            for i in range(start, start + size):
                D[p, i] -= mean
        start += size
    return D


@pytest.mark.parametrize("means", [1e3, 1e6, 1e7])
def test_no_projection_that_is_stored_is_much_more_tangent(means: float) -> None:
    """P(Z) in 50 digits, rounded once to be stored, is as far from tangent as ours: no bound below that can be met."""
    X, Z = far_point(means), np.random.default_rng(3).standard_normal((P, LAYOUT.n)) + means
    with mpmath.workdps(50):
        D = exact_deviations(X)

        def off(U: np.ndarray) -> float:
            product = D * exact_deviations(U).T / LAYOUT.n
            return float(mpmath.mnorm(product + product.T, "f"))

        A = D * exact_deviations(Z).T / LAYOUT.n
        exact = mpmath.matrix(Z.tolist()) - (A + A.T) * D / 2
        rounded = np.array(exact.tolist(), dtype=float)
        ours = normalized_features.orthogonal_projection(X, Z, LAYOUT)
        assert off(ours) < 3 * off(rounded)
        assert off(rounded) > 0.05 * np.finfo(float).eps * means


def test_float32_projection_beside_large_means_loses_only_what_storing_them_does() -> None:
    means = 1e3
    X = far_point(means).astype(np.float32)
    Z = (np.random.default_rng(3).standard_normal(X.shape) + means).astype(np.float32)
    U = normalized_features.orthogonal_projection(X, Z, LAYOUT)
    assert normalized_features.tangency_residual(X, U, LAYOUT) < 30 * np.finfo(np.float32).eps * means


@pytest.mark.parametrize("means", [1.0, 1e3, 1e5, 1e7])
def test_the_bundle_norm_of_a_vector_is_right_however_large_the_means(means: float) -> None:
    """Against 60 digits. A formula <U, V> - <S_U, V X^T> loses eps |U|^2: at 1e7, all of it."""
    X = far_point(means)
    rng = np.random.default_rng(4)
    S = rng.standard_normal((P, P))
    U = LAYOUT.deviations(rng.standard_normal(X.shape)) + (S + S.T) @ X  # mostly along the fibre
    with mpmath.workdps(60):
        x, u = mpmath.matrix(X.tolist()), mpmath.matrix(U.tolist())
        A, B = x * x.T, u * x.T + x * u.T
        values, E = mpmath.eigsy((A + A.T) / 2)
        T = E.T * B * E
        S_U = E * mpmath.matrix([[T[i, j] / (values[i] + values[j]) for j in range(P)] for i in range(P)]) * E.T
        lifted = u - S_U * x
        expected = float(mpmath.fsum(entry * entry for entry in lifted))
    stored = np.finfo(float).eps * np.linalg.norm(U)  # rounding of U itself
    ours = bundle_inner(X, U, U, LAYOUT)
    assert ours == pytest.approx(expected, rel=1e-7 + 100 * stored / expected**0.5)


@pytest.mark.parametrize("means", [1.0, 1e3, 1e7])
def test_the_squared_norm_of_the_bundle_gradient_is_the_slope_along_it(means: float) -> None:
    """g(r, r) = <G, r>, r = Pi Pi* G, with G of a loss that looks at deviations: to 1e-7 at means 1e7."""
    X = far_point(means)
    G = LAYOUT.deviations(np.random.default_rng(5).standard_normal(X.shape))
    G -= (G @ X.T + X @ G.T) / 2 @ LAYOUT.deviations(X) / LAYOUT.n  # no part along the fibre
    metric = BundleMetric(LAYOUT)
    r = metric.gradient(X, G)
    assert metric.inner(X, r, r) == pytest.approx(float(np.sum(G * r)), rel=1e-7)


@pytest.mark.parametrize("means", [1.0, 1e4, 1e7])
def test_the_fibre_scale_solves_its_equation(means: float) -> None:
    """Relative to each term, with the exact A = n I + M_w M_w^T in 40 digits."""
    X, Z = far_point(means), np.random.default_rng(6).standard_normal((P, LAYOUT.n))
    S = fibre_scale(X, Z, LAYOUT)
    np.testing.assert_array_equal(S, S.T)
    with mpmath.workdps(40):
        x, z, s = (mpmath.matrix(a.tolist()) for a in (X, Z, S))
        gap = s * (x * x.T) + (x * x.T) * s - z * x.T - x * z.T
        size = mpmath.norm(x * x.T) * mpmath.norm(s) + mpmath.norm(z * x.T)
        assert mpmath.norm(gap) / size < 1e-13


def test_horizontal_vectors_of_more_classes_than_features_and_the_other_way() -> None:
    for layout, size in ((ClassLayout((5, 7, 6)), 2), (ClassLayout((3, 3, 4, 3, 5)), 4), (ClassLayout((9, 8)), 6)):
        X, rng = point(layout, size), np.random.default_rng(7)
        S, Z = rng.standard_normal((size, size)), rng.standard_normal(X.shape)
        np.testing.assert_allclose(horizontal(X, (S + S.T) @ X, layout), 0 * X, rtol=0, atol=1e-12)
        np.testing.assert_allclose(np.sum(horizontal(X, Z, layout) * ((S + S.T) @ X)), 0, rtol=0, atol=1e-11)


def test_weingarten_looks_at_deviations() -> None:
    means = 1e6
    X = far_point(means)
    near = LAYOUT.deviations(X)
    U = normalized_features.orthogonal_projection(near, np.random.default_rng(8).standard_normal(X.shape), LAYOUT)
    V = near @ near.T / LAYOUT.n @ near
    np.testing.assert_allclose(
        LAYOUT.deviations(weingarten(X, U + means, V + means, LAYOUT)),
        LAYOUT.deviations(weingarten(near, U, V, LAYOUT)),
        atol=1e-8,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("convert", CONVERSIONS)
def test_a_direction_that_is_rounding_only_is_refused(dtype: type, convert) -> None:
    """sqrt(P) eps of the features' size is what rounding can leave of a direction; more than that is data."""
    rng = np.random.default_rng(9)
    layout, size = ClassLayout.equal(3, 30), 16
    D = normalized_features.renormalize(layout.deviations(rng.standard_normal((size, layout.n))), layout)
    D[-1] *= 8 * np.finfo(dtype).eps
    with pytest.raises(ValueError, match=f"1 of {size} directions are lost"):
        normalized_features.renormalize(convert(D.astype(dtype)), layout)
    D[-1] *= 50
    if dtype == np.float64:
        assert residual(normalized_features.renormalize(convert(D), layout), layout) < 50 * np.finfo(dtype).eps * size**0.5


@pytest.mark.parametrize("means", [1.0, 1e3, 1e5])
def test_the_bundle_hessian_is_right_however_large_the_means(means: float) -> None:
    """In the metric's own norm, against the formula with Pi Pi*, S_r and A written out in 60 digits."""
    X, rng = far_point(means), np.random.default_rng(10)
    metric = BundleMetric(LAYOUT)
    G, H = rng.standard_normal((2, *X.shape))
    U = metric.project(X, rng.standard_normal(X.shape))
    ours = metric.hessian(X, G, H, U)
    with mpmath.workdps(60):
        x, g, h, u, value = (mpmath.matrix(a.tolist()) for a in (X, G, H, U, ours))
        n, labels = LAYOUT.n, mpmath.matrix(LAYOUT.spread(np.eye(LAYOUT.C)).tolist())
        centering = (mpmath.eye(n) - labels.T * mpmath.diag([mpmath.mpf(1) / size for size in LAYOUT.sizes]) * labels) / n

        def sym(a):
            return (a + a.T) / 2

        values, E = mpmath.eigsy(sym(x * centering * x.T))  # what is stored is on the manifold to rounding only
        D = n * x * centering
        x = E * mpmath.diag([1 / mpmath.sqrt(v) for v in values]) * E.T * D + (x - D)
        u = u - sym(x * centering * u.T) * x
        A = x * x.T
        values, E = mpmath.eigsy(sym(A))

        def scale(z):
            T = E.T * (z * x.T + x * z.T) * E
            return E * mpmath.matrix([[T[i, j] / (values[i] + values[j]) for j in range(P)] for i in range(P)]) * E.T

        def gradient(w):
            w = w - sym(w * x.T) * x * centering
            return w - sym(x * centering * w.T) * x

        S_U, S_r = scale(u), scale(gradient(g))
        curved = h - sym(g * x.T) * u * centering + S_r * u
        expected = gradient(curved) - sym(A * S_U * S_r) * (x - n * x * centering) / n
        gap, size = (float(mpmath.norm(z - scale(z) * x)) for z in (value - expected, expected))
    assert gap < 1e-15 * means * 30 * size


def test_the_orbit_of_a_parameter_is_seen_to_rounding_where_nothing_is_recorded() -> None:
    means = 1e5
    X, metric = far_point(means), BundleMetric(LAYOUT)
    U = metric.project(X, np.random.default_rng(11).standard_normal(X.shape))
    expected = metric.rotation_rate(X, U)
    with torch.no_grad():
        ours = metric.rotation_rate(torch.from_numpy(X).requires_grad_(True), torch.from_numpy(U)).numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-15 * means * float(np.abs(expected).max()))
