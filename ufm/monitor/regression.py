"""Neural regression collapse, NRC1-3 of Andriopoulos, Dong, Guo, Zhao & Ross (2024): features h (P,), targets y (d,), W (d, P).

With h' = (h - mean h) / ||h - mean h||: NRC1 is the mean squared distance of h' from the span of the d principal components of
the features, NRC2 its mean squared distance from the row space of W, and NRC3 the squared distance of W W^T / ||W W^T||_F from
(Sigma^{1/2} - gamma^{1/2} I) / || . ||_F, Sigma the covariance of the targets, at the best gamma in (0, smallest eigenvalue).
Distances of h' need a second look at the features; NRC3 and the error are decided by the moments.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from manifolds.linalg import symmetrize
from manifolds.representation import short_repr


@dataclass(frozen=True, eq=False, repr=False)
class JointMoments:
    """Means and covariances of features and targets together, z = [h; y]: mean (P + d,), covariance (P + d, P + d)."""

    mean: Tensor
    covariance: Tensor
    P: int
    __repr__ = short_repr

    @property
    def d(self) -> int:
        """Number of targets."""
        return len(self.mean) - self.P

    @property
    def target_covariance(self) -> Tensor:
        """Sigma (d, d)."""
        return self.covariance[self.P :, self.P :]


def principal_subspace(joint: JointMoments) -> Tensor:
    """Orthonormal basis (P, d) of the d principal components of the features. Raises ValueError where there are fewer."""
    _, E = torch.linalg.eigh(symmetrize(joint.covariance[: joint.P, : joint.P]))
    if joint.d > joint.P:
        raise ValueError(f"P = {joint.P} features have no {joint.d} principal components")
    return E[:, joint.P - joint.d :]


def row_space(W: Tensor) -> Tensor:
    """Orthonormal basis (P, r) of the row space of W (d, P). Raises ValueError for W = 0."""
    _, values, Vt = torch.linalg.svd(W, full_matrices=False)
    kept = values > max(W.shape) * torch.finfo(W.dtype).eps * values[0]
    if not bool(kept.any()):
        raise ValueError("W = 0: it spans nothing")
    return Vt[kept].mT


def squared_distances(rows: Tensor, mean: Tensor, bases: tuple[Tensor, ...]) -> Tensor:
    """sum_i of the squared distance of h_i' (n, P) from each subspace. Raises ValueError where a feature equals the mean."""
    centred = rows - mean
    lengths = torch.linalg.vector_norm(centred, dim=1)
    if len(rows) and not float(lengths.min()) > 0:
        raise ValueError("a feature equals the mean of all features: it has no direction")
    unit = centred / lengths[:, None]
    return torch.stack([((unit - (unit @ basis) @ basis.mT) ** 2).sum() for basis in bases])


def nrc3(W: Tensor, sigma: Tensor) -> tuple[float, float]:
    """NRC3 and the gamma that gives it, W (d, P), sigma (d, d). Raises ValueError for d = 1, W = 0 and a singular sigma.

    For d = 1 both sides are 1 whatever W is. The best gamma is found by bounded scalar minimisation (Brent).
    """
    from scipy.optimize import minimize_scalar

    d = len(W)
    if d < 2:
        raise ValueError("with d = 1 target both sides of NRC3 are 1, so that it measures nothing")
    values, E = torch.linalg.eigh(symmetrize(sigma))
    if not float(values[0]) > d * torch.finfo(sigma.dtype).eps * float(values[-1]):
        raise ValueError(
            f"the covariance of the targets is singular (eigenvalues {float(values[0]):.2e} to {float(values[-1]):.2e})"
        )
    own = W @ W.mT
    if not float(own.norm()) > 0:
        raise ValueError("W = 0: W W^T has no direction")
    own, root = E.mT @ (own / own.norm()) @ E, values.sqrt()
    off = float(((own - torch.diag(own.diagonal())) ** 2).sum())

    def distance(share: float) -> float:
        ideal = root - share * root[0]
        return off + float(((own.diagonal() - ideal / ideal.norm()) ** 2).sum())

    best = minimize_scalar(distance, bounds=(0.0, 1.0), method="bounded", options={"xatol": 1e-12})
    return float(best.fun), float((best.x * root[0]) ** 2)


def mean_squared_error(joint: JointMoments, W: Tensor, b: Tensor) -> float:
    """Ave ||W h + b - y||^2, from the moments alone."""
    joined = torch.cat([W, -torch.eye(joint.d, dtype=W.dtype, device=W.device)], 1)
    shift = joined @ joint.mean + b
    return float(((joined @ joint.covariance) * joined).sum() + (shift * shift).sum())
