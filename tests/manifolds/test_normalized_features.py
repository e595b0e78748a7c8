"""Definitions 5-6, Propositions 3-4, Lemma 2 and errata 2-3: the manifold, its tangent space and its two projections."""

import numpy as np
import pytest
import torch
from hypothesis import given

from manifolds import normalized_features as geometry
from manifolds.class_centering import ClassLayout
from tests import oracles
from tests.strategies import Problem, problems


def frobenius(A: np.ndarray, B: np.ndarray) -> float:
    return float(np.sum(A * B))


@given(problems(balanced=False))
def test_class_operators_equal_their_dense_matrices(problem: Problem) -> None:
    layout, H = problem.layout, problem.H
    Y, C_M = oracles.one_hot(layout), oracles.class_centering(layout)
    means = H @ Y.T / np.asarray(layout.sizes)
    np.testing.assert_allclose(layout.means(H), means, rtol=0, atol=1e-12)
    np.testing.assert_allclose(layout.spread(means), means @ Y, rtol=0, atol=1e-12)
    np.testing.assert_allclose(layout.sums(H), H @ Y.T, rtol=0, atol=1e-11)
    np.testing.assert_allclose(layout.sums(torch.from_numpy(H)).numpy(), H @ Y.T, rtol=0, atol=1e-11)
    assert ClassLayout.of_labels(layout.labels) == layout
    np.testing.assert_allclose(layout.deviations(H), layout.n * H @ C_M, rtol=0, atol=1e-11)
    np.testing.assert_allclose(geometry.within_covariance(H, layout), H @ C_M @ H.T, rtol=0, atol=1e-11)
    np.testing.assert_array_equal(layout.labels, np.argmax(Y, axis=0))


@given(problems(balanced=False))
def test_torch_equals_numpy(problem: Problem) -> None:
    layout, X, Z = problem.layout, problem.X, problem.direction()
    Xt, Zt = torch.from_numpy(X), torch.from_numpy(Z)
    for function in (
        geometry.oblique_projection,
        geometry.oblique_projection_adjoint,
        geometry.orthogonal_projection,
    ):
        np.testing.assert_allclose(function(Xt, Zt, layout).numpy(), function(X, Z, layout), rtol=0, atol=1e-12)
    moved = geometry.renormalize(Xt + Zt, layout).numpy()
    np.testing.assert_allclose(moved, geometry.renormalize(X + Z, layout), rtol=0, atol=1e-10)
    np.testing.assert_allclose(
        layout.add_to_means(Xt.clone(), layout.means(Zt)), X + layout.spread(layout.means(Z)), rtol=0, atol=1e-12
    )


@given(problems(balanced=False))
def test_definition_5_and_observation_2_renormalized_features_have_identity_within_covariance(problem: Problem) -> None:
    layout, H = problem.layout, problem.H
    C_M = oracles.class_centering(layout)
    X = geometry.renormalize(H, layout)
    np.testing.assert_allclose(X @ C_M @ X.T, np.eye(problem.P), rtol=0, atol=1e-10)
    np.testing.assert_allclose(X, oracles.inverse_sqrt(H @ C_M @ H.T) @ H, rtol=0, atol=1e-8)
    assert geometry.constraint_residual(problem.X, layout) < 1e-12


@given(problems(balanced=False))
def test_proposition_3_corrected_is_the_derivative_of_the_constraint(problem: Problem) -> None:
    layout, X, Z = problem.layout, problem.X, problem.direction()
    C_M = oracles.class_centering(layout)
    derivative = oracles.directional_derivative(lambda X: X @ C_M @ X.T, X, Z)
    corrected = X @ C_M @ Z.T + Z @ C_M @ X.T
    np.testing.assert_allclose(derivative, corrected, rtol=0, atol=1e-7)
    np.testing.assert_allclose(geometry.tangency_residual(X, Z, layout), np.linalg.norm(corrected), rtol=1e-10)


def test_proposition_3_as_printed_has_no_meaning() -> None:
    """Erratum 2: the print has Z C X for Z C X^T, whose shapes do not even match."""
    layout = ClassLayout.equal(3, 5)
    rng = np.random.default_rng(0)
    X, Z = rng.standard_normal((2, 4, layout.n))
    with pytest.raises(ValueError, match="mismatch"):
        Z @ oracles.class_centering(layout) @ X


