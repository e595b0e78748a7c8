"""E & Wojtowytsch 2020 (arXiv 2012.05420): cross-entropy with a spectral-norm bound on W and features in the unit ball."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from manifolds.linalg import ArrayT, namespace
from ufm.models import simplex
from ufm.models.base import Facts, Quantities, Solved, need_etf
from ufm.models.minimised import Minimised
from ufm.models.objective.feasible import Feasible, Flat
from ufm.models.objective.losses import CrossEntropy, column_weights, one_hot
from ufm.models.objective.peeled import Peeled, Point
from ufm.models.solvers.contract import Solver
from ufm.models.solvers.projected_gradient import spectral_projected_gradient


@dataclass(frozen=True)
class SpectralBall(Flat):
    """{W : |W|_op <= 1}."""

    def onto(self, x: ArrayT) -> ArrayT:
        """The nearest point: singular values clipped at 1."""
        xp = namespace(x)
        U, s, Vt = xp.linalg.svd(x, full_matrices=False)
        return (U * xp.clip(s, max=1)) @ Vt


@dataclass(frozen=True)
class UnitBalls(Flat):
    """{H : every column has norm at most 1}."""

    def onto(self, x: ArrayT) -> ArrayT:
        """The nearest point: longer columns scaled back to 1."""
        xp = namespace(x)
        return x / xp.clip(xp.linalg.vector_norm(x, axis=0), min=1)


@dataclass(frozen=True, kw_only=True)
class EWojtowytsch(Minimised):
    """min (1/n) sum_i CE(W h_i) over |W|_op <= 1, |h_i| <= 1.

    Logits sqrt(C/(C-1)) (Y - 1/C), minimum log(1 + (C-1) exp(-sqrt(C/(C-1)))); H is a unit simplex ETF, W an isometry on its
    span. Off that span W is free below norm 1, so NC3 is measured on W restricted to span(H).
    """

    facts: ClassVar[Facts] = Facts(
        name="e-wojtowytsch",
        paper="E & Wojtowytsch 2020, arXiv 2012.05420",
        loss="cross-entropy",
        constraint="|W|_op <= 1, |h_i| <= 1",
        theory="H a unit simplex ETF, W an isometry on span(H), minimum log(1 + (C-1) exp(-sqrt(C/(C-1))))",
        domain="P >= C - 1",
        needs="both balls have radius 1 and the classes are equal",
    )
    solvers: ClassVar[Mapping[str, Solver]] = {"projected-gradient": spectral_projected_gradient}

    @property
    def feasible(self) -> Feasible:
        """The spectral ball and the balls of the features."""
        return (SpectralBall(), UnitBalls())

    def check_domain(self) -> None:
        """P >= C - 1."""
        need_etf(self.C, self.P)

    def start(self, seed: int, device: str = "cpu") -> Point:
        """Gaussian inside both balls."""
        return tuple(space.onto(t / (2 * self.P)) for space, t in zip(self.feasible, super().start(seed, device), strict=True))

    def objective(self, device: str = "cpu") -> Peeled:
        """The mean cross-entropy."""
        return Peeled(CrossEntropy(one_hot(self.layout, device), column_weights(self.layout, 1 / self.layout.n, device)))

    def predicted(self) -> Quantities:
        """Minimum, logit gap, cosine and norm of the features, C - 1 singular values of W on span(H), collapse."""
        gap = float(np.sqrt(self.C / (self.C - 1)))
        return {
            "minimum": simplex.simplex_bound(self.C, gap),
            "logit_gap": [gap, gap],
            "feature_cosine": [-1 / (self.C - 1)] * 2,
            "feature_norm": [1.0, 1.0],
            "singular_values": [1.0] * (self.C - 1),
            **{"NC1": 0.0, "NC2": 0.0, "NC3": 0.0},
        }

    def measured(self, solved: Solved) -> Quantities:
        """The same at the solution; pairs are the smallest and the largest value."""
        W, H = solved.point
        lengths = H.norm(dim=0)
        restricted, _ = self.classifier_and_features(solved.point)
        return {
            "minimum": self.value(solved.point),
            "logit_gap": simplex.logit_gap(W @ H, self.layout),
            "feature_cosine": simplex.extreme_cosines(self.layout.means(H).mT),
            "feature_norm": [float(lengths.min()), float(lengths.max())],
            "singular_values": torch.linalg.svdvals(restricted)[: self.C - 1].tolist(),
            **self.collapse(solved.point),
        }

    def classifier_and_features(self, point: Point) -> tuple[Tensor, Tensor]:
        """W restricted to the span of the class means (their C - 1 leading left singular vectors), and H."""
        W, H = point
        U = torch.linalg.svd(self.layout.means(H), full_matrices=False)[0][:, : self.C - 1]
        return W @ U @ U.mT, H
