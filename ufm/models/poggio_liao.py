"""Poggio & Liao 2020 (arXiv 2101.00072), as an unconstrained features model: squared error under weight normalisation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ufm.models import simplex
from ufm.models.base import Facts, Quantities, Solved, need_etf, need_positive
from ufm.models.minimised import Minimised
from ufm.models.objective.feasible import Feasible, Flat, Spheres
from ufm.models.objective.losses import SquaredError, column_weights, one_hot
from ufm.models.objective.peeled import Peeled, Point
from ufm.models.solvers.contract import Objective
from ufm.models.solvers.manifold import MANIFOLD_SOLVERS


@dataclass(frozen=True, eq=False)
class Normalized:
    """1/2 |rho W H - (Y - 1/C)|_F^2 + lam/2 rho^2 as a function of W, H and r (1, 1), rho = unit * r, by the chain rule.

    A unit of the size of the targets makes the curvature along r as large as that along W and H.
    """

    peeled: Peeled
    penalty: float
    unit: float

    def value_and_gradient(self, point: Point) -> tuple[Tensor, Point]:
        """The value and the Euclidean gradient in W, H and r."""
        W, H, r = point
        rho = self.unit * r
        value, (g_W, g_H) = self.peeled.value_and_gradient((rho * W, H))
        slope = (g_W * W).sum().reshape(1, 1) + self.penalty * rho
        return value + self.penalty / 2 * (rho * rho).sum(), (rho * g_W, g_H, self.unit * slope)

    def curvature_at(self, point: Point) -> Callable[[Point], Point]:
        """The Hessian at a point, as a map of directions."""
        W, H, r = point
        rho = self.unit * r
        g_W, _ = self.peeled.value_and_gradient((rho * W, H))[1]
        inner = self.peeled.curvature_at((rho * W, H))

        def apply(direction: Point) -> Point:
            dW, dH, drho = direction[0], direction[1], self.unit * direction[2]
            c_W, c_H = inner((drho * W + rho * dW, dH))
            slope = ((c_W * W).sum() + (g_W * dW).sum()).reshape(1, 1) + self.penalty * drho
            return drho * g_W + rho * c_W, c_H, self.unit * slope

        return apply


@dataclass(frozen=True, kw_only=True)
class PoggioLiao(Minimised):
    """min 1/2 |rho W H - (Y - 1/C)|_F^2 + lw/2 rho^2 over |W|_F = |H|_F = 1 and rho: two normalised layers, the norm rho decayed.

    rho* = sqrt(N) (C-1)/(1 + lw (C-1)), logits (Y - 1/C)/(1 + lw (C-1)), minimum (1/2) (C-1)^2 N lw/(1 + lw (C-1)); W and H then
    form a simplex ETF. For any F = W H the best rho is <Y - 1/C, F>/(lw + |F|^2), the paper's equilibrium norm
    sum y f/(lam + sum f^2) for the targets of this problem.
    """

    facts: ClassVar[Facts] = Facts(
        name="poggio-liao",
        paper="Poggio & Liao 2020 (with Banburski), arXiv 2101.00072",
        loss="squared error, centred targets",
        constraint="|W|_F = |H|_F = 1, norm rho with weight decay",
        theory="equilibrium norm rho = <Y,F>/(lam + |F|^2); simplex ETF, rho = sqrt(N)(C-1)/(1 + lam(C-1))",
        domain="P >= C - 1, lw > 0",
        needs="only the norm rho is decayed (lambda_w)",
    )
    solvers = MANIFOLD_SOLVERS
    lambda_w: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        need_positive(lambda_w=self.lambda_w)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """W, H and rho over its unit."""
        return (*super().shapes, (1, 1))

    @property
    def unit(self) -> float:
        """|Y - 1/C|_F: the norm rho is this times the third variable of a point."""
        return float(np.sqrt(self.N * (self.C - 1)))

    @property
    def feasible(self) -> Feasible:
        """Two Frobenius spheres and a line."""
        return (Spheres(), Spheres(), Flat())

    def check_domain(self) -> None:
        """P >= C - 1."""
        need_etf(self.C, self.P)

    def objective(self, device: str = "cpu") -> Objective:
        """The squared error to the centred targets with the penalty on rho."""
        loss = SquaredError(one_hot(self.layout, device) - 1 / self.C, column_weights(self.layout, 1.0, device))
        return Normalized(Peeled(loss), self.lambda_w, self.unit)

    def classifier_and_features(self, point: Point) -> tuple[Tensor, Tensor]:
        """W and H with a positive norm: (W, rho) and (-W, -rho) are one function, and a solve may end at either."""
        W, H, r = point
        return W * torch.sign(r), H

    def predicted(self) -> Quantities:
        """Minimum, equilibrium norm (solved for, by the published formula), least and largest right and wrong logit, collapse."""
        shrink = 1 / (1 + self.lambda_w * (self.C - 1))
        rho = float(np.sqrt(self.N) * (self.C - 1) * shrink)
        return {
            "minimum": 0.5 * (self.C - 1) ** 2 * self.N * self.lambda_w * shrink,
            "norm": rho,
            "published_norm": rho,
            "logits": [shrink * (1 - 1 / self.C)] * 2 + [-shrink / self.C] * 2,
            **{"NC1": 0.0, "NC2": 0.0, "NC3": 0.0},
        }

    def measured(self, solved: Solved) -> Quantities:
        """The same at the solution."""
        W, H = self.classifier_and_features(solved.point)
        rho = self.unit * solved.point[2].abs()
        F = W @ H
        Y = one_hot(self.layout, str(F.device)) - 1 / self.C
        return {
            "minimum": self.value(solved.point),
            "norm": float(rho),
            "published_norm": float((Y * F).sum() / (self.lambda_w + (F * F).sum())),
            "logits": simplex.logit_range(rho * F, self.layout),
            **self.collapse(solved.point),
        }


def critical_residual(model: PoggioLiao, point: Point) -> float:
    """|sum_n (Y - rho F)_n (dF_n/dV_k - V_k F_n)|, the paper's condition on critical points over both layers: 0 at one."""
    W, H, r = point
    F, rho = W @ H, model.unit * r
    R = one_hot(model.layout, str(F.device)) - 1 / model.C - rho * F
    balance = (R * F).sum()
    return float(torch.stack([(R @ H.mT - balance * W).norm(), (W.mT @ R - balance * H).norm()]).norm())
