"""Zhou et al. 2022 (arXiv 2203.01238): the penalised squared error with weight decay on the bias too."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ufm.arrays import as_numpy
from ufm.models import simplex
from ufm.models.base import Facts, Quantities, Solved, need_frame, need_positive
from ufm.models.solvers.flat import FLAT_SOLVERS
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
        return {"minimum": minimum, "singular_values": [across] * (C - 1) + [along], "coupling": 0.0, "bias": [b] * C, **shape}

    def measured(self, solved: Solved) -> Quantities:
        """The same at the solution; the last singular value is the one along 1, `coupling` what mixes 1 with the rest."""
        W, H, b = solved.point
        Z = W @ self.layout.means(H)
        along = float(Z.sum() / self.C)
        rows, columns = Z.mean(0) - Z.mean(), Z.mean(1) - Z.mean()
        across = Z - Z.mean() - rows - columns[:, None]
        values = np.linalg.svd(as_numpy(across), compute_uv=False)[: self.C - 1]
        shape = self.collapse(solved.point) if self.values[0] > 0 else {}
        return {
            "minimum": self.value(solved.point),
            "singular_values": [*values.tolist(), along],
            "coupling": float(torch.hypot(rows.norm(), columns.norm()) * self.C**0.5),
            "bias": b[:, 0].tolist(),
            **shape,
        }

    def target(self, like: Tensor) -> Tensor:
        """The Gram matrix of the class means up to size: (1-c)(I - 11^T/C) + s 11^T/C, the ETF's where both are 0. (C, C)"""
        across, along = self.values
        centred = simplex.centred_identity(self.C, like)
        if across == 0:
            return centred
        return across * centred + along * (simplex.identity(self.C, like) - centred)
