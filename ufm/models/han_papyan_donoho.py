"""Han, Papyan & Donoho 2022: gradient flow of the least-squares loss on the normalized features manifold, the central path."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from manifolds.normalized_features import renormalize, within_covariance
from ufm.laws.singular_value_dynamics import Law
from ufm.models.base import Facts, Quantities, Solved, need_etf, need_positive
from ufm.models.integrated import Integrated
from ufm.models.objective.peeled import Point, gaussian_point
from ufm.tensor.renormalized_flow import FLOWS, central_path_field

REACH = {"renormalized": 3.0, "embedded": 1.5}  # end of the run in sqrt C; once round-off has left the manifold, the embedded
# field leads further away from it, so that flow is followed for less long
SPREAD = 5.0  # ratio of the largest to the smallest singular value of the start


@dataclass(frozen=True, kw_only=True)
class CentralPath(Integrated):
    """dX/dt = -Pi(grad L_LS(X)) on {X : X C_M X^T = I}, or with the orthogonal projection (`flow` embedded).

    The singular values omega_j of the class means follow the laws (a) and (b) of `ufm.laws.singular_value_dynamics`, with frozen
    singular vectors and frozen deviations; all omega_j -> infinity with ratio -> 1. L_LS = 1/2 sum 1/(omega_j^2 + C).
    `scale` is the largest omega_j of the start. Source: Eq. 5, Lemma 1, Propositions 2 and 4, with the errata of
    docs/mathematics.md.
    """

    facts: ClassVar[Facts] = Facts(
        name="central-path",
        paper="Han, Papyan & Donoho 2022, arXiv 2106.02073",
        loss="least-squares squared error L_LS",
        constraint="X C_M X^T = I (normalized features manifold)",
        theory="omega_j(t) by law (a): log u + u = const + 2t/(C^2 N), u = omega^2/C; frozen singular vectors",
        domain="C (N-1) >= P >= C - 1, scale > 0",
        needs="its law has equal classes and no penalty",
    )
    scale: float = 1.0
    flow: str = "renormalized"

    def __post_init__(self) -> None:
        super().__post_init__()
        need_positive(scale=self.scale)
        if self.flow not in REACH:
            raise ValueError(f"flow = {self.flow}: unknown here; choose from {', '.join(REACH)}")

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """X."""
        return ((self.P, self.layout.n),)

    @property
    def law(self) -> Law:
        """The closed law of the flow."""
        return FLOWS[self.flow].law

    @property
    def omega0(self) -> np.ndarray:
        """Singular values of the start, descending from `scale`. (C-1,)"""
        return self.scale * np.geomspace(1, 1 / SPREAD, self.C - 1)

    @property
    def times(self) -> np.ndarray:
        """From the start until the smallest singular value has reached a multiple of sqrt C and of the start's largest one."""
        goal = REACH[self.flow] * max(np.sqrt(self.C), self.scale)
        return np.linspace(0, float(self.law.time(np.asarray(goal), self.omega0[-1:], self.C, self.N)[0]), 41)

    def check_domain(self) -> None:
        """C (N-1) >= P >= C - 1."""
        need_etf(self.C, self.P)
        self.layout.check_rank(self.P)

    def start(self, seed: int, device: str = "cpu") -> Point:
        """Random deviations with identity covariance, class means U diag(omega0) V^T with random U and V, 1^T V = 0."""
        K = self.C - 1
        X, U, V = gaussian_point((*self.shapes, (self.P, K), (self.C, K)), seed, device=device)
        U, V = (torch.linalg.qr(A)[0] for A in (U, V - V.mean(0)))
        M = (U * torch.as_tensor(self.omega0, device=device)) @ V.mT
        return (renormalize(self.layout.deviations(X), self.layout) + self.layout.spread(M),)

    def velocity(self, point: Point) -> Point:
        """The field of the flow: minus the gradient of L_LS in its metric."""
        return (central_path_field(FLOWS[self.flow], self.layout)(point[0]),)

    def value(self, point: Point) -> float:
        """L_LS from the singular values of the class means."""
        omega = torch.linalg.svdvals(self.layout.means(point[0]))[: self.C - 1]
        return float((1 / (omega**2 + self.C)).sum() / 2)

    def predicted(self) -> Quantities:
        """All omega_j at the last time, their largest ratio, L_LS, the residual of the constraint, and frozen deviations."""
        omega = self.law.omega(self.times[-1:], self.omega0, self.C, self.N)[0]
        loss = float((0.5 / (omega**2 + self.C)).sum())
        frozen = {"constraint_residual": 0.0, "deviations_moved": 0.0, "left_vectors_turned": 0.0}
        return {"omega": omega.tolist(), "omega_ratio": float(omega.max() / omega.min()), "loss": loss, **frozen}

    def measured(self, solved: Solved) -> Quantities:
        """The same of the integrated state."""
        (X0,), (X,) = solved.path[0], solved.point
        M, M0 = self.layout.means(X), self.layout.means(X0)
        omega = torch.linalg.svdvals(M)[: self.C - 1]
        U0, U = (torch.linalg.svd(A, full_matrices=False)[0][:, : self.C - 1] for A in (M0, M))
        turned = (U0.mT @ U).abs() - torch.eye(self.C - 1, dtype=X.dtype, device=X.device)
        identity = torch.eye(self.P, dtype=X.dtype, device=X.device)
        return {
            "omega": omega.tolist(),
            "omega_ratio": float(omega.max() / omega.min()),
            "loss": self.value(solved.point),
            "constraint_residual": float((within_covariance(X, self.layout) - identity).norm()),
            "deviations_moved": float((self.layout.deviations(X) - self.layout.deviations(X0)).abs().max()),
            "left_vectors_turned": float(turned.abs().max()),
        }

    def classifier_and_features(self, point: Point) -> tuple[Tensor, Tensor]:
        """W_LS = V diag(omega/(C + omega^2)) U^T, and X."""
        (X,) = point
        U, omega, Vt = torch.linalg.svd(self.layout.means(X), full_matrices=False)
        return (U * (omega / (self.C + omega**2)) @ Vt).mT, X
