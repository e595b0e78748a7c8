"""Thrampoulidis, Kini, Vakilian & Behnia 2022 (arXiv 2208.05512): the simplex-encoded-labels interpolation of unequal classes."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ufm.arrays import as_numpy
from ufm.models import simplex
from ufm.models.base import Facts, Quantities, Solved, need_etf
from ufm.models.objective.peeled import Point
from ufm.models.sizes import AnySizes
from ufm.models.solvers.margin import smallest_norm


@dataclass(frozen=True, kw_only=True)
class Seli(AnySizes):
    """min 1/2 |W|^2 + 1/2 |H|^2 with every margin <w_y - w_j, h_i> >= 1: the direction of weight decay -> 0 under cross-entropy.

    The logits are Zhat = Y - 11^T/C = V S U^T for any class sizes, W W^T = V S V^T, H^T H = U S U^T, minimum sum S. Certificate:
    V U^T is a subgradient of the nuclear norm and, with columns that sum to 0 and entries of other classes <= 0, a positive
    combination of active margins. It always is: Zhat Zhat^T = P D P with P = I - 11^T/C and D = diag(n_c), whose pseudo-inverse
    D^{-1} - D^{-1} 11^T D^{-1} / tr D^{-1} is the Laplacian of a complete graph of weights 1/(n_c n_c' tr D^{-1}); its
    root has negative entries off the diagonal too, and its columns are those of V U^T.
    """

    facts: ClassVar[Facts] = Facts(
        name="seli",
        paper="Thrampoulidis, Kini, Vakilian & Behnia 2022, arXiv 2208.05512",
        loss="cross-entropy, weight decay -> 0 (largest margin)",
        constraint="least |W|^2 + |H|^2 with margins of at least 1",
        theory="logits Y - 11^T/C = V S U^T for any sizes, W W^T = V S V^T, H^T H = U S U^T; V U^T <= 0 off the labels",
        domain="P >= C - 1; unequal classes too",
        needs="it is a limit without penalties",
    )

    def check_domain(self) -> None:
        """P >= C - 1."""
        need_etf(self.C, self.P)

    @property
    def encoding(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """V (C, C-1), S (C-1,) and U (n, C-1) of Y - 11^T/C."""
        Zhat = np.repeat(np.eye(self.C) - 1 / self.C, self.layout.sizes, axis=1)
        V, S, Ut = np.linalg.svd(Zhat, full_matrices=False)
        return V[:, : self.C - 1], S[: self.C - 1], Ut[: self.C - 1].T

    @property
    def certificate(self) -> float:
        """The largest entry of V U^T off the labels: negative, so that Zhat is the only minimiser of the nuclear norm."""
        V, _, U = self.encoding
        others = np.arange(self.C)[:, None] != np.asarray(self.layout.labels)
        return float((V @ U.T)[others].max())

    def value(self, point: Point) -> float:
        """1/2 |W|^2 + 1/2 |H|^2, whatever the margins are."""
        return float(sum((t * t).sum() for t in point) / 2)

    def start(self, seed: int, device: str = "cpu") -> Point:
        """Random, one feature a class, on the side of its row: from the other one, the constraints may lead to zero."""
        W, H = super().start(seed, device)
        M = self.layout.means(H)
        return W, self.layout.spread(M * torch.sign(((W - W.mean(0)) * M.mT).sum(1)))

    def solve(self, seed: int, device: str = "cpu") -> Solved:
        """Sequential quadratic programming in W and one feature a class, weighted by the sizes, from a random start."""
        start = self.start(seed, device)
        sizes, M = np.asarray(self.layout.sizes, dtype=np.float64), as_numpy(self.layout.means(start[1]))
        W, M = smallest_norm(as_numpy(start[0]), M, sizes)
        end = (torch.from_numpy(W).to(device), self.layout.spread(torch.from_numpy(M)).to(device))
        return Solved(end, (start, end), np.arange(2.0), "start, end", seed=seed)

    def predicted(self) -> Quantities:
        """Minimum, logits of one example a class and both Gram matrices (by rows), and NC1."""
        V, S, U = self.encoding
        one = U[np.cumsum([0, *self.layout.sizes[:-1]])]
        return {
            "minimum": float(S.sum()),
            "logits": (np.eye(self.C) - 1 / self.C).ravel().tolist(),
            "classifier_gram": ((V * S) @ V.T).ravel().tolist(),
            "feature_gram": ((one * S) @ one.T).ravel().tolist(),
            "NC1": 0.0,
        }

    def measured(self, solved: Solved) -> Quantities:
        """The same at the solution."""
        W, H = solved.point
        M = self.layout.means(H)
        return {
            "minimum": self.value(solved.point),
            "logits": (W @ M).ravel().tolist(),
            "classifier_gram": (W @ W.mT).ravel().tolist(),
            "feature_gram": (M.mT @ M).ravel().tolist(),
            "NC1": simplex.within_share(H, self.layout),
        }

    def target(self, like: Tensor) -> Tensor:
        """The class means' Gram matrix, U S U^T of one example a class. (C, C)"""
        _, S, U = self.encoding
        one = U[np.cumsum([0, *self.layout.sizes[:-1]])]
        return torch.as_tensor((one * S) @ one.T, device=like.device)
