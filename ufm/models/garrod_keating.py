"""Garrod & Keating 2024 (arXiv 2410.23169): deep linear heads on free features under cross-entropy, and their low-rank minima.

With L = M + 1 factors the penalties of given logits W_M ... W_1 H = Z are at least (L/2) (lw^M lh)^{1/L} sum_j sigma_j(Z)^{2/L}
(Horn's inequalities for the singular values of a product, then the mean inequality), with equality for aligned, balanced factors.
Averaging columns within classes and removing the mean of the rows multiply Z by projections: singular values fall, and the mean
cross-entropy does not rise. So Z = Zbar (x) 1_N^T, and the minimum is that of

    (1/C) sum_c CE(Zbar e_c, c) + (L/2) (N lw^M lh)^{1/L} sum_j sigma_j(Zbar)^{2/L}

over C x C matrices of rank at most min(C - 1, P): a Schatten quasi-norm, convex only for L = 2. For L > 2 few large singular
values are cheaper than many equal ones, and deep neural collapse (the simplex, rank C - 1) is in general not the minimum. Logits
of rank one leave C - 2 classes without the largest logit of their column, a loss of at least log 2 each: they are out below
(C-2)/C log 2. For C = 2 they are all: with Zbar = (a, -b; -a, b) the loss is convex and falling in a^2 and b^2, so that a = b.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch

from manifolds.representation import short_repr
from ufm.models.base import Facts, Quantities, Solved, need_etf, need_positive
from ufm.models.deep_head import START_NOISE, START_SIZE, DeepHead, semi_orthogonal, squared_norms
from ufm.models.minimised import Minimised
from ufm.models.objective.losses import CrossEntropy, column_weights, one_hot
from ufm.models.objective.peeled import Peeled, Point, gaussian_point
from ufm.models.solvers.contract import Solver
from ufm.models.solvers.flat import FLAT_SOLVERS

LOG_SIZES = np.linspace(np.log(1e-3), np.log(1e6), 2001)  # where the minimum over sizes is looked for before it is refined
CLOSEST = 1e-9  # values of two structures closer than this leave open which of them a solve ends at


@dataclass(frozen=True, eq=False, repr=False)
class Structure:
    """Logits s Pi of the class means, Pi (C, C) a projection of rank r with diagonal r/C and equal rows up to order."""

    name: str
    projection: np.ndarray  # (C, C)
    rank: int
    __repr__ = short_repr

    def value(self, s: np.ndarray, price: float, p: float) -> np.ndarray:
        """log sum_j exp(s (Pi_j1 - r/C)) + price r s^p. (k,) -> (k,)"""
        column = self.projection[:, 0] - self.projection[0, 0]
        return np.log(np.exp(np.multiply.outer(s, column)).sum(-1)) + price * self.rank * s**p

    def slope(self, log_s: float, price: float, p: float) -> float:
        """The derivative of `value` in log s."""
        s, column = np.exp(log_s), self.projection[:, 0] - self.projection[0, 0]
        weights = np.exp(s * column)
        return float(s * (weights @ column) / weights.sum() + price * p * self.rank * s**p)

    def best_size(self, price: float, p: float) -> float:
        """The s > 0 of the lowest local minimum, 0 where `value` has none."""
        from scipy.optimize import brentq

        slopes = np.array([self.slope(x, price, p) for x in LOG_SIZES])
        (turns,) = np.nonzero((slopes[:-1] < 0) & (slopes[1:] >= 0))
        if not len(turns):
            return 0.0
        ends = [(LOG_SIZES[k], LOG_SIZES[k + 1]) for k in turns]
        roots = [brentq(self.slope, *pair, args=(price, p), xtol=1e-15, rtol=1e-15) for pair in ends]
        return min(np.exp(roots).tolist(), key=lambda s: float(self.value(np.array(s), price, p)))


def structures(C: int) -> list[Structure]:
    """Equal simplices on orthogonal spaces, one of C classes (deep collapse) to C/2 of two, and the regular polygon."""
    sizes = [m for m in range(C, 1, -1) if C % m == 0]
    blocks = [np.kron(np.eye(C // m), np.eye(m) - 1 / m) for m in sizes]
    names = ["simplex" if m == C else f"{C // m} orthogonal simplices of {m}" for m in sizes]
    result = [Structure(name, B, C - C // m) for name, B, m in zip(names, blocks, sizes, strict=True)]
    if C > 4:  # the square is two orthogonal pairs
        angles = 2 * np.pi * np.arange(C) / C
        result.append(Structure("polygon", 2 / C * np.cos(angles[:, None] - angles), 2))
    return result


@dataclass(frozen=True, kw_only=True)
class DeepCrossEntropy(DeepHead, Minimised):
    """min (1/CN) sum CE(W_M ... W_1 h) + lw/2 sum_i |W_i|^2 + lh/2 |H|^2, all layers P wide.

    The lowest of zero and the `structures`, each at its best size. This is proved for M = 1 (`zhu` without a bias) and C = 2. For
    C = 3, 4 and 6, and for C = 5 from M = 3 on, searches over matrices of all ranks went no lower while the decay is weak
    enough to tell all classes apart; elsewhere some do.
    """

    facts: ClassVar[Facts] = Facts(
        name="deep-ce",
        paper="Garrod & Keating 2024, arXiv 2410.23169",
        loss="cross-entropy, no bias, M linear layers",
        constraint="weight decay on W_1..W_M and H",
        theory="decay is a Schatten 2/(M+1) quasi-norm of the logits: simplex, orthogonal simplices or polygon, the lowest",
        domain="P >= C - 1, lw, lh > 0; M = 1, or C = 2, or C = 3, 4, 6 (5 for M >= 3) and a minimum below (C-2)/C log 2",
        needs="there is no bias, and the structures have equal classes",
    )
    solvers: ClassVar[Mapping[str, Solver]] = FLAT_SOLVERS
    layers: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        need_positive(lambda_w=self.lambda_w, lambda_h=self.lambda_h)

    @property
    def power(self) -> float:
        """p = 2/L, L = M + 1 factors."""
        return 2 / (self.layers + 1)

    @property
    def price(self) -> float:
        """(L/2) (N lw^M lh)^{1/L}."""
        logs = np.log(self.N) + self.layers * np.log(self.lambda_w) + np.log(self.lambda_h)  # lw^M underflows
        return float(np.exp(self.power / 2 * logs)) / self.power

    @cached_property
    def candidates(self) -> list[tuple[float, float, Structure]]:
        """Value, size s and structure of every local minimum, lowest first; M = 1 has the simplex only."""
        known = structures(self.C)[: 1 if self.layers == 1 else None]
        sized = [(structure.best_size(self.price, self.power), structure) for structure in known]
        rows = [(float(x.value(np.array(s), self.price, self.power)), s, x) for s, x in sized if s > 0]
        return sorted(rows, key=lambda row: row[0])

    @property
    def lowest(self) -> tuple[float, float, Structure | None]:
        """Value, size and structure of the minimum, log C, 0 and None where everything is zero there."""
        zero = float(np.log(self.C))
        return self.candidates[0] if self.candidates and self.candidates[0][0] < zero else (zero, 0.0, None)

    def check_domain(self) -> None:
        """P >= C - 1, numbers of classes whose minimum is known, decay too weak for rank one, and no tie."""
        need_etf(self.C, self.P)
        bound = (self.C - 2) / self.C * np.log(2)
        least = {2: 1, 3: 1, 4: 1, 6: 1, 5: 3}.get(self.C)
        if self.layers > 1 and (least is None or self.layers < least):
            raise ValueError(
                f"C = {self.C} with layers = {self.layers}: the lowest structure is not known there; use C = 2, 3, 4 or 6, "
                "C = 5 with at least 3 layers, or one layer"
            )
        if self.layers > 1 and self.C > 2 and not self.lowest[0] < bound:
            raise ValueError(
                f"the lowest structure has the value {self.lowest[0]:.4g}, not below (C-2)/C log 2 = {bound:.4g}: logits of rank "
                "one, which lose classes, may lie below; use a weaker weight decay"
            )
        values = sorted([float(np.log(self.C)), *(row[0] for row in self.candidates)])
        if len(values) > 1 and values[1] - values[0] < CLOSEST:
            raise ValueError(f"two structures differ by {values[1] - values[0]:.1e} in value: change the weight decay a little")

    def starts(self, seed: int, device: str = "cpu") -> list[Point]:
        """A random one, a small one, and one along every structure with a local minimum, with noise everywhere."""
        along = [self.along(x, 1.2 * s, seed + 1 + k, device) for k, (_, s, x) in enumerate(self.candidates)]
        return [self.start(seed, device), gaussian_point(self.shapes, seed, START_NOISE, device), *along]

    def start(self, seed: int, device: str = "cpu") -> Point:
        """Random semi-orthogonal factors: with small singular values among large ones, directions would be lost at once."""
        size = max((s for _, s, _ in self.candidates), default=START_SIZE)
        return semi_orthogonal(super().start(seed, device), self.factor_sizes(size))

    def factor_sizes(self, s: float) -> tuple[float, ...]:
        """The singular value of every factor whose product has sqrt(N) s: lw w^2 = lh h^2."""
        w, h = (np.sqrt(self.share(s) / decay) for decay in (self.lambda_w, self.lambda_h))
        return (float(w),) * self.layers + (float(h),)

    def share(self, s: float) -> float:
        """lw w^2 = lh h^2 of factors w and h whose product is sqrt(N) s."""
        return float(self.price * self.power * s**self.power)

    def along(self, structure: Structure, s: float, seed: int, device: str) -> Point:
        """Factors through random frames whose product is s Pi on class means, and entries of START_NOISE everywhere."""
        r, sizes = structure.rank, self.factor_sizes(s)
        U = torch.as_tensor(np.linalg.eigh(structure.projection)[1][:, -r:].copy(), device=device)
        frames = [torch.linalg.qr(t)[0] for t in gaussian_point(((self.P, r),) * self.layers, seed, device=device)]
        layers = [w * head @ tail.mT for w, head, tail in zip(sizes, [U, *frames[:-1]], frames, strict=False)]
        features = self.layout.spread(sizes[-1] * frames[-1] @ U.mT / self.N**0.5)
        noise = gaussian_point(self.shapes, seed + 1, START_NOISE, device)
        return tuple(t + e for t, e in zip((*layers, features), noise, strict=True))

    def predicted(self) -> Quantities:
        """Minimum, singular values of the class means' logits, squared norms of every W_i and of H, collapse."""
        value, s, structure = self.lowest
        r, shape = (structure.rank, {"NC1": 0.0, "NC3": 0.0}) if structure else (0, {})
        return {
            "minimum": value,
            "singular_values": [s] * r + [0.0] * (self.C - r),
            "W_squared_norms": [r * self.share(s) / self.lambda_w] * self.layers,
            "H_squared_norm": r * self.share(s) / self.lambda_h,
            **shape,
        }

    def measured(self, solved: Solved) -> Quantities:
        """The same at the solution."""
        W, H = self.classifier_and_features(solved.point)
        shape = self.collapse(solved.point) if self.lowest[2] else {}
        return {
            "minimum": self.value(solved.point),
            "singular_values": torch.linalg.svdvals(W @ self.layout.means(H)).tolist(),
            **squared_norms(solved.point),
            **{name: shape[name] for name in ("NC1", "NC3") if name in shape},
        }

    def objective(self, device: str = "cpu") -> Peeled:
        """The mean cross-entropy of the product of all factors, with its penalties."""
        loss = CrossEntropy(one_hot(self.layout, device), column_weights(self.layout, 1 / self.layout.n, device))
        return Peeled(loss, self.penalties)
