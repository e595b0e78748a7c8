"""The headless checks: they pass on ours and the libraries' own manifolds, and they catch what is wrong."""

import geoopt
import matplotlib.figure
import numpy as np
import pymanopt
import pytest
import torch

from manifolds import geoopt as geoopt_manifolds
from manifolds import pymanopt as pymanopt_manifolds
from manifolds import retractions
from manifolds.checks import derivatives as derivative_checks
from manifolds.checks import manifold as checks
from manifolds.checks.slopes import Bound, SlopeVerdict, measure_slope
from manifolds.checks.views import GeooptView, ManifoldView, PymanoptView, flat
from manifolds.class_centering import ClassLayout
from manifolds.normalized_features import oblique_projection
from tests.manifolds.points import LAYOUT, P, cost

SMALL, SMALL_P = ClassLayout((3, 4)), 2


def ours() -> dict[str, tuple[ManifoldView, int, int]]:
    """Views of our classes with the order of their retraction and transport."""
    small, embedded = (SMALL_P, SMALL.n), pymanopt_manifolds.EmbeddedNormalizedFeatures
    exact = geoopt_manifolds.EmbeddedNormalizedFeaturesExact(LAYOUT, seed=0)
    return {
        "pymanopt embedded": (PymanoptView(embedded(LAYOUT, P, seed=0)), 2, 2),
        "pymanopt embedded multi": (
            PymanoptView(embedded(SMALL, SMALL_P, copies=3, seed=0)),
            2,
            2,
        ),
        "pymanopt bundle": (PymanoptView(pymanopt_manifolds.NormalizedFeatures(SMALL, SMALL_P, seed=0)), 1, 1),
        "geoopt embedded": (GeooptView(geoopt_manifolds.EmbeddedNormalizedFeatures(LAYOUT, seed=0), (P, LAYOUT.n)), 2, 2),
        "geoopt embedded exact": (
            GeooptView(exact, (P, LAYOUT.n)),
            2,
            2,
        ),
        "geoopt bundle": (GeooptView(geoopt_manifolds.NormalizedFeatures(SMALL, seed=0), small), 1, 1),
    }


@pytest.mark.parametrize("name", list(ours()))
def test_our_manifolds_pass_every_check(name: str) -> None:
    view, retraction_order, transport_order = ours()[name]
    report = checks.check_manifold(view, retraction_order, transport_order)
    assert report.passed, str(report)
    slopes = [v for v in report.verdicts if isinstance(v, SlopeVerdict) and not v.exact]
    assert slopes
    assert all(abs(v.slope - v.expected) < 0.05 for v in slopes), str(report)
    allowed = {"dimension"} if name.startswith("geoopt") else set()
    allowed |= {"parallel transport"} if name in ("geoopt embedded", "geoopt bundle") else set()
    assert set(report.missing) == allowed


@pytest.mark.slow
def test_the_exact_bundle_class_passes_every_check() -> None:
    view = GeooptView(geoopt_manifolds.NormalizedFeaturesExact(SMALL, seed=0), (SMALL_P, SMALL.n))
    report = checks.check_manifold(view, 1, 1)
    assert report.passed, str(report)


LIBRARIES: dict[str, ManifoldView] = {
    "pymanopt Sphere": PymanoptView(pymanopt.manifolds.Sphere(5)),
    "pymanopt Stiefel": PymanoptView(pymanopt.manifolds.Stiefel(8, 3)),
    "pymanopt Grassmann": PymanoptView(pymanopt.manifolds.Stiefel(8, 3, k=2)),
    "pymanopt SymmetricPositiveDefinite": PymanoptView(pymanopt.manifolds.SymmetricPositiveDefinite(3)),
    "pymanopt Product": PymanoptView(pymanopt.manifolds.Product([pymanopt.manifolds.Sphere(5), pymanopt.manifolds.Euclidean(4)])),
    "geoopt EuclideanStiefel": GeooptView(geoopt.EuclideanStiefel(), (8, 3)),
    "geoopt Euclidean": GeooptView(geoopt.Euclidean(ndim=1), (4,)),
    "geoopt PoincareBallExact": GeooptView(geoopt.PoincareBallExact(), (4,)),
    "geoopt Sphere": GeooptView(geoopt.Sphere(), (4,)),
}