@given(problems(balanced=False))
def test_proposition_4_maps_onto_the_tangent_space_and_is_idempotent(problem: Problem) -> None:
    layout, X, Z = problem.layout, problem.X, problem.direction()
    for project in (geometry.oblique_projection, geometry.orthogonal_projection):
        tangent = project(X, Z, layout)
        assert geometry.tangency_residual(X, tangent, layout) < 1e-11
        np.testing.assert_allclose(project(X, tangent, layout), tangent, rtol=0, atol=1e-10)
    C_M = oracles.class_centering(layout)
    printed = Z - 0.5 * (X @ C_M @ Z.T + Z @ C_M @ X.T) @ X
    np.testing.assert_allclose(geometry.oblique_projection(X, Z, layout), printed, rtol=0, atol=1e-10)


@given(problems(balanced=False))
def test_erratum_3_proposition_4_is_oblique_and_its_adjoint_is_another_map(problem: Problem) -> None:
    layout, X, Z, W = problem.layout, problem.X, problem.direction(), problem.direction()
    left = frobenius(geometry.oblique_projection(X, Z, layout), W)
    np.testing.assert_allclose(left, frobenius(Z, geometry.oblique_projection_adjoint(X, W, layout)), rtol=0, atol=1e-9)
    # as an orthogonal projection would be, which it is not: the kernel is the fibre, not the normal space
    S = problem.rng.standard_normal((problem.P, problem.P))
    S = S + S.T
    np.testing.assert_allclose(geometry.oblique_projection(X, S @ X, layout), 0 * X, rtol=0, atol=1e-10)
    M = layout.means(X)
    gap = abs(left - frobenius(Z, geometry.oblique_projection(X, W, layout)))
    assert np.linalg.norm(M) > 0.01
    assert gap > 1e-8


@given(problems(balanced=False))
def test_the_orthogonal_projection_is_self_adjoint_and_nearest(problem: Problem) -> None:
    layout, X, Z, W = problem.layout, problem.X, problem.direction(), problem.direction()
    PZ, PW = geometry.orthogonal_projection(X, Z, layout), geometry.orthogonal_projection(X, W, layout)
    np.testing.assert_allclose(frobenius(PZ, W), frobenius(Z, PW), rtol=0, atol=1e-9)
    np.testing.assert_allclose(frobenius(Z - PZ, PW), 0, rtol=0, atol=1e-9)
    C_M, n = oracles.class_centering(layout), layout.n
    np.testing.assert_allclose(PZ, Z - (n / 2) * (X @ C_M @ Z.T + Z @ C_M @ X.T) @ X @ C_M, rtol=0, atol=1e-10)


@given(problems(balanced=False))
def test_lemma_2_renormalisation_is_proposition_4_to_second_order(problem: Problem) -> None:
    layout, X = problem.layout, problem.X
    Z = problem.direction()
    Z /= np.linalg.norm(Z)

    def remainder(step: float) -> float:
        first_order = X + geometry.oblique_projection(X, step * Z, layout)
        return float(np.linalg.norm(geometry.renormalize(X + step * Z, layout) - first_order))

    assert abs(oracles.slope(remainder, np.geomspace(1e-3, 1e-2, 5)) - 2) < 0.1


def test_renormalize_refuses_a_singular_covariance_with_its_eigenvalue() -> None:
    layout = ClassLayout.equal(3, 6)
    X = np.random.default_rng(1).standard_normal((4, layout.n))
    X[2] = 0
    with pytest.raises(ValueError, match="not positive definite"):
        geometry.renormalize(X, layout)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassLayout((3,)), "C = 1"),
        (lambda: ClassLayout.equal(1, 4), "C = 1"),
        (lambda: ClassLayout((3, 0, 2)), "class 1 has 0 examples"),
        (lambda: ClassLayout.of_labels([0, 0, 1, 0]), "column 3 has class 0 after class 1"),
        (lambda: ClassLayout.of_labels([0, 0, 2]), "leaves no class out"),
        (lambda: ClassLayout.of_labels([1, 1, 2]), "starts at class 0"),
        (lambda: ClassLayout.of_labels([]), "starts at class 0"),
        (lambda: ClassLayout((3, 4)).N, "subsample every class to 3"),
        (lambda: ClassLayout.equal(3, 2).check_rank(4), r"C\(N-1\) = 3 < P = 4"),
        (lambda: ClassLayout.equal(3, 2).means(np.zeros((2, 7))), "7 columns"),
    ],
)
def test_bad_layouts_are_refused_with_the_number(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
