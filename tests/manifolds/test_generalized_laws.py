"""Laws of the generalized Stiefel manifold on drawn forms: any rank, condition, scale and part in the kernel; both libraries."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manifolds import pymanopt as pymanopt_manifolds
from manifolds.checks.forms import check_form
from manifolds.checks.manifold import check_manifold
from manifolds.checks.views import PymanoptView
from manifolds.class_centering import ClassLayout
from manifolds.forms import SemidefiniteForm, WeightedCentering
from manifolds.generalized import GeneralizedStiefelMetric
from manifolds.matrix_form import MatrixForm
from tests.manifolds.test_generalized import FORMS, NAMES, WEIGHTS


@dataclass(frozen=True)
class Ring:
    """The energy of the increments of a signal on a ring of n points, by its Fourier transform: an action, no matrix."""

    columns: int = 9
    scale: float = 3.0

    @property
    def rank(self) -> int:
        return self.columns - 1

    @property
    def factors(self) -> int:
        return self.columns

    def _filter(self, X: Any, power: float) -> Any:
        frequencies = np.arange(1, self.columns // 2 + 1)
        spectrum = np.fft.rfft(X, axis=-1)
        spectrum[..., 0] = 0
        spectrum[..., 1:] *= (4 * np.sin(np.pi * frequencies / self.columns) ** 2) ** power
        return np.fft.irfft(spectrum, self.columns, axis=-1)

    def apply(self, X: Any) -> Any:
        return self._filter(X, 1.0)

    def range_coordinates(self, X: Any) -> Any:
        return self._filter(X, 0.5)

    def range_gradient(self, E: Any) -> Any:
        return self._filter(E, -0.5)

    def kernel_coordinates(self, X: Any) -> Any:
        return X.sum(-1, keepdims=True) / self.columns**0.5

    def combine(self, F: Any, K: Any) -> Any:
        return self._filter(F, -0.5) + K / self.columns**0.5


@dataclass(frozen=True)
class Case:
    """A form, P rows, a point with its kernel part `shift` away, and the generator that drew it."""

    form: SemidefiniteForm
    P: int
    shift: float
    rng: np.random.Generator

    @property
    def metric(self) -> GeneralizedStiefelMetric:
        return GeneralizedStiefelMetric(self.form)

    def point(self) -> np.ndarray:
        X = self.metric.random_point(self.P, self.rng)
        K = self.form.kernel_coordinates(X)
        return X + self.form.combine(0 * self.form.range_coordinates(X), self.shift * self.rng.standard_normal(K.shape))

    def ambient(self) -> np.ndarray:
        return self.rng.standard_normal((self.P, self.form.columns))


@st.composite
def cases(draw: st.DrawFn, shifts: tuple[float, ...] = (0.0, 1e3)) -> Case:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rank = draw(st.integers(1, 6))
    P = draw(st.integers(1, rank))
    kernel = draw(st.integers(0, 3))
    kind = draw(st.sampled_from(["factor", "matrix", "weights", "classes", "action"]))
    if kind == "weights":
        form: SemidefiniteForm = WeightedCentering(tuple(np.exp(rng.uniform(-4, 4, rank + 1))))
    elif kind == "classes":
        form = ClassLayout((rank, 1, 2))
    elif kind == "action":
        form, P = Ring(2 * rank + 1), min(P, 2 * rank)
    else:
        V = np.linalg.qr(rng.standard_normal((rank + kernel, rank)))[0]
        sigma = np.geomspace(1, 10.0 ** -draw(st.integers(0, 3)), rank) * 10.0 ** draw(st.integers(-3, 3))
        G = V * sigma @ np.linalg.qr(rng.standard_normal((rank, rank)))[0]
        form = MatrixForm.of_factor(G) if kind == "factor" else MatrixForm.of_matrix((V * sigma**2) @ V.T, tolerance=1e-9)
        assert form.rank == rank
    return Case(form, P, draw(st.sampled_from(shifts)), rng)


def size(*arrays: np.ndarray) -> float:
    return max(1.0, *(float(np.abs(a).max()) for a in arrays))


@given(cases())
@settings(max_examples=30, deadline=None)
def test_the_projection_is_tangent_idempotent_self_adjoint_and_what_is_left_is_normal(case: Case) -> None:
    metric, X = case.metric, case.point()
    assert metric.constraint_residual(X) < 1e-11 * size(X)
    Z, W = case.ambient(), case.ambient()
    U, V = metric.project(X, Z), metric.project(X, W)
    scale = float(metric.norm(X, Z) * metric.norm(X, W)) + 1e-300
    assert metric.tangency_residual(X, U) < 1e-11 * size(X) * max(1.0, float(metric.norm(X, Z)))
    assert metric.norm(X, metric.project(X, U) - U) <= 1e-11 * size(X) * float(metric.norm(X, Z))
    assert abs(metric.inner(X, U, W) - metric.inner(X, Z, V)) <= 1e-11 * size(X) * scale
    assert abs(metric.inner(X, Z - U, V)) <= 1e-11 * size(X) * scale
    E = case.ambient()
    gradient = metric.gradient(X, E)
    left, right = metric.inner(X, gradient, U), np.sum(E * U)
    assert abs(left - right) <= 1e-10 * size(X) * (float(metric.norm(X, gradient) * metric.norm(X, U)) + abs(right))


@given(cases(shifts=(0.0, 10.0)))
@settings(max_examples=20, deadline=None)
def test_polar_is_of_second_order_and_the_others_of_first(case: Case) -> None:
    """The error beside the geodesic falls by 8 (4) where the step is halved, or is rounding."""
    metric, X = case.metric, case.point()
    U = metric.project(X, case.ambient())
    U *= 0.02 * case.form.scale**0.5 / max(float(metric.norm(X, U)), 1e-300)

    def error(name: str, t: float) -> float:
        return float(metric.norm(X, metric.retract(X, t * U, name) - metric.exp(X, t * U)))

    rounding = 1e-13 * size(X) * max(1.0, case.form.scale**0.5) + float(metric.tangency_residual(X, U))  # exp takes U as it is
    for name, factor in (("polar", 8), ("cholesky", 4), ("renormalisation", 4)):
        whole, half = error(name, 1.0), error(name, 0.5)
        assert half < whole / factor * 1.15 + rounding, name
    assert metric.constraint_residual(metric.retract(X, 50 * U, "polar")) < 1e-11 * size(X)


@given(cases(), st.floats(0.05, 0.9))
@settings(max_examples=20, deadline=None)
def test_log_inverts_exp_within_the_injectivity_radius_and_transport_is_an_isometry(case: Case, share: float) -> None:
    metric, X = case.metric, case.point()
    U = metric.project(X, case.ambient())
    length = float(metric.norm(X, U))
    if length < 1e-12:  # P = rank = 1 without a kernel: two points
        return
    U *= share * metric.injectivity_radius / length
    Y = metric.exp(X, U)
    assert metric.constraint_residual(Y) < 1e-11 * size(X, U)
    shooting = metric.shoot(X, Y)
    assert shooting.converged
    assert shooting.minimising
    assert metric.norm(X, shooting.vector - U) < 1e-7 * metric.injectivity_radius * size(X)
    np.testing.assert_allclose(metric.dist(X, Y), share * metric.injectivity_radius, rtol=1e-7)
    V, W = metric.project(X, case.ambient()), metric.project(X, case.ambient())
    end, carried = metric.geodesic_transport(X, U, V)
    product = metric.inner(Y, carried, metric.geodesic_transport(X, U, W)[1])
    bound = float(metric.norm(X, V) * metric.norm(X, W)) + 1e-300
    assert abs(product - metric.inner(X, V, W)) < 1e-10 * bound * size(X)
    assert metric.tangency_residual(end, carried) < 1e-10 * size(X, carried)


@given(cases(shifts=(0.0,)))
@settings(max_examples=10, deadline=None)
def test_float32_is_right_to_its_rounding_times_the_condition(case: Case) -> None:
    if isinstance(case.form, Ring):  # of numpy alone
        return
    metric, X = case.metric, case.point()
    U = metric.project(X, case.ambient())
    U *= case.form.scale**0.5 / max(float(metric.norm(X, U)), 1e-300)
    x, u = (torch.as_tensor(Z, dtype=torch.float32) for Z in (X, U))
    B = case.form.apply(np.eye(case.form.columns))
    for move in (metric.retract, metric.exp):
        y = move(x, u)
        assert y.dtype == torch.float32
        # rounding X and the point alone moves the constraint by eps times the sizes of both factors in B's norm
        allowed = 20 * np.finfo(np.float32).eps * case.P * (1 + np.linalg.norm(B, 2) * max(size(X), size(U)) ** 2 * len(B))
        assert metric.constraint_residual(y.double()) < allowed


@pytest.mark.parametrize("form", [*FORMS, Ring()], ids=[*NAMES, "action"])
def test_the_maps_of_a_form_belong_together(form: SemidefiniteForm) -> None:
    report = check_form(form)
    assert report.passed, report.failures


class WrongApply(Ring):
    def apply(self, X: Any) -> Any:
        return 2 * super().apply(X)


class WrongRank(Ring):
    @property
    def rank(self) -> int:
        return 5


class WrongGradient(Ring):
    def range_gradient(self, E: Any) -> Any:
        return self.range_coordinates(E)


class WrongKernel(Ring):
    def kernel_coordinates(self, X: Any) -> Any:
        return 2 * super().kernel_coordinates(X)


class WrongCombine(Ring):
    def combine(self, F: Any, K: Any) -> Any:
        return super().combine(F, K) + F.sum(-1, keepdims=True)


WRONG = {
    WrongApply: "B = G G^T",
    WrongRank: "rank(G) is `rank`",
    WrongGradient: "range_gradient is the transpose of combine",
    WrongKernel: "the kernel's coordinates are orthonormal",
    WrongCombine: "combine has no kernel part of F",
}


@pytest.mark.parametrize(("cls", "law"), WRONG.items())
def test_a_form_whose_maps_disagree_is_caught(cls: type[Ring], law: str) -> None:
    assert law in [verdict.name for verdict in check_form(cls()).failures]


def test_a_form_given_by_its_action_passes_every_check_of_a_manifold() -> None:
    report = check_manifold(PymanoptView(pymanopt_manifolds.GeneralizedStiefel(Ring(), 3, seed=0)), 2, 2)
    assert report.passed, report.failures
    assert report.missing == ()


def test_weights_of_any_size_and_a_mean_of_1e6() -> None:
    assert WeightedCentering((1e308, 1e308)).weights == (0.5, 0.5)
    for nothing in (1e-300, 1e-33):
        with pytest.raises(ValueError, match=r"weight 1 is .* of the largest, below the precision of float64"):
            WeightedCentering((1.0, nothing))
    small = GeneralizedStiefelMetric(WeightedCentering((1.0, 2.0, 1e-12, 3.0)))
    assert small.constraint_residual(small.random_point(2, np.random.default_rng(0))) < 1e-10
    metric, rng = GeneralizedStiefelMetric(WEIGHTS), np.random.default_rng(0)
    X = metric.random_point(3, rng) + 1e6
    U = metric.project(X, rng.standard_normal(X.shape))
    U /= metric.norm(X, U)
    np.testing.assert_allclose(metric.log(X, metric.exp(X, U)), U, atol=1e-8)


def test_the_logarithm_of_half_precision_is_computed_in_float64() -> None:
    metric, rng = GeneralizedStiefelMetric(FORMS[1]), np.random.default_rng(0)
    X = metric.random_point(3, rng)
    U = metric.project(X, rng.standard_normal(X.shape))
    U /= metric.norm(X, U)
    x, y = (torch.as_tensor(Z, dtype=torch.float16) for Z in (X, metric.exp(X, U)))
    vector = metric.log(x, y)
    assert vector.dtype == torch.float16
    reference = metric.log(x.double(), y.double())
    np.testing.assert_allclose(vector.double(), reference, atol=2 * 2**-11 * float(abs(reference).max()))
