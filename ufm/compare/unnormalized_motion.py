"""The plain flow of the features under a block kernel (`ufm.laws.mean_system`), from any start and from many at once.

With S = M diag(q) (P x C), q = sqrt(pi), J = I - q q^T and Pi = diag(pi), for any class sizes,

    dS/dt = (r/n) A^{-1} S X,   A = Sigma_W + S S^T / r conserved,   X = J Q Pi J (I - N / r) Q,
    N = S^T A^{-1} S,           Q = (I + (1 - 1/r) N)^{-1}.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from ufm.compare.coordinates import Entry
from ufm.compare.motions import Motion

NO_SIGNAL = 1e-26  # share of a direction in N below which it never matters
LARGEST_POWER = 50.0  # of e, by which a step changes a row
Rates = tuple[np.ndarray, ...]
Advance = Callable[[np.ndarray, Rates, float], np.ndarray]


def unnormalized_motion(entry: Entry, r: float = 1.0, turns: np.ndarray | None = None) -> Motion:
    """The flow dH/dt = -grad L_LS Theta of any start, Theta 1 on deviations and r on class means: exponential midpoints, two
    halves of a step and the whole extrapolated to fourth order.

    turns (B, C, C): from S T for every T of them instead of S, all at once; as many as classes, or more, to first order in what
    their A and X differ from those of the first one by.
    Raises ValueError where Sigma_T is singular.
    """
    priors = entry.priors
    C, q = len(priors), np.sqrt(priors)
    J, one = np.eye(C) - np.outer(q, q), np.eye(C)
    S0 = entry.M * q if turns is None else (entry.M * q) @ turns
    a, E = np.linalg.eigh(entry.sigma_w + S0 @ S0.mT / r)
    if not a.min() > 0:
        raise ValueError("Sigma_T is singular: reduce the features to the range of Sigma_W first")
    S0 = E.mT @ S0
    share = (S0**2).sum(-1) / a
    kept = (share > NO_SIGNAL * share.max()).reshape(-1, len(entry.M)).any(0)
    S0, a = S0[..., kept, :], a[..., kept, None]
    near = turns is not None and len(turns) >= len(priors)
    advance = _advance_near(a, (E.mT @ E[0])[:, kept][..., kept]) if near else _advance_each(a)

    def inner(S: np.ndarray) -> np.ndarray:
        return S.mT @ (S / a)

    projected = (J * priors) @ J

    def rate(S: np.ndarray) -> Rates:
        """X = (Q J Pi J Q) L L^T = T Lambda T^{-1}, L L^T = I - N / r: its eigenvalues, T and T^{-1}."""
        of_all = inner(S)
        N = of_all[0] if near else of_all
        L = np.linalg.cholesky(one - N / r)
        Q = one if r == 1 else np.linalg.inv(one + (1 - 1 / r) * N)
        values, vectors = np.linalg.eigh(r * (L.mT @ (Q @ projected @ Q) @ L))
        T, inverse = np.linalg.solve(L.mT, vectors), (L @ vectors).mT
        if not near:
            return values[..., None, :], T, inverse
        left, more = inverse @ Q, of_all - N  # X = r Q projected Q (I - N / r), dQ = -(1 - 1 / r) Q dN Q
        change = (left @ more) @ ((1 / r - 1) * T * values) + (left @ projected @ Q @ more) @ ((1 - r) * (Q @ L @ L.T @ T) - T)
        return values[..., None, :], T, inverse, change

    def midpoint(S: np.ndarray, h: float) -> np.ndarray:
        return advance(S, rate(advance(S, rate(S), h / 2)), h)

    def step(S: np.ndarray, h: float) -> np.ndarray:
        X = rate(S)
        whole = advance(S, rate(advance(S, X, h / 2)), h)
        half = advance(S, rate(advance(S, X, h / 4)), h / 2)
        return (4 * midpoint(half, h / 2) - whole) / 3

    def gram(S: np.ndarray) -> np.ndarray:
        N = inner(S)
        return N @ np.linalg.inv(one - N / r)

    return Motion(S0, step, gram, step)


def _advance_each(a: np.ndarray) -> Advance:
    """S_i exp(h X / a_i) for every row i. a (..., P, 1)"""

    def advance(S: np.ndarray, X: Rates, h: float) -> np.ndarray:
        values, T, inverse = X
        return ((S @ T) * np.exp(np.clip(h * values / a, -LARGEST_POWER, LARGEST_POWER))) @ inverse

    return advance


def _advance_near(a: np.ndarray, turned: np.ndarray) -> Advance:
    """The same to first order, each in its own eigenbasis, which may differ from the first by signs or, where eigenvalues are
    equal, by any rotation. a (B, P, 1); turned (B, P, P): the first basis as each of the others sees it.
    """
    turned, larger = np.ascontiguousarray(turned), a[0] / a - 1

    def advance(S: np.ndarray, X: Rates, h: float) -> np.ndarray:
        (values, T, inverse, change), C = X, S.shape[-1]
        rows = (S.reshape(-1, C) @ T).reshape(S.shape)
        x = np.clip(h * values / a[0], -LARGEST_POWER, LARGEST_POWER)
        grown, of_first = np.exp(x), (rows[0] * (h / a[0]))[..., None] * divided_exponential(x)  # (P, C), (P, C, C)
        of_X = change.transpose(2, 0, 1) @ of_first.transpose(2, 1, 0)  # (C, B, P)
        moved = rows * (grown + grown * x * larger) + turned @ np.ascontiguousarray(of_X.transpose(1, 2, 0))
        return (moved.reshape(-1, C) @ inverse).reshape(S.shape)

    return advance


def divided_exponential(x: np.ndarray) -> np.ndarray:
    """(exp(x_j) - exp(x_k)) / (x_j - x_k), exp(x_j) where they are equal. (P, C) -> (P, C, C)"""
    rows, columns = _upper(x.shape[1])  # it is symmetric
    one, other = x[:, rows], x[:, columns]
    gap = abs(one - other)
    upper = np.exp(np.maximum(one, other)) * np.where(gap > 0, -np.expm1(-gap) / np.where(gap > 0, gap, 1.0), 1.0)
    divided = np.empty((*x.shape, x.shape[1]))
    divided[:, rows, columns] = divided[:, columns, rows] = upper
    return divided


@cache
def _upper(C: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the upper triangle, which are asked for in every step."""
    return np.triu_indices(C)
