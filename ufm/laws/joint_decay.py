"""Law (e): the gradient flow of classifier and features together with weight decay, in closed form, for any targets.

L = 1/2 ||W H - Y||_F^2 + lambda/2 (||W||^2 + ||H||^2), W (C, P), H (P, n), Y (C, n) of any kind, both at rate 1, from a balanced
start W^T W = H H^T, which the flow keeps (any other start tends to it: W^T W - H H^T is multiplied by exp(-2 lambda t), for every
loss). With Q = [W; H^T] and F = [[-lambda I, Y], [Y^T, -lambda I]],

    dQ/dt = F Q - Q Q^T Q / 2,
    Q Q^T(t) = e^{Ft} Q_0 (I_P + Q_0^T (int_0^t e^{2Fs} ds) Q_0)^{-1} Q_0^T e^{Ft}.

Everything that does not depend on the basis of feature space (logits, Gram matrices, norms, losses) follows from Q Q^T.
With singular values s_k of Y, F has the eigenvalues +-s_k - lambda and -lambda. Growth is factored out: in eigenvectors of F in
descending order of growth, with the triangular factor of Q_0, every number is exp of a difference of growths that is at most 0:
nothing overflows and no digit is lost however large t. With the mean over n examples: t / n for t and n lambda for lambda.
Method: Fukumizu 1998; Braun et al. 2022; Domine et al. 2024 (no decay there).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from manifolds.representation import short_repr
from ufm.arrays import as_numpy
from ufm.laws.domain import wide

EPS = float(np.finfo(np.float64).eps)
LATEST_TIME = 1e290  # nothing moves any more, and no product of it overflows
BALANCED = 1e-8  # largest ||W^T W - H H^T|| of a balanced start, relative to ||W^T W|| + ||H H^T||


@dataclass(frozen=True, eq=False, repr=False)
class JointDecayLaw:
    """The law for targets Y (C, n), weight decay lambda >= 0, and the start W (C, P), H (P, n).

    Raises ValueError for shapes that do not go together, entries that are not finite, a negative decay, and a start that is not
    balanced: `balanced_start` makes one.
    """

    Y: np.ndarray
    weight_decay: float
    W: np.ndarray
    H: np.ndarray
    __repr__ = short_repr

    def __post_init__(self) -> None:
        for name in ("Y", "W", "H"):
            object.__setattr__(self, name, np.array(as_numpy(wide(getattr(self, name)))))  # a copy: the law keeps its start
        if self.Y.ndim != 2 or self.W.ndim != 2:
            raise ValueError(f"Y {self.Y.shape}, W {self.W.shape}: matrices (C, n) and (C, P) are needed")
        (C, n), P = self.Y.shape, self.W.shape[-1]
        if self.W.shape != (C, P) or self.H.shape != (P, n):
            raise ValueError(f"Y {self.Y.shape}, W {self.W.shape}, H {self.H.shape}: Y (C, n) needs W (C, P) and H (P, n)")
        if not all(np.isfinite(x).all() for x in (self.Y, self.W, self.H)):
            raise ValueError("the targets or the start have NaN or infinite entries")
        if not 0 <= self.weight_decay < np.inf:
            raise ValueError(f"weight_decay = {self.weight_decay}: must be finite and not negative")
        left = balance_defect(self.W, self.H)
        if not left <= BALANCED:
            raise ValueError(
                f"||W^T W - H H^T|| is {left:.2e} of ||W^T W|| + ||H H^T||: the law needs a balanced start; "
                "take W, H = balanced_start(...), or integrate: the difference decays like exp(-2 weight_decay t)"
            )

    @cached_property
    def modes(self) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
        """Eigenvalues of F that the start meets, descending (m,), and the top and bottom rows of their vectors (C, m), (n, m)."""
        C, n = self.Y.shape
        U, s, Vt = np.linalg.svd(self.Y, full_matrices=False)
        s, left, right = _tied(s), _beyond(U, self.W), _beyond(Vt.T, self.H.T)
        half = np.sqrt(0.5)
        top = np.hstack([half * U, half * U, left, np.zeros((C, right.shape[1]))])
        bottom = np.hstack([half * Vt.T, -half * Vt.T, np.zeros((n, left.shape[1])), right])
        rates = np.concatenate([s, -s, np.zeros(left.shape[1] + right.shape[1])]) - self.weight_decay
        order = np.argsort(-rates, kind="stable")
        return rates[order], top[:, order], bottom[:, order]

    @cached_property
    def _triangular(self) -> tuple[np.ndarray, np.ndarray]:
        """L (m, r) lower trapezoidal and Theta (r, P) with orthonormal rows: the start in the eigenvectors of F is L Theta."""
        _, top, bottom = self.modes
        Q0 = top.T @ self.W + bottom.T @ self.H.T
        Theta, R = np.linalg.qr(Q0.T)
        return R.T, Theta.T

    def factor(self, t: float) -> np.ndarray:
        """Z (m, r) with Q Q^T(t) = E Z Z^T E^T, E the eigenvectors of F. t >= 0"""
        t = float(t)
        if not 0 <= t < np.inf:
            raise ValueError(f"t = {t}: the law runs forward from 0 to finite times")
        t = min(t, LATEST_TIME)
        rates, (L, _) = self.modes[0], self._triangular
        gained, identity = _scaled_columns(_log_gain(rates, t) / 2, L)  # of I + L^T G L
        moved = gained * _speed(rates, t)[:, None] if t > 0 else L
        _, R = np.linalg.qr(np.vstack([gained, np.diag(identity)]))
        return np.linalg.solve(R.T, moved.T).T

    def state(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """W (C, P) and H (P, n) at time t >= 0, up to one rotation of feature space. Raises ValueError for other times."""
        _, top, bottom = self.modes
        Z = self.factor(t) @ self._triangular[1]
        return top @ Z, (bottom @ Z).T

    def logits(self, t: float) -> np.ndarray:
        """W H at time t >= 0. (C, n)"""
        _, top, bottom = self.modes
        Z = self.factor(t)
        return (top @ Z) @ (bottom @ Z).T

    def loss(self, t: float) -> float:
        """1/2 ||W H - Y||^2 + lambda/2 (||W||^2 + ||H||^2) at time t >= 0; the squared norms of W and H are equal."""
        Z = self.factor(t)
        return 0.5 * float(((self.logits(t) - self.Y) ** 2).sum()) + 0.5 * self.weight_decay * float((Z * Z).sum())

    def limit(self) -> np.ndarray:
        """The logits at t = infinity of a start that meets every mode, P >= rank(Y): U (S - lambda)_+ V^T, thresholded. (C, n)

        Almost every balanced start does, but with one example in each of C <= P classes only those of det W H > 0.
        One-hot targets: class k keeps (1 - lambda / sqrt(n_k))_+. With P below the number of kept modes the P largest are kept.
        """
        U, s, Vt = np.linalg.svd(self.Y, full_matrices=False)
        kept = np.maximum(s - self.weight_decay, 0)
        kept[self.W.shape[1] :] = 0
        return (U * kept) @ Vt


def balanced_start(W: np.ndarray, H: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """W (C, P) and the nearest-shaped H (P, n) with H H^T = W^T W: H's orthonormal factor takes W's singular values.

    Raises ValueError where H has fewer columns than W has rank.
    """
    W, H = np.asarray(W, dtype=np.float64), np.asarray(H, dtype=np.float64)
    _, s, Vt = np.linalg.svd(W, full_matrices=False)
    if H.shape[1] < len(s):
        raise ValueError(f"H has {H.shape[1]} columns for {len(s)} singular values of W: a balanced H needs at least as many")
    U, _, Gt = np.linalg.svd(np.diag(s) @ Vt @ H, full_matrices=False)
    return W, Vt.T * s @ (U @ Gt)


def balance_defect(W: np.ndarray, H: np.ndarray) -> float:
    """||W^T W - H H^T||_F / (||W^T W||_F + ||H H^T||_F), 0 for two zeros."""
    A, B = W.T @ W, H @ H.T
    total = float(np.linalg.norm(A) + np.linalg.norm(B))
    return float(np.linalg.norm(A - B)) / total if total > 0 else 0.0


def _scaled_columns(half_gain: np.ndarray, L: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """exp(half_gain_i) L_ij and 1, column by column over the largest of them. (m, r), (r,)

    Growths are subtracted from each other first: added to the logarithm of an entry they would swallow its digits.
    """
    with np.errstate(divide="ignore"):
        size = np.log(np.abs(L))
    largest = (half_gain[:, None] + size).argmax(0)
    reference = np.maximum(half_gain[largest], 0.0)
    exponent = (half_gain[:, None] - reference) + size
    column = np.maximum(exponent.max(0), -reference)
    return np.sign(L) * np.exp(exponent - column), np.exp(-reference - column)


def _log_gain(rates: np.ndarray, t: float) -> np.ndarray:
    """log of int_0^t exp(2 mu s) ds = (exp(2 mu t) - 1) / (2 mu) for rates mu (m,), t for mu = 0, -inf at t = 0."""
    x = 2 * np.abs(rates) * t
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(x > 0, -np.expm1(-x) / x, 1.0)  # of the decaying exponential's integral to t
        return np.log(t) + np.log(ratio) + np.maximum(2 * rates * t, 0)


def _speed(rates: np.ndarray, t: float) -> np.ndarray:
    """exp(mu t) over the root of its `_log_gain`, from one exponential of a negative number: for t > 0 at rates mu (m,)."""
    x = 2 * np.abs(rates) * t
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(x > 0, 2 * np.abs(rates) / -np.expm1(-x), 1 / t)
    return np.sqrt(inverse) * np.exp(np.minimum(rates, 0) * t)


def _tied(s: np.ndarray) -> np.ndarray:
    """Singular values, descending, with those that only round-off tells apart made equal: they would drift apart as exp(t)."""
    near = len(s) * 4 * EPS * s.max(initial=0.0)
    groups = np.concatenate([[0], np.cumsum(-np.diff(s) > near)])
    return (np.bincount(groups, s) / np.bincount(groups))[groups]


def _beyond(U: np.ndarray, A: np.ndarray) -> np.ndarray:
    """An orthonormal basis of what of A's columns (m, P) lies off U's (m, k), without what is round-off beside A. (m, r)"""
    rest = A - U @ (U.T @ A)
    rest -= U @ (U.T @ rest)
    E, s, _ = np.linalg.svd(rest, full_matrices=False)
    return E[:, s > max(A.shape) * 4 * EPS * np.linalg.norm(A)]