@pytest.mark.parametrize("name", list(LIBRARIES))
def test_checks_run_on_manifolds_of_both_libraries(name: str) -> None:
    np.random.seed(0)  # noqa: NPY002 - pymanopt's own manifolds draw from it
    report = checks.check_manifold(LIBRARIES[name])
    assert len(report.verdicts) >= 10
    # geoopt's sphere puts dist(x, x) at 4.5e-4, the square root of its clamp
    known = {"dist(x, x) = 0"} if name == "geoopt Sphere" else set()
    assert {v.name for v in report.failures} <= known, str(report)


REFUSED = {
    "complex": (
        PymanoptView(pymanopt.manifolds.ComplexCircle(4)),
        PymanoptView(pymanopt.manifolds.ComplexGrassmann(6, 2)),
        PymanoptView(pymanopt.manifolds.HermitianPositiveDefinite(3)),
        PymanoptView(pymanopt.manifolds.UnitaryGroup(3)),
        PymanoptView(pymanopt.manifolds.Product([pymanopt.manifolds.Sphere(3), pymanopt.manifolds.ComplexCircle(2)])),
        GeooptView(geoopt.UpperHalf(), (3, 3)),
        GeooptView(geoopt.BoundedDomain(), (3, 3)),
    ),
    "quotient": (PymanoptView(pymanopt.manifolds.PSDFixedRank(6, 2)), PymanoptView(pymanopt.manifolds.Elliptope(6, 2))),
    "coordinates": (
        PymanoptView(pymanopt.manifolds.SpecialOrthogonalGroup(4)),
        PymanoptView(pymanopt.manifolds.SpecialOrthogonalGroup(3, k=2)),
    ),
    "scaled": (
        GeooptView(geoopt.Scaled(geoopt.Sphere(), 2.0), (4,)),
        GeooptView(geoopt.Scaled(geoopt_manifolds.NormalizedFeaturesExact(SMALL, seed=0), 0.5), (SMALL_P, SMALL.n)),
        GeooptView(geoopt.ProductManifold((geoopt.Scaled(geoopt.Sphere(), 2.0), 4), (geoopt.Sphere(), 3)), (7,)),
    ),
    "other shapes": (PymanoptView(pymanopt.manifolds.FixedRankEmbedded(6, 5, 2)),),
}


@pytest.mark.parametrize(("reason", "view"), [(reason, view) for reason, views in REFUSED.items() for view in views])
def test_what_the_laws_are_not_those_of_is_refused_with_the_reason(reason: str, view: ManifoldView) -> None:
    with pytest.raises(ValueError, match=f"{reason}.*nothing was checked"):
        checks.check_manifold(view)


def test_points_that_a_projection_cannot_make_of_any_numbers_are_drawn_by_the_manifold() -> None:
    before = torch.get_rng_state()
    view = GeooptView(geoopt.BirkhoffPolytope(), (4, 4))
    assert all(view.manifold.check_point_on_manifold(view.random_point()) for _ in range(5))
    assert torch.equal(torch.get_rng_state(), before)
    # its proju takes an ambient gradient (it multiplies by x first), so that no tangent vector is its own projection
    assert "projection is idempotent" in {v.name for v in checks.check_manifold(view).failures}


def test_the_known_defect_of_geoopts_canonical_stiefel_is_caught() -> None:
    report = checks.check_manifold(GeooptView(geoopt.CanonicalStiefel(), (8, 3)))
    assert "projection is idempotent" in {v.name for v in report.failures}
    assert "FAIL projection is idempotent" in str(report)
    assert "not implemented" in str(report)


