"""Zhou et al. 2022 (arXiv 2210.02192): label smoothing and focal loss under weight decay on W, H and b, by one bound.

Both losses are at least phi(g_i), g_i the right logit minus the mean of the wrong ones, with equality where the wrong ones are
equal (Jensen), and the penalties at least tau mean_i g_i, tau = (C-1) sqrt(N lw lh), with equality at a simplex ETF of equal gaps
(the nuclear norm of the logits against I - 11^T/C, which has operator norm 1). So the minimum is min_g phi(g) + tau g wherever
that is at some g > 0, though the focal loss is not convex; and W = H = 0 where phi has at 0 a supporting line of slope at least
-tau.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ufm.models.base import Facts, need_etf, need_not_negative
from ufm.models.objective.losses import CrossEntropy, Focal, Loss, SmoothedCrossEntropy
from ufm.models.zhu import Zhu

FARTHEST_GAP = 60.0  # logit gaps up to which the focal loss is looked at, and beyond while a larger one may be the lowest
GAP_STEP = 0.005  # between two gaps that are looked at; the lowest is then refined


@dataclass(frozen=True, kw_only=True)
class LabelSmoothing(Zhu):
    """min (1/CN) sum CE((1-delta) y + delta/C, W h + b) + lw/2 |W|^2 + lh/2 |H|^2 + lb/2 |b|^2.

    With q = (C-1) sqrt(N lw lh) + delta (C-1)/C: a simplex ETF with all logit gaps g = log((C-1)(1-q)/q) while
    C sqrt(N lw lh) + delta < 1, minimum log(1 + (C-1) exp(-g)) + q g; W = H = 0 from there on. delta = 0 is `zhu`.
    """

    facts: ClassVar[Facts] = Facts(
        name="label-smoothing",
        paper="Zhou, You, Li, Liu, Liu, Qu & Zhu 2022, arXiv 2210.02192",
        loss="cross-entropy, smoothed labels",
        constraint="weight decay on W, H and b",
        theory="simplex ETF of logit gap log((C-1)(1-q)/q), q = (C-1)(sqrt(N lw lh) + delta/C), for C sqrt(N lw lh) + delta < 1",
        domain="P >= C - 1, lw, lh > 0, lb >= 0, 0 <= delta < 1",
        needs="its theorem has equal classes",
    )
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing = {self.smoothing}: must be at least 0 and below 1")

    def loss(self, device: str) -> Loss:
        """The mean cross-entropy to smoothed labels."""
        hard = super().loss(device)
        return SmoothedCrossEntropy(hard, self.smoothing) if isinstance(hard, CrossEntropy) else hard

    @property
    def gap(self) -> float:
        """log((C-1)(1-q)/q), 0 from the threshold on."""
        q = self.price + self.smoothing * (self.C - 1) / self.C
        return float(np.log((self.C - 1) * (1 - q) / q)) if self.threshold + self.smoothing < 1 else 0.0

    def loss_at(self, gap: float) -> float:
        """log(1 + (C-1) exp(-g)) + delta (C-1)/C g."""
        return super().loss_at(gap) + self.smoothing * (self.C - 1) / self.C * gap

    @property
    def curvature_at_zero(self) -> tuple[float, float]:
        """The slope at zero shrinks by 1 - delta, the curvature is that of cross-entropy."""
        return 1 - self.smoothing, 1 / self.C


@dataclass(frozen=True, kw_only=True)
class FocalLoss(Zhu):
    """min (1/CN) sum (1 - p_i)^gamma (-log p_i) + lw/2 |W|^2 + lh/2 |H|^2 + lb/2 |b|^2, p = softmax(W h + b) of the label.

    A simplex ETF whose logit gap minimises phi(g) + tau g, phi(g) = u^gamma L, L = log(1 + (C-1) exp(-g)), u = 1 - exp(-L),
    tau = (C-1) sqrt(N lw lh). gamma = 0 is `zhu`.
    """

    facts: ClassVar[Facts] = Facts(
        name="focal",
        paper="Zhou, You, Li, Liu, Liu, Qu & Zhu 2022, arXiv 2210.02192",
        loss="focal loss",
        constraint="weight decay on W, H and b",
        theory="simplex ETF whose logit gap minimises u^gamma L + (C-1) sqrt(N lw lh) g; convexity is not needed",
        domain="P >= C - 1, lw, lh > 0, lb >= 0, gamma >= 0; a positive gap, or a supporting line at zero",
        needs="its theorem has equal classes",
    )
    gamma: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        need_not_negative(gamma=self.gamma)

    def loss(self, device: str) -> Loss:
        """The mean focal loss."""
        hard = super().loss(device)
        return Focal(hard, self.gamma) if isinstance(hard, CrossEntropy) else hard

    def loss_at(self, gap: float) -> float:
        """phi(g)."""
        return float(self.phi(np.array([gap]))[0])

    def phi(self, gaps: np.ndarray) -> np.ndarray:
        """u^gamma L of logit gaps. (k,)"""
        L = np.logaddexp(0.0, np.log(self.C - 1) - gaps)
        return (-np.expm1(-L)) ** self.gamma * L

    @property
    def slope_at_zero(self) -> float:
        """phi'(0)."""
        L = np.log(self.C)
        u = 1 - 1 / self.C
        return -u * (u**self.gamma + self.gamma * u ** (self.gamma - 1) / self.C * L)

    @property
    def gaps(self) -> np.ndarray:
        """Logit gaps, the lowest among them: -phi' is at most (C-1)(1+gamma) exp(-g), so that no larger one is a minimum."""
        last = max(FARTHEST_GAP, float(np.log(self.C - 1) + np.log1p(self.gamma) - np.log(self.price)) + 1)
        return GAP_STEP * np.arange(-round(FARTHEST_GAP / GAP_STEP), round(last / GAP_STEP) + 1)

    @property
    def gap(self) -> float:
        """argmin phi(g) + tau g over all g where it is positive, 0 where W = H = 0 is the minimum."""
        from scipy.optimize import minimize_scalar

        if not self.price < 1:
            return 0.0  # phi(g) + tau g is then unbounded below as g falls, and bounds nothing
        gaps = self.gaps
        k = int((self.phi(gaps) + self.price * gaps).argmin())
        if gaps[k] <= 0:
            return 0.0
        around = (gaps[k] - 2 * GAP_STEP, gaps[k] + 2 * GAP_STEP)
        g = float(minimize_scalar(self._cost, bounds=around, method="bounded").x)
        return float(self._newton(g))

    def _cost(self, g: float) -> float:
        return self.loss_at(g) + self.price * g

    def _newton(self, g: float) -> float:
        """The root of phi'(g) + tau near g, to round-off."""
        for _ in range(6):
            u = (self.C - 1) * np.exp(-g) / (1 + (self.C - 1) * np.exp(-g))
            _, first, second = (float(f[0]) for f in self._slopes(np.array([-np.log1p(-u)])))
            g -= (self.price - u * first) / (u * u * second + u * (1 - u) * first)
        return g

    def _slopes(self, L: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return Focal(CrossEntropy(L, L), self.gamma).slopes(L)

    def check_domain(self) -> None:
        """P >= C - 1, and the bound is attained."""
        need_etf(self.C, self.P)
        gaps, zero = self.gaps, self.loss_at(0.0)
        support = self.phi(gaps) - zero - self.slope_at_zero * gaps
        if self.gap == 0 and not (self.price >= -self.slope_at_zero and support.min() > -1e-12 * zero):
            raise ValueError(
                f"gamma = {self.gamma} with C sqrt(N lw lh) = {self.threshold:.3g}: neither a positive gap nor zero attains "
                "the bound; use weaker penalties, or a smaller gamma"
            )

    @property
    def curvature_at_zero(self) -> tuple[float, float]:
        """f'(log C) of the slope, and (f' + f'')(log C)/C of the curvature of b."""
        _, first, second = (float(f[0]) for f in self._slopes(np.log([float(self.C)])))
        return first, (first + second) / self.C
