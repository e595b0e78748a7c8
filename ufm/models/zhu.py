"""Zhu et al. 2021 (arXiv 2105.02375): cross-entropy with weight decay on classifier, features and bias."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ufm.models import simplex
from ufm.models.base import Facts, Quantities, Solved, need_etf, need_not_negative, need_positive
from ufm.models.minimised import Minimised
from ufm.models.objective.losses import CrossEntropy, Loss, column_weights, one_hot
from ufm.models.objective.peeled import Peeled
from ufm.models.solvers.contract import Solver
from ufm.models.solvers.curvature import smallest_curvature
from ufm.models.solvers.flat import FLAT_SOLVERS


@dataclass(frozen=True, kw_only=True)
class Zhu(Minimised):
    """min (1/CN) sum CE(W h + b) + lw/2 |W|^2 + lh/2 |H|^2 + lb/2 |b|^2.

    With tau = (C-1) sqrt(N lw lh) and c = C sqrt(N lw lh): for c >= 1 the only minimiser is W = H = 0; for c < 1 all logit gaps
    are g = log((C-1)(1-tau)/tau), W W^T = (rho/(C-1)) (I - 11^T/C) with rho = |W|_F^2 = (C-1) sqrt(lh N/lw) g,
    H = sqrt(lw/(lh N)) (W (x) 1_N)^T, b = 0, and the minimum is -log(1-tau) + tau g. W = H = 0 is then a strict saddle.
    """

    facts: ClassVar[Facts] = Facts(
        name="zhu",
        paper="Zhu, Ding, Zhou, Li, You, Sulam & Qu 2021, arXiv 2105.02375",
        loss="cross-entropy",
        constraint="weight decay on W, H and b",
        theory="simplex ETF of size rho for c = C sqrt(N lw lh) < 1, zero for c >= 1; every other critical point a strict saddle",
        domain="P >= C - 1, lw, lh > 0, lb >= 0",
        needs="its theorem has equal classes (for unequal ones: fang)",
    )
    solvers: ClassVar[Mapping[str, Solver]] = FLAT_SOLVERS
    lambda_w: float = 5e-3
    lambda_h: float = 5e-3
    lambda_b: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        need_positive(lambda_w=self.lambda_w, lambda_h=self.lambda_h)
        need_not_negative(lambda_b=self.lambda_b)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """W, H and b."""
        return (*super().shapes, (self.C, 1))

    @property
    def threshold(self) -> float:
        """c = C sqrt(N lw lh): collapse to zero from 1 on."""
        return self.C * float(np.sqrt(self.N) * np.sqrt(self.lambda_w) * np.sqrt(self.lambda_h))  # lw lh underflows

    def check_domain(self) -> None:
        """P >= C - 1."""
        need_etf(self.C, self.P)

    def loss(self, device: str) -> Loss:
        """The mean cross-entropy of logits."""
        return CrossEntropy(one_hot(self.layout, device), column_weights(self.layout, 1 / self.layout.n, device))

    def objective(self, device: str = "cpu") -> Peeled:
        """The mean loss with its penalties."""
        return Peeled(self.loss(device), (self.lambda_w, self.lambda_h), self.lambda_b)

    @property
    def price(self) -> float:
        """tau = (C-1) sqrt(N lw lh): what a logit gap of 1 costs in penalties."""
        return self.threshold * (self.C - 1) / self.C

    @property
    def gap(self) -> float:
        """The logit gap of the minimisers, 0 where they are zero."""
        tau = self.price
        return float(np.log((self.C - 1) * (1 - tau) / tau)) if self.threshold < 1 else 0.0

    def loss_at(self, gap: float) -> float:
        """The loss of an example all of whose wrong logits lie `gap` below the right one."""
        return simplex.simplex_bound(self.C, gap)

    @property
    def curvature_at_zero(self) -> tuple[float, float]:
        """The slope of the loss at W = H = 0 over that of cross-entropy, and the curvature of b across 1 without its decay."""
        return 1.0, 1 / self.C

    def predicted(self) -> Quantities:
        """The minimum and what the minimisers share; sizes only where they are zero."""
        lw, lh, C, N = self.lambda_w, self.lambda_h, self.C, self.N
        slope, across = self.curvature_at_zero
        coupling = slope / (C * np.sqrt(N))  # the cross block of the Hessian at zero has this singular value, C - 1 times
        saddle = (lw + lh) / 2 - np.hypot((lw - lh) / 2, coupling)
        zero = {"hessian_at_zero": float(min(saddle, self.lambda_b + min(across, 0.0)))}  # the bias along 1 has curvature lb
        gap = self.gap
        if gap == 0:
            return {"minimum": self.loss_at(0.0), "W_squared_norm": 0.0, "H_squared_norm": 0.0, **zero}
        return {
            "minimum": self.loss_at(gap) + self.price * gap,
            "W_squared_norm": float((C - 1) * np.sqrt(lh * N / lw) * gap),
            "H_squared_norm": float((C - 1) * np.sqrt(lw * N / lh) * gap),
            **zero,
            "logit_gap": [gap, gap],
            "bias_spread": 0.0,
            **{"NC1": 0.0, "NC2": 0.0, "NC3": 0.0},
        }

    def measured(self, solved: Solved) -> Quantities:
        """The same at the solution; `logit_gap` is the smallest and the largest one."""
        W, H, b = solved.point
        common: Quantities = {
            "minimum": self.value(solved.point),
            "W_squared_norm": float(W.norm() ** 2),
            "H_squared_norm": float(H.norm() ** 2),
            "hessian_at_zero": smallest_curvature(self.objective(str(W.device)), (0 * W, 0 * H, 0 * b)),
        }
        if self.gap == 0:
            return common
        gap = simplex.logit_gap(W @ H + b, self.layout)
        return {**common, "logit_gap": gap, "bias_spread": float((b - b.mean()).norm()), **self.collapse(solved.point)}
