"""The layer-peeled model with two groups of classes, solved by symmetry: four numbers instead of a matrix.

With class-mean logits Z (K, K) the model is: minimise sum_k pi_k CE(Z e_k) over |Z|_* <= T = K sqrt(E_W E_H): convex. Averaging
over permutations inside each group and over shifts along 1 leaves Z = s_A P_A + s_B P_B + u v^T: P_A, P_B the projections on
differences of majority and of minority classes, u the unit contrast of the groups, v = (p 1_A/sqrt K_A, -q 1_B/sqrt K_B), and
|Z|_* = (K_A-1) s_A + (K_B-1) s_B + sqrt(p^2 + q^2). Minorities are collapsed iff s_B = 0, iff pi_B <= mu, mu the multiplier
(the largest singular value of the gradient) of the problem with s_B = 0: at s_B = 0 the gradient along P_B is pi_B exactly.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from manifolds.linalg import ArrayT, array_like
from ufm.arrays import as_numpy
from ufm.models.objective.feasible import Flat
from ufm.models.objective.peeled import Point
from ufm.models.solvers.projected_gradient import spectral_projected_gradient

LARGEST_RATIO = 1e9  # of class sizes, for which a threshold is looked


@dataclass(frozen=True)
class Spectrum(Flat):
    """{(s_A, s_B, p, q) : (K_A-1)|s_A| + (K_B-1)|s_B| + |(p, q)| <= T}, in coordinates where Z -> (s_A, ...) is an isometry.

    `tied` keeps s_B = 0. The coordinates are (sqrt(K_A-1) s_A, sqrt(K_B-1) s_B, p, q).
    """

    K_A: int
    K_B: int
    budget: float
    tied: bool = False

    @property
    def weights(self) -> np.ndarray:
        """Price of a unit of s_A, of s_B and of |(p, q)| in these coordinates. (3,)"""
        return np.sqrt(np.array([self.K_A - 1, self.K_B - 1, 1], dtype=np.float64))

    def onto(self, x: ArrayT) -> ArrayT:
        """The nearest point: all three sizes lowered by one multiple of their prices, not below 0."""
        y = as_numpy(x)
        radius = np.hypot(y[2], y[3])
        sizes, weights = np.array([abs(y[0]), abs(y[1]), radius]), self.weights
        sizes[[self.K_A == 1, self.K_B == 1 or self.tied, False]] = 0.0
        kept = sizes if sizes @ weights <= self.budget else lowered(sizes, weights, self.budget)
        scale = kept[2] / radius if radius > 0 else 0.0
        return array_like(np.array([np.sign(y[0]) * kept[0], np.sign(y[1]) * kept[1], scale * y[2], scale * y[3]]), x)


def lowered(sizes: np.ndarray, weights: np.ndarray, budget: float) -> np.ndarray:
    """max(sizes - nu weights, 0) with the nu > 0 that spends the budget exactly: the projection on a weighted simplex."""
    order = np.argsort(-sizes / np.where(weights > 0, weights, 1))
    used = order[weights[order] > 0]
    spent, price = np.cumsum(sizes[used] * weights[used]), np.cumsum(weights[used] ** 2)
    return np.maximum(sizes - max((spent - budget) / price) * weights, 0)


@dataclass(frozen=True)
class Reduced:
    """The loss sum_k pi_k CE(Z e_k) as a function of the four coordinates, with pi_A and pi_B the priors of one class."""

    K_A: int
    K_B: int
    pi_A: float
    pi_B: float

    def group(self, K: int, other: int, s: float, v: float) -> tuple[float, float, float]:
        """CE of one class of a group of K, against `other` classes, and its derivatives in s and in its part v of (p, q)."""
        contrast = np.sqrt((K + other) / (K * other)) / np.sqrt(K)
        margins = np.array([-s, -contrast * v - s * (1 - 1 / K)])
        top = max(0.0, margins.max())
        terms = np.array([K - 1, other]) * np.exp(margins - top)
        total = terms.sum()
        share = terms / (total + np.exp(-top))  # of the wrong classes alone: they may be exponentially small
        value = float(top + np.log1p(total + np.expm1(-top)))
        return value, float(-share[0] - share[1] * (1 - 1 / K)), float(-share[1] * contrast)

    def derivatives(self, x: Tensor) -> tuple[float, np.ndarray]:
        """f and its gradient in (s_A, s_B, p, q). (4,)"""
        y_A, y_B, p, q = x.tolist()
        a, da, dp = self.group(self.K_A, self.K_B, y_A / np.sqrt(max(self.K_A - 1, 1)), p)
        b, db, dq = self.group(self.K_B, self.K_A, y_B / np.sqrt(max(self.K_B - 1, 1)), q)
        A, B = self.pi_A * self.K_A, self.pi_B * self.K_B
        return A * a + B * b, np.array([A * da, B * db, A * dp, B * dq])

    def value_and_gradient(self, point: Point) -> tuple[Tensor, Point]:
        """f and its gradient in the isometric coordinates."""
        value, slope = self.derivatives(point[0])
        slope[:2] /= np.sqrt(np.maximum([self.K_A - 1, self.K_B - 1], 1))
        return torch.tensor(value, dtype=torch.float64), (torch.from_numpy(slope),)


@dataclass(frozen=True)
class ReducedOptimum:
    """The optimum of the reduced problem: its value, s_A, s_B, (p, q) and the multiplier mu of the nuclear norm."""

    value: float
    s_A: float
    s_B: float
    p: float
    q: float
    multiplier: float

    def minority_cosine(self, K_A: int, K_B: int) -> float | None:
        """The cosine between two minority classifiers, None where they vanish; 1 at minority collapse."""
        between = float(np.hypot(self.p, self.q)) * K_A / (K_B * (K_A + K_B))
        if between + self.s_B == 0:
            return None
        return float((between - self.s_B / K_B) / (between + self.s_B * (1 - 1 / K_B)))


def optimum(K_A: int, K_B: int, ratio: float, budget: float, tied: bool = False) -> ReducedOptimum:
    """The exact optimum for n_A/n_B = ratio and T = budget; `tied` holds the minorities together."""
    total = K_A * ratio + K_B
    reduced = Reduced(K_A, K_B, ratio / total, 1 / total)
    spectrum = Spectrum(K_A, K_B, budget, tied)
    start = spectrum.onto(torch.ones(4, dtype=torch.float64) * budget)
    (x,) = spectral_projected_gradient(reduced, (spectrum,), (start,))
    value, slope = reduced.derivatives(x)
    sizes = [abs(slope[0]) / max(K_A - 1, 1), 0.0 if tied else abs(slope[1]) / max(K_B - 1, 1), np.hypot(slope[2], slope[3])]
    y_A, y_B, p, q = x.tolist()
    return ReducedOptimum(value, y_A / np.sqrt(max(K_A - 1, 1)), y_B / np.sqrt(max(K_B - 1, 1)), p, q, float(max(sizes)))


def collapse_ratio(K: int, K_A: int, energy_h: float, energy_w: float) -> float:
    """R0, the ratio n_A/n_B from which minorities are collapsed exactly: pi_B = mu with minorities tied.

    Infinite where no ratio up to LARGEST_RATIO does it. Raises ValueError without a majority class or two minority classes.
    """
    from scipy.optimize import brentq

    if not 1 <= K_A <= K - 2:
        raise ValueError(f"K_A = {K_A} of K = {K}: minority collapse needs a majority class and two minority classes")
    budget = K * np.sqrt(energy_h * energy_w)

    def excess(log_ratio: float) -> float:
        ratio = float(np.exp(log_ratio))
        return optimum(K_A, K - K_A, ratio, budget, tied=True).multiplier * (K_A * ratio + K - K_A) - 1

    high = 1.0
    while excess(high) < 0:
        high *= 1.5
        if high > np.log(LARGEST_RATIO):
            return float("inf")
    return float(np.exp(brentq(excess, 0.0, high, xtol=1e-13, rtol=1e-13)))


def dense_logits(best: ReducedOptimum, K_A: int, K_B: int) -> np.ndarray:
    """Z of an optimum, written out. (K, K)"""
    K = K_A + K_B
    A, B = np.r_[np.ones(K_A), np.zeros(K_B)], np.r_[np.zeros(K_A), np.ones(K_B)]
    P_A, P_B = np.diag(A) - np.outer(A, A) / K_A, np.diag(B) - np.outer(B, B) / K_B
    u = np.sqrt(K_B / (K_A * K)) * A - np.sqrt(K_A / (K_B * K)) * B
    return best.s_A * P_A + best.s_B * P_B + np.outer(u, best.p * A / np.sqrt(K_A) - best.q * B / np.sqrt(K_B))
