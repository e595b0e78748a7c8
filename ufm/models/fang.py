"""Fang, He, Long & Su 2021 (arXiv 2101.12699): the layer-peeled model with energy bounds, and minority collapse."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from torch import Tensor

from manifolds.class_centering import ClassLayout
from ufm.models import simplex
from ufm.models.base import Facts, Quantities, Solved, need_etf, need_positive
from ufm.models.fang_relaxation import semidefinite_relaxation
from ufm.models.fang_theory import ReducedOptimum, collapse_ratio, optimum
from ufm.models.minimised import Minimised
from ufm.models.objective.feasible import Feasible, Spheres
from ufm.models.objective.losses import CrossEntropy, column_weights, one_hot
from ufm.models.objective.peeled import Peeled, Point
from ufm.models.sizes import TwoGroups
from ufm.models.solvers.contract import Solver
from ufm.models.solvers.manifold import MANIFOLD_SOLVERS

COLLAPSED = 1e-10  # squared distance of minority classifiers, against 2 E_W for orthogonal ones, that counts as zero
BRACKET = 1e-4  # relative width to which solves bracket R0


@dataclass(frozen=True, kw_only=True)
class Fang(TwoGroups, Minimised):
    """min sum_k pi_k Ave_i CE(W h_ki), (1/K) sum_k |w_k|^2 <= E_W, (1/K) sum_k Ave_i |h_ki|^2 <= E_H, pi_k = n_k/n.

    The first `majority` classes have n_A = imbalance * n_B examples, any ratio >= 1: N columns stand for every class and carry
    its prior, which changes nothing at the optimum, where the columns of a class agree. Both bounds are active, so the problem
    lives on a product of two spheres: W = sqrt(K E_W) W', H = sqrt(K N E_H) H' with |W'|_F = |H'|_F = 1.
    Balanced: simplex ETF, h = sqrt(E_H/E_W) w, minimum log(1 + (K-1) exp(-sqrt(E_H E_W) K/(K-1))). Unequal: `fang_theory`.
    """

    facts: ClassVar[Facts] = Facts(
        name="fang",
        paper="Fang, He, Long & Su 2021, arXiv 2101.12699",
        loss="cross-entropy, equal or unequal classes",
        constraint="mean |w|^2 <= E_W, mean |h|^2 <= E_H (two spheres)",
        theory="balanced: simplex ETF; from the ratio R0 on all minority classifiers are equal (minority collapse)",
        domain="P >= C - 1, energies > 0, imbalance >= 1",
        needs="its energies replace weight decay and it has no bias",
    )
    solvers: ClassVar[Mapping[str, Solver]] = {**MANIFOLD_SOLVERS, "sdp": semidefinite_relaxation}
    energy_h: float = 5.0
    energy_w: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        need_positive(energy_h=self.energy_h, energy_w=self.energy_w)

    def check_sizes(self) -> None:
        """Any ratio: it enters through the priors."""

    @property
    def layout(self) -> ClassLayout:
        """N columns stand for every class."""
        return ClassLayout.equal(self.C, self.N)

    @property
    def priors(self) -> np.ndarray:
        """pi_k = n_k / n. (C,)"""
        sizes = np.r_[np.full(self.majority, self.imbalance), np.ones(self.C - self.majority)]
        return sizes / sizes.sum()

    @property
    def budget(self) -> float:
        """T = K sqrt(E_W E_H), the bound on the nuclear norm of the class-mean logits."""
        return self.C * float(np.sqrt(self.energy_h * self.energy_w))

    @property
    def balanced(self) -> bool:
        """Whether all classes have one size."""
        return self.imbalance == 1 or self.majority == 0

    @property
    def feasible(self) -> Feasible:
        """Two Frobenius spheres."""
        return (Spheres(), Spheres())

    def check_domain(self) -> None:
        """P >= C - 1."""
        need_etf(self.C, self.P)

    def objective(self, device: str = "cpu") -> Peeled:
        """The prior-weighted cross-entropy on the two spheres."""
        loss = CrossEntropy(one_hot(self.layout, device), column_weights(self.layout, self.priors / self.N, device))
        return Peeled(loss, gain=self.budget * float(np.sqrt(self.N)))

    def classifier_and_features(self, point: Point) -> tuple[Tensor, Tensor]:
        """W and H at their energies."""
        W, H = point
        return W * float(np.sqrt(self.C * self.energy_w)), H * float(np.sqrt(self.C * self.N * self.energy_h))

    def exact(self) -> ReducedOptimum:
        """The optimum for unequal classes, by symmetry."""
        return optimum(self.majority, self.C - self.majority, self.imbalance, self.budget)

    def predicted(self) -> Quantities:
        """Minimum; balanced: collapse and norms; unequal: squared distances inside each group, minority cosine, R0 if finite."""
        norm = float(np.sqrt(self.energy_h / self.energy_w))
        if self.balanced:
            minimum = simplex.simplex_bound(self.C, self.budget / (self.C - 1))
            return {"minimum": minimum, "norm_ratio": norm, "NC1": 0.0, "NC2": 0.0, "NC3": 0.0}
        best, K_A, K_B = self.exact(), self.majority, self.C - self.majority
        result: Quantities = {"minimum": best.value, "NC1": 0.0}
        if K_A > 1:
            result["majority_squared_distance"] = float(2 * best.s_A / norm)
        if K_B > 1:
            result["minority_squared_distance"] = float(2 * best.s_B / norm)
            cosine, R0 = best.minority_cosine(K_A, K_B), collapse_ratio(self.C, K_A, self.energy_h, self.energy_w)
            if cosine is not None:
                result["minority_cosine"] = [cosine, cosine]
            if np.isfinite(R0):
                result["R0"] = [R0, R0]
        return result

    def measured(self, solved: Solved) -> Quantities:
        """The same at the solution; the cosine as smallest and largest, R0 as a bracket of real solves, one column a class."""
        W, H = self.classifier_and_features(solved.point)
        if self.balanced:
            ratio = float(self.layout.means(H).norm() / W.norm())
            return {"minimum": self.value(solved.point), "norm_ratio": ratio, **self.collapse(solved.point)}
        result: Quantities = {"minimum": self.value(solved.point), "NC1": simplex.within_share(H, self.layout)}
        if self.majority > 1:
            result["majority_squared_distance"] = mean_squared_distance(W[: self.majority])
        if self.C - self.majority > 1:
            result["minority_squared_distance"] = mean_squared_distance(W[self.majority :])
            predicted = self.predicted()
            if "minority_cosine" in predicted:
                result["minority_cosine"] = simplex.extreme_cosines(W[self.majority :])
            if "R0" in predicted:
                result["R0"] = self.measured_collapse_ratio(solved.seed, str(W.device))
        return result

    def measured_collapse_ratio(self, seed: int, device: str) -> list[float]:
        """Two ratios BRACKET apart: a solve has different minority classifiers at the first and equal ones at the second."""

        def collapsed(ratio: float) -> bool:
            model = replace(self, imbalance=ratio, N=1, optimizer="pymanopt")
            W = model.classifier_and_features(model.solve(seed, device).point)[0]
            return mean_squared_distance(W[self.majority :]) < COLLAPSED * self.energy_w

        low, high = 1.0, 2.0
        while not collapsed(high):
            low, high = high, 2 * high
        while high / low > 1 + BRACKET:
            middle = float(np.sqrt(low * high))
            low, high = (low, middle) if collapsed(middle) else (middle, high)
        return [low, high]


def mean_squared_distance(A: Tensor) -> float:
    """Mean of |a_k - a_k'|^2 over pairs of rows."""
    return float(2 * len(A) / (len(A) - 1) * ((A - A.mean(0)) ** 2).sum(1).mean())


def penalised_minorities_collapse(n_B: int, n: int, lambda_w: float, lambda_h: float) -> bool:
    """Whether weight decay instead of energies collapses minorities of n_B out of n examples: sqrt(n_B) <= n sqrt(lw lh).

    For min (1/n) sum CE(W h) + lw/2 |W|^2 + lh/2 |H|^2: the rule does not know the number of classes.
    """
    return bool(np.sqrt(n_B) <= n * np.sqrt(lambda_w * lambda_h))
