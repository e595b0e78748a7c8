"""Seleznova et al. 2023 (arXiv 2305.16427): squared-error dynamics of features moved through a block-structured kernel."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ufm.arrays import as_numpy
from ufm.laws.joint_decay import JointDecayLaw, balanced_start
from ufm.models.base import Facts, Quantities, Solved, need_etf, need_positive
from ufm.models.integrated import Integrated
from ufm.models.objective.losses import one_hot
from ufm.models.objective.peeled import Point, gaussian_point
from ufm.models.solvers.gradient_flow import integral_curve

SETTLED_LOGITS = 12.0  # end of the run in 1 / sqrt(mu_class N)
LOGITS_EVERY = 5  # times between two at which the logits are compared


@dataclass(frozen=True, kw_only=True)
class BlockKernel(Integrated):
    """W' = -R H^T, b' = -R 1, H' = -W^T R Theta, R = W H + b 1^T - Y, with a kernel of three values.

    Theta is `kernel_diagonal` for an example with itself, `kernel_class` within a class, `kernel_other` between classes:
    eigenvalues mu_single = diagonal - class, mu_class = mu_single + N (class - other), and mu_class + n other along 1.
    W^T W - H Theta^{-1} H^T is conserved from every start. From collapsed centred features M (1^T W = 0, b = 1/C, W^T W =
    (N/mu_class) M M^T) they stay collapsed and (W, A) with A = sqrt(N/mu_class) M follow law (e) without decay on the clock
    mu_class t, towards targets sqrt(N/mu_class) (I - 11^T/C): Theta only sets the clock and the ratio of |M| to |W|.
    """

    facts: ClassVar[Facts] = Facts(
        name="block-kernel",
        paper="Seleznova, Weitzner, Giryes, Kutyniok & Chou 2023, arXiv 2305.16427",
        loss="squared error, free bias (sum over examples)",
        constraint="none: features move through a block kernel of three values",
        theory="W^T W - H Theta^{-1} H^T conserved; collapsed features follow a closed law in the time mu_class t",
        domain="P >= C - 1; diagonal > class > other >= 0; scale > 0",
        needs="its law has equal classes and no penalty",
    )
    kernel_diagonal: float = 1.5
    kernel_class: float = 1.0
    kernel_other: float = 0.2
    scale: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        need_positive(scale=self.scale, kernel_diagonal=self.kernel_diagonal, kernel_class=self.kernel_class)
        values = (self.kernel_diagonal, self.kernel_class, self.kernel_other)
        if not values[0] > values[1] > values[2] >= 0:
            raise ValueError(f"kernel values diagonal, class, other = {values}: they must descend, and the last not be negative")

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """W, H and b."""
        return (*super().shapes, (self.C, 1))

    @property
    def single_rate(self) -> float:
        """mu_single, the eigenvalue of Theta on deviations within classes."""
        return self.kernel_diagonal - self.kernel_class

    @property
    def class_rate(self) -> float:
        """mu_class, the eigenvalue of Theta on centred class means."""
        return self.single_rate + self.N * (self.kernel_class - self.kernel_other)

    @property
    def times(self) -> np.ndarray:
        """From the start until the class means have settled."""
        return np.linspace(0, SETTLED_LOGITS / float(np.sqrt(self.class_rate * self.N)), 41)

    def check_domain(self) -> None:
        """P >= C - 1."""
        need_etf(self.C, self.P)

    def through_kernel(self, A: Tensor) -> Tensor:
        """A Theta by class means, without an n x n matrix. (k, n) -> (k, n)"""
        means, between = self.layout.means(A), self.kernel_class - self.kernel_other
        return self.single_rate * A + self.N * (
            between * self.layout.spread(means) + self.kernel_other * means.sum(1, keepdim=True)
        )

    def velocity(self, point: Point) -> Point:
        """W', H', b'."""
        W, H, b = point
        R = W @ H + b - one_hot(self.layout, str(W.device))
        return -R @ H.mT, -W.mT @ self.through_kernel(R), -R.sum(1, keepdim=True)

    def value(self, point: Point) -> float:
        """The summed squared error."""
        W, H, b = point
        R = W @ H + b - one_hot(self.layout, str(W.device))
        return float((R * R).sum() / 2)

    def start(self, seed: int, device: str = "cpu") -> Point:
        """A random collapsed point with centred means and W, b = 1/C, W^T W = (N/mu_class) M M^T."""
        W, A = (as_numpy(t) for t in gaussian_point(((self.C, self.P), (self.P, self.C)), seed, self.scale))
        frame = np.linalg.svd(np.eye(self.C) - 1 / self.C)[0][:, : self.C - 1]  # of the complement of 1
        V, B = balanced_start(frame.T @ W, A @ frame)
        M = torch.from_numpy(float(np.sqrt(self.class_rate / self.N)) * B @ frame.T)
        point = torch.from_numpy(frame @ V), self.layout.spread(M), torch.full((self.C, 1), 1 / self.C, dtype=torch.float64)
        return tuple(t.to(device) for t in point)

    def law(self, start: Point) -> JointDecayLaw:
        """Law (e) of (W, A) without decay, in the time mu_class t."""
        ratio = float(np.sqrt(self.N / self.class_rate))
        W, M = as_numpy(start[0]), as_numpy(self.layout.means(start[1]))
        return JointDecayLaw(ratio * (np.eye(self.C) - 1 / self.C), 0.0, W, ratio * M)

    def invariant(self, point: Point) -> Tensor:
        """W^T W - H Theta^{-1} H^T. (P, P)"""
        W, H = point[:2]
        M = self.layout.means(H)
        D, G = H - self.layout.spread(M), M.mean(1, keepdim=True)
        along = self.class_rate + self.layout.n * self.kernel_other
        between = (M - G) @ (M - G).mT * (self.N / self.class_rate)
        return W.mT @ W - D @ D.mT / self.single_rate - between - G @ G.mT * (self.layout.n / along)

    def solve(self, seed: int, device: str = "cpu") -> Solved:
        """Integrate from the collapsed start, and from a random one for what is conserved."""
        solved = super().solve(seed, device)
        start = gaussian_point(self.shapes, seed + 1, self.scale, device)
        end = integral_curve(self.velocity, start, self.times[[0, -1]])[-1]
        drift = float((self.invariant(end) - self.invariant(start)).abs().max())
        return Solved(solved.point, solved.path, solved.times, solved.clock, {"invariant_drift": drift}, seed)

    def predicted(self) -> Quantities:
        """What no start changes: distances from the law, what is conserved, collapse that stays, the bias."""
        return dict.fromkeys(("law_logits", "law_loss", "within_share", "bias_moved", "invariant_drift"), 0.0)

    def measured(self, solved: Solved) -> Quantities:
        """Largest differences of the integrated state from the law at nine times, and the rest."""
        law, shrink = self.law(solved.path[0]), float(np.sqrt(self.class_rate / self.N))
        worst = np.zeros(4)
        for t, point in zip(solved.times[::LOGITS_EVERY], solved.path[::LOGITS_EVERY], strict=True):
            logits = shrink * law.logits(self.class_rate * float(t))
            M = self.layout.means(point[1])
            loss = self.N / 2 * float(((logits - np.eye(self.C) + 1 / self.C) ** 2).sum())
            within = float((point[1] - self.layout.spread(M)).norm() / point[1].norm())
            moved = float((point[2] - 1 / self.C).abs().max())
            defects = [np.abs(as_numpy(point[0] @ M) - logits).max(), abs(self.value(point) - loss), within, moved]
            worst = np.maximum(worst, defects)
        names = ("law_logits", "law_loss", "within_share", "bias_moved")
        return {**dict(zip(names, worst.tolist(), strict=True)), **solved.extra}
