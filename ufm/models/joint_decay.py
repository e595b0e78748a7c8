"""Classifier and features together under weight decay: the joint gradient flow of the squared error, in closed form."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ufm.arrays import as_numpy
from ufm.laws.joint_decay import JointDecayLaw, balanced_start
from ufm.models.base import Facts, Framed, Quantities, Solved, need_not_negative, need_positive
from ufm.models.integrated import Integrated
from ufm.models.objective.losses import one_hot
from ufm.models.objective.peeled import Point, gaussian_point
from ufm.models.sizes import AnySizes
from ufm.models.solvers.gradient_flow import integral_curve

SETTLED = 8.0  # end of the run in 1 / sqrt(n_k) of the smallest class, on the clock of the summed loss
FOREVER = 1e9  # on the same clock
DEFECTS = ("law_logits", "law_classifier_gram", "law_feature_gram", "law_loss", "balance")
EVERY = 8  # times between two at which all singular values are compared


@dataclass(frozen=True, kw_only=True)
class JointDecay(Framed, AnySizes, Integrated):
    """Gradient flow of 1/(2n) |W H - Y|_F^2 + wd/2 (|W|^2 + |H|^2) in W and H from a balanced start of entries of size `scale`.

    Law (e), `ufm.laws.joint_decay`, with time t/n and decay n wd, for any class sizes and any P. It ends where `mse-bias-free`
    with lw = lh = wd has its minimum: class k keeps (1 - n wd/sqrt n_k)_+ of its logit. From a start that is not balanced
    W^T W - H H^T is multiplied by exp(-2 wd t).
    """

    facts: ClassVar[Facts] = Facts(
        name="joint-decay",
        paper="Fukumizu 1998; Braun, Domine, Fitzgerald & Saxe 2022; with weight decay derived here",
        loss="squared error, no bias",
        constraint="weight decay on W and H: gradient flow of both",
        theory="Q Q^T(t) in closed form, Q = [W; H^T]; towards (1 - n wd/sqrt(n_k))_+ of every logit",
        domain="any P, wd >= 0, scale > 0; unequal classes too",
        needs="one decay (weight_decay) covers W and H, and there is no bias",
    )
    weight_decay: float = 0.02
    scale: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        need_positive(scale=self.scale)
        need_not_negative(weight_decay=self.weight_decay)

    @property
    def times(self) -> np.ndarray:
        """From the start until the smallest class has settled."""
        return np.linspace(0, SETTLED * self.layout.n / float(np.sqrt(min(self.layout.sizes))), 41)

    def check_domain(self) -> None:
        """Every parameter is covered."""

    def start(self, seed: int, device: str = "cpu") -> Point:
        """Gaussian entries, H given the singular values of W so that W^T W = H H^T, and det W H > 0 with one example a class.

        With n = C <= P half of the balanced starts, those of det W H < 0, have an x with W^T x = -H x, which never grows.
        """
        W, H = balanced_start(*(as_numpy(t) for t in super().start(seed)))
        if self.layout.n == self.C <= self.P and np.linalg.det(W @ H) < 0:
            H[:, 0] *= -1
        return tuple(torch.from_numpy(self.scale * x).to(device) for x in (W, H))

    def velocity(self, point: Point) -> Point:
        """Minus the gradient, written out."""
        W, H = point
        R, wd = (W @ H - one_hot(self.layout, str(W.device))) / self.layout.n, self.weight_decay
        return -(R @ H.mT + wd * W), -(W.mT @ R + wd * H)

    def value(self, point: Point) -> float:
        """The loss with its decay."""
        W, H = point
        R = W @ H - one_hot(self.layout, str(W.device))
        return float((R * R).sum() / (2 * self.layout.n) + self.weight_decay / 2 * ((W * W).sum() + (H * H).sum()))

    def law(self, start: Point) -> JointDecayLaw:
        """The closed form from a start, on the clock t/n."""
        W, H = (as_numpy(t) for t in start)
        return JointDecayLaw(as_numpy(one_hot(self.layout)), self.layout.n * self.weight_decay, W, H)

    def solve(self, seed: int, device: str = "cpu") -> Solved:
        """Integrate the flow from the balanced start, and from one that is not."""
        solved = super().solve(seed, device)
        W, H = gaussian_point(self.shapes, seed + 1, self.scale, device)
        W_t, H_t = integral_curve(self.velocity, (W, H), self.times[[0, -1]])[-1]
        left = (W_t.mT @ W_t - H_t @ H_t.mT) - float(np.exp(-2 * self.weight_decay * self.times[-1])) * (W.mT @ W - H @ H.mT)
        return Solved(solved.point, solved.path, solved.times, solved.clock, {"balance_rate": float(left.abs().max())}, seed)

    def predicted(self) -> Quantities:
        """What no start changes: the law's defects, and the logits that every class keeps for ever, as `mse-bias-free`."""
        limit = np.maximum(1 - self.layout.n * self.weight_decay / np.sqrt(self.layout.sizes), 0).tolist()
        defects = dict.fromkeys((*DEFECTS, "balance_rate"), 0.0)
        return {**({"limit_logits": limit} if self.P >= self.C else {}), **defects}

    def measured(self, solved: Solved) -> Quantities:
        """Largest differences from the law at six times, balance lost, rate of balancing, limit."""
        law, n = self.law(solved.path[0]), self.layout.n
        worst = np.zeros(5)
        for t, point in zip(solved.times[::EVERY], solved.path[::EVERY], strict=True):
            (W, H), (A, B) = (as_numpy(x) for x in point), law.state(t / n)
            pairs = ((W @ H, A @ B), (W @ W.T, A @ A.T), (H.T @ H, B.T @ B))
            defects = [np.abs(x - y).max() for x, y in pairs]
            defects += [abs(self.value(point) - law.loss(t / n) / n), np.abs(W.T @ W - H @ H.T).max()]
            worst = np.maximum(worst, defects)
        end = self.law(solved.point).logits(FOREVER)[range(self.C), np.cumsum([0, *self.layout.sizes[:-1]])]
        limit = {"limit_logits": end.tolist()} if self.P >= self.C else {}
        return {**limit, **dict(zip(DEFECTS, worst.tolist(), strict=True)), **solved.extra}
