"""The quotient by O(P) of a positive definite form: the Grassmann manifold, where no column is free of the constraint."""

import numpy as np
import pymanopt
import pytest
import scipy.linalg
import torch
from pymanopt.optimizers import TrustRegions

from manifolds.generalized import GeneralizedStiefelMetric
from manifolds.matrix_form import MatrixForm
from manifolds.pymanopt import GeneralizedStiefel, OrthogonalQuotient

FORM = MatrixForm.of_matrix(np.diag(np.linspace(0.5, 2.0, 7)))


def test_principal_components_by_trust_regions() -> None:
    """min -tr(X A X^T) over X B X^T = I is minus the sum of the largest generalized eigenvalues."""
    A = np.random.default_rng(0).standard_normal((7, 7))
    A, manifold = A @ A.T, OrthogonalQuotient(GeneralizedStiefel(FORM, 3, seed=0))

    @pymanopt.function.pytorch(manifold)
    def explained(X: torch.Tensor) -> torch.Tensor:
        return -(X @ torch.from_numpy(A) * X).sum()

    result = TrustRegions(verbosity=0, min_gradient_norm=1e-9).run(pymanopt.Problem(manifold, explained))
    values = np.asarray(scipy.linalg.eigh(A, np.diag(np.linspace(0.5, 2.0, 7)), eigvals_only=True))
    assert float(result.cost) == pytest.approx(-values[-3:].sum(), rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_rotation_rate_solves_its_equation(dtype: type, batch: tuple[int, ...]) -> None:
    """Omega A + A Omega = Z flat(X)^T - its transpose, A = X flat(X)^T, for numpy's arrays and torch's."""
    metric, rng = GeneralizedStiefelMetric(FORM), np.random.default_rng(1)
    X = metric.random_point(3, rng, batch)
    Z = metric.project(X, rng.standard_normal(X.shape))
    flat = metric.flat(X, X)
    right = Z @ flat.mT - flat @ Z.mT
    A = X @ flat.mT
    x, z, allowed = X.astype(dtype), Z.astype(dtype), 100 * float(np.finfo(dtype).eps)
    Omega = metric.rotation_rate(x, z)
    assert abs(Omega @ A + A @ Omega - right).max() < allowed
    tensors = metric.rotation_rate(torch.from_numpy(x), torch.from_numpy(z))
    assert abs(tensors.numpy() - Omega).max() < allowed
