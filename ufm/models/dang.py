"""Dang et al. 2023 (arXiv 2301.00437): deep linear heads on free features, squared error, equal or unequal classes."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ufm.models import simplex
from ufm.models.base import Facts, Framed, Quantities, Solved, need_frame
from ufm.models.deep_head import START_NOISE, START_SIZE, DeepHead, semi_orthogonal, squared_norms
from ufm.models.objective.peeled import Peeled, Point, gaussian_point
from ufm.models.sizes import AnySizes
from ufm.models.solvers.flat import FLAT_SOLVERS
from ufm.models.squared import Squared


@dataclass(frozen=True, kw_only=True)
class DeepLinear(DeepHead, Framed, AnySizes, Squared):
    """min 1/(2n) |W_M ... W_1 H - Y|_F^2 + lw/2 sum_i |W_i|^2 + lh/2 |H|^2, all layers P wide.

    Class k keeps its own direction. With x = s^2 / (n lh)^{1/M}, s the singular value that all W_i share there, it contributes
    (n_k/2n) min over x >= 0 of 1/(1+x^M) + (b/n_k) x, b = M n (n lw^M lh)^{1/M}: so x = 0, or the larger root of
    b/n_k = M x^{M-1}/(x^M+1)^2. The logits of class k are x^M/(1+x^M). M = 1 is the bias-free model of two factors.
    """

    facts: ClassVar[Facts] = Facts(
        name="deep-linear",
        paper="Dang, Tran, Osher, Tran-The, Ho & Nguyen 2023, arXiv 2301.00437",
        loss="squared error, no bias, M linear layers",
        constraint="weight decay on W_1..W_M and H",
        theory="an orthogonal frame; class k keeps x_k^M/(1+x_k^M) of its logit, b/n_k = M x^{M-1}/(x^M+1)^2",
        domain="P >= C, lw, lh > 0, M >= 1; unequal classes too",
        needs="there is no bias",
    )
    solvers = FLAT_SOLVERS

    def starts(self, seed: int, device: str = "cpu") -> list[Point]:
        """A random one and, from two layers on, where losing any classes is a local minimum, one for each set it can lose.

        A class of more examples has the lower price, so that no minimum loses it and keeps a smaller one.
        """
        if self.layers == 1:
            return [self.start(seed, device)]
        sizes = np.asarray(self.layout.sizes)
        kept = [START_SIZE * (sizes >= least) for least in (*np.unique(sizes), self.layout.n + 1)]
        return [self.start(seed, device), *(self.along_classes(s, seed + 1 + k, device) for k, s in enumerate(kept))]

    def along_classes(self, sizes: np.ndarray, seed: int, device: str) -> Point:
        """Factors with singular value s_k along a random direction of class k, and entries of START_NOISE everywhere. s (C,)"""
        balance = float(np.sqrt(self.lambda_w / self.lambda_h))
        s = torch.as_tensor(sizes, device=device)
        noise = gaussian_point(self.shapes, seed, START_NOISE, device)
        frames = [torch.linalg.qr(t)[0] for t in gaussian_point(((self.P, self.C),) * self.layers, seed + 1, device=device)]
        heads = [torch.eye(self.C, dtype=s.dtype, device=device), *frames[:-1]]
        layers = [(head * s) @ tail.mT for head, tail in zip(heads, frames, strict=True)]
        features = self.layout.spread(frames[-1] * s * balance / torch.as_tensor(self.layout.sizes, device=device) ** 0.5)
        return tuple(t + e for t, e in zip((*layers, features), noise, strict=True))

    def start(self, seed: int, device: str = "cpu") -> Point:
        """Random semi-orthogonal factors: with small singular values among large ones, classes would be lost at once."""
        sizes = (*[START_SIZE] * self.layers, START_SIZE * float(np.sqrt(self.lambda_w / self.lambda_h)))
        return semi_orthogonal(super().start(seed, device), sizes)

    def check_domain(self) -> None:
        """P >= C."""
        need_frame(self.C, self.P)

    @property
    def cost(self) -> np.ndarray:
        """b / n_k: the price of x for class k. (C,)"""
        M, n = self.layers, self.layout.n
        logs = np.log(n) + M * np.log(self.lambda_w) + np.log(self.lambda_h)  # lw^M underflows
        return M * n * np.exp(logs / M) / np.asarray(self.layout.sizes)

    @property
    def roots(self) -> np.ndarray:
        """x_k, the minimiser of 1/(1+x^M) + (b/n_k) x over x >= 0. (C,)"""
        return np.array([scalar_minimiser(self.layers, float(price)) for price in self.cost])

    def predicted(self) -> Quantities:
        """Minimum, logits of the classes, squared norms of H and of every W_i."""
        M, n, x = self.layers, self.layout.n, self.roots
        sizes, kept = np.asarray(self.layout.sizes), x**M / (1 + x**M)
        level = (n * self.lambda_h) ** (1 / M)
        return {
            "minimum": float((sizes / (2 * n) * (1 / (1 + x**M) + self.cost * x)).sum()),
            "logits": kept.tolist(),
            "logits_spread": 0.0,
            "logits_off_diagonal": 0.0,
            "W_squared_norms": [float((level * x).sum())] * M,
            "H_squared_norm": float((self.lambda_w / self.lambda_h * level * x).sum()),
            **({"NC1": 0.0, "NC2": 0.0, "NC3": 0.0} if self.layout.balanced and x.min() > 0 else {}),
        }

    def measured(self, solved: Solved) -> Quantities:
        """The same at the solution."""
        W, H = self.classifier_and_features(solved.point)
        shape = self.collapse(solved.point) if self.layout.balanced and self.roots.min() > 0 else {}
        return {
            "minimum": self.value(solved.point),
            **simplex.diagonal_logits(W @ H, self.layout),
            **squared_norms(solved.point),
            **shape,
        }

    def objective(self, device: str = "cpu") -> Peeled:
        """The penalised squared error of the product of all factors."""
        return Peeled(super().objective(device).loss, self.penalties)


def scalar_minimiser(M: int, price: float) -> float:
    """argmin over x >= 0 of 1/(1+x^M) + price x: zero, or the larger root of price = M x^{M-1}/(x^M+1)^2, whichever is lower."""
    from scipy.optimize import brentq

    peak = ((M - 1) / (M + 1)) ** (1 / M)  # where M x^{M-1}/(x^M+1)^2 is largest; the larger root lies beyond

    def slope(x: float) -> float:
        return M * x ** (M - 1) / (x**M + 1) ** 2 - price

    if slope(peak) <= 0:
        return 0.0
    high = max(peak, (M / price) ** (1 / (M + 1))) + 1
    root = float(brentq(slope, peak, high, xtol=1e-15, rtol=1e-15, full_output=False))  # type: ignore[arg-type]
    return root if 1 / (1 + root**M) + price * root < 1 else 0.0
