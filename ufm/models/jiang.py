"""Jiang et al. 2024 (arXiv 2310.05351): softmax codes, cross-entropy on spheres at low temperature with few features."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ufm.arrays import as_numpy
from ufm.features.margins import jiang_one_vs_rest_margin
from ufm.models.base import Facts, Quantities, Solved
from ufm.models.lu_steinerberger import LuSteinerberger
from ufm.models.objective.peeled import Point
from ufm.models.solvers.margin import largest_margin, margins


@dataclass(frozen=True, kw_only=True)
class SoftmaxCodes(LuSteinerberger):
    """max min_{c != j} <w_c - w_j, h_c> over |w_c| = |h_i| = 1: the limit of (1/n) sum_i CE(tau W h_i), tau -> infinity.

    For fixed W the best h_c points from the nearest point of the hull of the other rows to w_c: the value is the one-vs-rest
    margin, `ufm.features.margins`. Its largest value is C/(C-1) for C <= P + 1 (a simplex ETF), 1 - cos(2 pi/C) for P = 2 (a
    regular polygon) and 1 for P + 2 <= C <= 2P. The solve minimises the cross-entropy at `temperature` tau from several starts
    and finishes the best by sequential quadratic programming. Between 2P and infinity no closed value is known.
    """

    facts: ClassVar[Facts] = Facts(
        name="softmax-codes",
        paper="Jiang, Zhou, Wang, Qu, Mixon, You & Zhu 2024, arXiv 2310.05351",
        loss="cross-entropy, temperature tau -> infinity",
        constraint="|w_c| = |h_i| = 1 (product of spheres)",
        theory="largest one-vs-rest margin: C/(C-1) for C <= P+1, 1 - cos(2 pi/C) for P = 2, 1 for P+2 <= C <= 2P",
        domain="P >= 2; C <= 2P or P = 2; tau > 0",
        needs="the spheres fix every norm and the classes are equal",
    )
    P: int = 3
    temperature: float = 20.0

    @property
    def largest(self) -> float:
        """The largest one-vs-rest margin. Raises ValueError where it is not known in closed form."""
        C, P = self.C, self.P
        if C <= P + 1:
            return C / (C - 1)
        if P == 2:
            return 1 - float(np.cos(2 * np.pi / C))
        if C <= 2 * P:
            return 1.0
        raise ValueError(f"C = {C} > 2 P = {2 * P} with P > 2: no closed margin is known; use P >= {-(-C // 2)} or P = 2")

    def check_domain(self) -> None:
        """P >= 2 and a known margin."""
        if self.P < 2:
            raise ValueError("P = 1: the sphere of R^1 is two points, on which nothing can move; use P >= 2")
        _ = self.largest

    def starts(self, seed: int, device: str = "cpu") -> list[Point]:
        """Six: the cross-entropy has local minima below P = C - 1."""
        return [self.start(seed + 1_000_003 * k, device) for k in range(6)]

    def value(self, point: Point) -> float:
        """Minus the smallest margin over classes and examples."""
        W, H = (as_numpy(t) for t in point)
        first = np.arange(self.C) * self.N
        return -min(float(margins(W, H[:, first + k]).min()) for k in range(self.N))

    def solve(self, seed: int, device: str = "cpu") -> Solved:
        """The best of the cross-entropy's ends, with one feature a class, moved to the largest margin nearby."""
        solved = super().solve(seed, device)
        W, M = largest_margin(*(as_numpy(t) for t in (solved.point[0], self.layout.means(solved.point[1]))))
        W, M = W / np.linalg.norm(W, axis=1, keepdims=True), M / np.linalg.norm(M, axis=0)
        end = (torch.from_numpy(W).to(device), self.layout.spread(torch.from_numpy(M)).to(device))
        path = (*solved.path, end)
        return Solved(end, path, np.arange(len(path), dtype=np.float64), seed=seed)

    def predicted(self) -> Quantities:
        """Minus the largest margin as the minimum, the one-vs-rest margin of W, and no spread within classes."""
        return {"minimum": -self.largest, "one_vs_rest_margin": self.largest, "NC1": 0.0}

    def measured(self, solved: Solved) -> Quantities:
        """The same at the solution."""
        margin = jiang_one_vs_rest_margin(solved.point[0])
        return {"minimum": self.value(solved.point), "one_vs_rest_margin": margin, "NC1": self.collapse(solved.point)["NC1"]}