class PiAsGradient(pymanopt_manifolds.EmbeddedNormalizedFeatures):
    """The mistake of erratum 3: Proposition 4's map as the gradient of the Frobenius metric."""

    def euclidean_to_riemannian_gradient(self, point: np.ndarray, euclidean_gradient: np.ndarray) -> np.ndarray:
        return oblique_projection(point, euclidean_gradient, self.layout)


class FirstOrder(pymanopt_manifolds.EmbeddedNormalizedFeatures):
    """Claims a second-order retraction and has none."""

    def retraction(self, point: np.ndarray, tangent_vector: np.ndarray) -> np.ndarray:
        return retractions.renormalisation(point, tangent_vector, self.layout)


class NotParallel(pymanopt_manifolds.EmbeddedNormalizedFeatures):
    """Calls its projection parallel transport."""

    parallel_transport = pymanopt_manifolds.EmbeddedNormalizedFeatures.transport


@pytest.mark.parametrize(
    ("cls", "failure"),
    [
        (PiAsGradient, "gradient represents the differential"),
        (FirstOrder, "retraction of order 2 against exp"),
        (NotParallel, "parallel transport is an isometry"),
    ],
)
def test_planted_mistakes_are_caught(cls: type, failure: str) -> None:
    report = checks.check_manifold(PymanoptView(cls(LAYOUT, P)), 2, 2)
    assert failure in {v.name for v in report.failures}


def test_inverse_retractions_pass_their_check() -> None:
    for adapter, order, retract, inverse in (
        (pymanopt_manifolds.EmbeddedNormalizedFeatures, 2, retractions.polar_retraction, retractions.inverse_polar_retraction),
        (pymanopt_manifolds.NormalizedFeatures, 1, retractions.renormalisation, retractions.inverse_renormalisation),
    ):
        view = PymanoptView(adapter(SMALL, SMALL_P))
        verdicts = checks.check_inverse_retraction(
            view, lambda x, y, f=inverse: f(x, y, SMALL), lambda x, u, f=retract: f(x, u, SMALL), order
        )
        assert all(v.passed for v in verdicts), [str(v) for v in verdicts]


@pytest.mark.parametrize("cls", [pymanopt_manifolds.EmbeddedNormalizedFeatures, pymanopt_manifolds.NormalizedFeatures])
def test_gradient_and_hessian_of_a_cost_have_slopes_2_and_3(cls: type) -> None:
    manifold = cls(SMALL, SMALL_P, seed=0)
    f, gradient, hessian = cost(SMALL_P, SMALL.n)
    problem = pymanopt.Problem(
        manifold,
        pymanopt.function.numpy(manifold)(f),
        euclidean_gradient=pymanopt.function.numpy(manifold)(gradient),
        euclidean_hessian=pymanopt.function.numpy(manifold)(hessian),
    )
    view = PymanoptView(manifold)
    first = derivative_checks.check_gradient(view, problem.cost, problem.riemannian_gradient)
    second = derivative_checks.check_hessian(view, problem.cost, problem.riemannian_gradient, problem.riemannian_hessian)
    assert all(v.passed for v in [*first, *second]), [str(v) for v in [*first, *second]]
    assert isinstance(first[0], SlopeVerdict)
    assert isinstance(second[0], SlopeVerdict)
    assert abs(first[0].slope - 2) < 0.05
    assert abs(second[0].slope - 3) < 0.05


def test_the_hessian_of_the_other_metric_is_caught() -> None:
    classes = (pymanopt_manifolds.EmbeddedNormalizedFeatures, pymanopt_manifolds.NormalizedFeatures)
    embedded, bundle = (cls(SMALL, SMALL_P, seed=0) for cls in classes)
    f, gradient, hessian = cost(SMALL_P, SMALL.n)
    verdicts = derivative_checks.check_hessian(
        PymanoptView(bundle),
        f,
        lambda x: bundle.euclidean_to_riemannian_gradient(x, gradient(x)),
        lambda x, u: embedded.euclidean_to_riemannian_hessian(x, gradient(x), hessian(x, u), u),
    )
    assert not verdicts[0].passed


