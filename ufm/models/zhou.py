"""Zhou et al. 2022 (arXiv 2203.01238): the penalised squared error with weight decay on the bias too."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from ufm.models import simplex
from ufm.models.base import Facts, Quantities, Solved, need_frame, need_positive
from ufm.models.flat_solvers import FLAT_SOLVERS
from ufm.models.peeled import Point
from ufm.models.squared import Squared, thresholded


@dataclass(frozen=True, kw_only=True)
class DecayedBias(Squared):
    """min 1/(2n) |W H + b 1^T - Y|_F^2 + lw/2 |W|^2 + lh/2 |H|^2 + lb/2 |b|^2.

    With c = C sqrt(N lw lh), the singular values of W H are sqrt(N) (1-c)_+ on the C - 1 directions across 1 and sqrt(N) s along
    1, s = (1 - c - c/lb)_+; b = c/(lb C) where s > 0 and 1/(C (1+lb)) where s = 0. A simplex ETF up to lb* = c/(1-c) exactly,
    from there on towards the orthogonal frame.
    """

    facts: ClassVar[Facts] = Facts(
        name="mse-decayed-bias",
        paper="Zhou, Li, Ding, You, Qu & Zhu 2022, arXiv 2203.01238",
        loss="squared error, decayed bias",
        constraint="weight decay on W, H and b",
        theory="simplex ETF for lb <= c/(1-c), then s = 1 - c - c/lb along 1, towards the orthogonal frame",
        domain="P >= C, lw, lh, lb > 0",
        needs="the closed form has equal classes",
    )
    solvers = FLAT_SOLVERS
    lambda_b: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        need_positive(lambda_b=self.lambda_b)

    @property
    def bias_penalty(self) -> float:
        """lb."""
        return self.lambda_b

    @property
    def values(self) -> tuple[float, float]:
        """The singular values of W H over sqrt(N): across 1 and along 1."""
        c = float(self.shrinkage[0])
        return max(1 - c, 0.0), max(1 - c - c / self.lambda_b, 0.0)

    def check_domain(self) -> None:
        """P >= C."""
        need_frame(self.C, self.P)

    def predicted(self) -> Quantities:
        """Minimum, both singular values, bias, collapse to the frame between ETF and orthogonal that s gives."""
        c, C, lb = float(self.shrinkage[0]), self.C, self.lambda_b
        across, along = self.values
        if along > 0:
            last, b = (c * c / 2 + c * along + c * c / (2 * lb)) / C, c / (lb * C)
        else:
            last, b = lb / (2 * C * (1 + lb)), 1 / (C * (1 + lb))
        shape = {"NC1": 0.0, "NC2": 0.0, "NC3": 0.0} if across > 0 else {}
        minimum = (C - 1) / C * thresholded(c) + last
        return {"minimum": minimum, "singular_values": [across] * (C - 1) + [along], "bias": [b] * C, **shape}

    def measured(self, solved: Solved) -> Quantities:
        """The same at the point found; the last singular value is the one along 1."""
        W, H, b = solved.point
        Z = W @ self.layout.means(H)
        along = float(Z.sum() / self.C)
        across = Z - Z.mean(0) - Z.mean(1, keepdim=True) + Z.mean()
        values = np.linalg.svd(across.cpu().numpy(), compute_uv=False)[: self.C - 1]
        shape = self.collapse(solved.point) if self.values[0] > 0 else {}
        return {
            "minimum": self.value(solved.point),
            "singular_values": [*values.tolist(), along],
            "bias": b[:, 0].tolist(),
            **shape,
        }

    def target(self, like: Tensor) -> Tensor:
        """The Gram matrix of the class means up to size: (1-c)(I - 11^T/C) + s 11^T/C. (C, C)"""
        across, along = self.values
        centred = simplex.centred_identity(self.C, like)
        return across * centred + along * (simplex.identity(self.C, like) - centred)

    def collapse(self, point: Point) -> dict[str, float]:
        """Defects of NC1, NC2 (the predicted Gram matrix) and NC3."""
        W, H, _ = point
        return simplex.collapse(W, H, self.layout, self.target(H) if self.values[0] > 0 else None)
