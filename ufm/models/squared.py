"""What the squared-error models share: the penalised objective, and its minimum for any targets by one soft threshold."""

from dataclasses import dataclass

import numpy as np

from manifolds.class_centering import whole_number
from manifolds.representation import short_repr
from ufm.arrays import as_numpy, check_matrix
from ufm.models.base import need_positive
from ufm.models.minimised import Minimised
from ufm.models.objective.losses import SquaredError, column_weights, one_hot
from ufm.models.objective.peeled import Peeled


@dataclass(frozen=True, kw_only=True)
class Squared(Minimised):
    """min 1/(2n) |W H + b 1^T - Y|_F^2 + lw/2 |W|^2 + lh/2 |H|^2 (+ lb/2 |b|^2), n examples in all."""

    lambda_w: float = 1e-2
    lambda_h: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        need_positive(lambda_w=self.lambda_w, lambda_h=self.lambda_h)

    @property
    def bias_penalty(self) -> float | None:
        """None without a bias, 0 with a free one."""
        return None

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """W, H and, where there is one, b."""
        return super().shapes if self.bias_penalty is None else (*super().shapes, (self.C, 1))

    @property
    def shrinkage(self) -> np.ndarray:
        """n sqrt(lw lh / n_k), what every class loses of its singular value; at balance c = C sqrt(N lw lh). (C,)"""
        return self.layout.n * (np.sqrt(self.lambda_w) * np.sqrt(self.lambda_h) / np.sqrt(self.layout.sizes))  # lw lh underflows

    def objective(self, device: str = "cpu") -> Peeled:
        """The penalised squared error."""
        loss = SquaredError(one_hot(self.layout, device), column_weights(self.layout, 1 / self.layout.n, device))
        return Peeled(loss, (self.lambda_w, self.lambda_h), self.bias_penalty)

    @property
    def optimum(self) -> "Optimum":
        """The minimum for the labels; P does not limit it where the domain asks for enough features."""
        Y = as_numpy(one_hot(self.layout))
        return Optimum.of(Y, self.lambda_w, self.lambda_h, self.P, free_bias=self.bias_penalty == 0)


@dataclass(frozen=True, eq=False, repr=False)
class Optimum:
    """min over W (q, P), H (P, n) and b of 1/(2n) |W H + b 1^T - Y|_F^2 + lw/2 |W|^2 + lh/2 |H|^2 for any targets Y (q, n).

    For fixed logits Z = W H the penalty is at least sqrt(lw lh) |Z|_*, so Z = U (S - tau)_+ V^T with tau = n sqrt(lw lh) and
    Y - b 1^T = U S V^T, b the mean of the targets where it is free and 0 without one; with P below the number of singular values
    above tau the P largest are kept. W W^T = sqrt(lh/lw) U (S - tau)_+ U^T, H^T H = sqrt(lw/lh) V (S - tau)_+ V^T, and the
    minimum is (1/n) sum_j tau s_j - tau^2/2, with s_j^2/2 for what is lost.
    """

    minimum: float
    kept: np.ndarray  # (S - tau)_+, descending. (min(q, n),)
    U: np.ndarray  # (q, min(q, n))
    V: np.ndarray  # (n, min(q, n))
    ratio: float  # sqrt(lh/lw)
    bias: np.ndarray  # (q,)
    margin: float  # s_P - s_{P+1} where P cuts what would be kept, else infinite: 0 where the minimiser is not determined
    __repr__ = short_repr

    @classmethod
    def of(cls, Y: np.ndarray, lambda_w: float, lambda_h: float, P: int, free_bias: bool) -> "Optimum":
        """The minimum for targets Y (q, n). Raises ValueError for NaN, other shapes, decays that are not positive, and P < 1."""
        need_positive(lambda_w=lambda_w, lambda_h=lambda_h)
        if whole_number(P, "P") < 1:
            raise ValueError(f"P = {P}: needs at least one feature")
        given = as_numpy(Y)
        Y = given.astype(np.float64) if given.dtype.kind in "iub" else given  # labels and counts are targets too
        if Y.ndim != 2:
            raise ValueError(f"Y has shape {Y.shape}: targets (q, n) are needed")
        check_matrix(Y, "the targets")
        n = Y.shape[1]
        bias = Y.mean(1) if free_bias else np.zeros(len(Y))
        U, s, Vt = np.linalg.svd(Y - bias[:, None], full_matrices=False)
        tau = n * float(np.sqrt(lambda_w) * np.sqrt(lambda_h))  # lw lh underflows
        kept = np.maximum(s - tau, 0)
        margin = float(s[P - 1] - s[P]) if len(s) > P and kept[P] > 0 else np.inf
        kept[P:] = 0
        terms = np.where(kept > 0, tau, s) * (s + kept) / 2
        return cls(float(terms.sum()) / n, kept, U, Vt.T, float(np.sqrt(lambda_h / lambda_w)), bias, margin)

    @property
    def logits(self) -> np.ndarray:
        """W H. (q, n)"""
        return (self.U * self.kept) @ self.V.T

    @property
    def classifier_gram(self) -> np.ndarray:
        """W W^T. (q, q)"""
        return self.ratio * (self.U * self.kept) @ self.U.T

    @property
    def feature_gram(self) -> np.ndarray:
        """H^T H. (n, n)"""
        return (self.V * self.kept) @ self.V.T / self.ratio


def thresholded(c: float) -> float:
    """c - c^2/2 below c = 1, 1/2 from there on: min over s >= 0 of (1-s)^2/2 + c s."""
    return c - c * c / 2 if c < 1 else 0.5