def test_torch_costs_on_geoopt_manifolds_have_checkable_gradients() -> None:
    for cls in (geoopt_manifolds.NormalizedFeatures, geoopt_manifolds.EmbeddedNormalizedFeatures):
        view = GeooptView(cls(LAYOUT), (P, LAYOUT.n))

        def f(x: torch.Tensor) -> torch.Tensor:
            return (x**3).sum()

        verdicts = derivative_checks.check_gradient(view, f, derivative_checks.torch_derivatives(view, f))
        assert all(v.passed for v in verdicts), [str(v) for v in verdicts]


def test_slopes_are_measured_on_curves_of_known_order() -> None:
    rng, noise = np.random.default_rng(0), 1e-13
    for order in (1.0, 2.0, 3.0):
        verdict = measure_slope("known", lambda t, k=order: 3 * t**k + t ** (k + 2) + noise * rng.random(), order, 10 * noise)
        assert abs(verdict.slope - order) < 0.01
        assert verdict.passed
    low = measure_slope("too low", lambda t: t**1.5, 2, 1e-15)
    assert not low.passed
    exact = measure_slope("exact", lambda t: 1e-16, 2, 1e-15)
    assert exact.exact
    assert exact.passed
    hidden = measure_slope("drowned in rounding", lambda t: 1e-3 if t > 0.9 else 1e-16, 2, 1e-15)
    assert not hidden.passed
    assert not Bound("not a number", float("nan"), 1.0).passed


def test_a_slope_draws_itself_on_given_axes() -> None:
    figure = matplotlib.figure.Figure()
    axes = figure.subplots()
    measure_slope("known", lambda t: t**2, 2, 1e-15).draw(axes)
    assert axes.get_xlabel() == "step t"
    assert len(axes.lines) == 3
    measure_slope("exact", lambda t: 1e-16, 2, 1e-15).draw(figure.subplots())


def test_flat_takes_points_of_every_kind() -> None:
    parts = [np.ones(2), torch.zeros(3)]
    np.testing.assert_array_equal(flat(parts), [1, 1, 0, 0, 0])


def test_products_of_geoopt_are_checked_factor_by_factor() -> None:
    torus = geoopt.ProductManifold((geoopt.EuclideanStiefel(), (4, 2)), (geoopt.Euclidean(ndim=1), 3))
    report = checks.check_manifold(GeooptView(torus, (11,)))
    assert report.passed, str(report)
    wrong = geoopt.ProductManifold((geoopt.CanonicalStiefel(), (4, 2)), (geoopt.Euclidean(ndim=1), 3))
    failures = checks.check_manifold(GeooptView(wrong, (11,))).failures
    assert "projection is idempotent" in {verdict.name for verdict in failures}


@pytest.mark.parametrize("bare", [pymanopt.manifolds.Sphere(3), geoopt.Sphere()], ids=["pymanopt", "geoopt"])
def test_a_manifold_without_a_view_is_refused_with_the_way_out(bare: object) -> None:
    way_out = r"is no view: give PymanoptView\(manifold\) or GeooptView\(manifold, shape\)"
    with pytest.raises(ValueError, match=way_out):
        checks.check_manifold(bare)  # type: ignore[bad-argument-type]
    with pytest.raises(ValueError, match=way_out):
        derivative_checks.check_gradient(bare, np.sum, np.asarray)  # type: ignore[bad-argument-type]
    with pytest.raises(ValueError, match=way_out):
        derivative_checks.check_hessian(bare, np.sum, np.asarray, lambda x, u: u)  # type: ignore[bad-argument-type]
