"""How a predicted path moves with the noise of its start: d Y_t / d Y_0, by paths from starts that are turned a little.

Errors of the start are those of its class means, Sigma_W given: S = M diag(q) becomes S T with Y_0 + E in place of Y_0.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ufm.compare.coordinates import Entry, log_gram
from ufm.compare.motions import Motion

TURN = 1e-4  # of Y_0, by which the starts of a divided difference differ
PLACES = 20  # of a path, at which the response is computed; between them it is linear
MOST_FULL = 10  # singular values, up to which the responses of all values to all values are computed
CLOSE = 0.05  # of log omega between two starts whose divided difference is a derivative
BLOCKS = 2  # powers of Sigma_W and of its inverse, either way, that span what the response of many features is computed in


@dataclass(frozen=True, eq=False)
class Response:
    """D (R, m, m) at grid positions `places` (R,) of a path, ascending from 0."""

    places: np.ndarray
    D: np.ndarray

    def at(self, tau: np.ndarray) -> np.ndarray:
        """D at grid positions of any shape, interpolated. (..., m, m)"""
        low, share = self._between(tau)
        return (1 - share)[..., None, None] * self.D[low] + share[..., None, None] * self.D[low + 1]

    def moved(self, start: np.ndarray, count: int) -> np.ndarray:
        """D start at every grid position 0, ..., count - 1. (B, m) -> (B, count, m)"""
        m = start.shape[1]
        at_places = (self.D.reshape(-1, m) @ start.T).reshape(len(self.D), m, -1).transpose(2, 0, 1)
        low, share = self._between(np.arange(count, dtype=float))
        return (1 - share)[:, None] * at_places[:, low] + share[:, None] * at_places[:, low + 1]

    def _between(self, tau: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low = np.clip(np.searchsorted(self.places, tau, side="right") - 1, 0, len(self.places) - 2)
        share = (tau - self.places[low]) / (self.places[low + 1] - self.places[low])
        return low, np.clip(share, 0.0, 1.0)


def turns(Y0: np.ndarray, frame: np.ndarray, where: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """T (1 + m, C, C) with S T of Y_0 + TURN E for no E and for the m symmetric ones of single values `where`. Y0 (K, K)

    Of more than MOST_FULL singular values, T (2, C, C) for no E and for E = I.
    """
    C, K = frame.shape
    if K > MOST_FULL:
        return np.eye(C) + np.array([0.0, np.expm1(TURN)])[:, None, None] * (frame @ frame.T)
    starts = np.tile(Y0, (1 + len(where[0]), 1, 1))
    number = np.arange(1, len(starts))
    starts[number, where[0], where[1]] += TURN
    starts[number, where[1], where[0]] += TURN * (where[0] != where[1])
    values, vectors = np.linalg.eigh(starts)
    to = (vectors * np.exp(values)[..., None, :]) @ vectors.mT
    inside = np.linalg.solve(to[0], to)
    return np.eye(C) + frame @ (inside - np.eye(K)) @ frame.T


def response(
    motion: Motion, frame: np.ndarray, times: np.ndarray, places: np.ndarray, where: tuple[np.ndarray, np.ndarray]
) -> Response:
    """The response of a flow from the starts of `turns`, all at once, at flow times (S,) that are at grid positions (S,).

    Of more than MOST_FULL singular values, of each value to its own error alone: on the diagonal as where all are larger alike,
    off it by the divided difference, which is exact while the vectors are frozen.
    """
    m, full = len(where[0]), frame.shape[1] <= MOST_FULL
    if len(times) < 2:
        return Response(np.array([0.0, 1.0]), np.tile(np.eye(m), (2, 1, 1)))
    chosen = np.unique(np.round(np.linspace(0, len(times) - 1, PLACES)).astype(int))
    D = [np.eye(m)]
    state = motion.state
    first = np.diagonal(log_gram(motion.gram(state), frame)[0])
    for before, after in pairwise(chosen):
        middle = (before + after + 1) // 2
        for a, b in ((before, middle), (middle, after)):
            if b > a:
                state = motion.step(state, times[b] - times[a])
        Y = log_gram(motion.gram(state), frame)
        D.append(((Y[1:] - Y[0])[:, *where] / TURN).T if full else np.diag(_own(Y, first)[where]))
    return Response(places[chosen], np.array(D))


def _own(Y: np.ndarray, first: np.ndarray) -> np.ndarray:
    """d Y_jk(t) / d Y_jk(0) of paths (2, K, K) whose starts `first` (K,) differ by TURN. (K, K)"""
    x = np.diagonal(Y, axis1=1, axis2=2)
    own = np.clip((x[1] - x[0]) / TURN, -1.0, 3.0)
    gap = first[:, None] - first
    near = abs(gap) < CLOSE
    ratio = np.clip((x[0][:, None] - x[0]) / np.where(near, 1.0, gap), -1.0, 3.0)
    return np.where(near, (own[:, None] + own) / 2, ratio)


def krylov(entry: Entry) -> Entry:
    """The entry in the span of Sigma_W^k S, k = -BLOCKS ... BLOCKS, of which G is the same and flows nearly are.

    With a classifier also in that of Sigma_W^k W^T. The entry itself where that is no smaller.
    """
    first = entry.M if entry.W is None else np.hstack([entry.M, entry.W.T])
    if entry.mean is not None and entry.W is not None:
        first = np.hstack([first, entry.mean[:, None]])
    if (2 * BLOCKS + 1) * first.shape[1] >= len(entry.M):
        return entry
    values, E = np.linalg.eigh(entry.sigma_w)
    columns = E.T @ first
    span = np.hstack([_unit(values[:, None] ** k * columns) for k in range(-BLOCKS, BLOCKS + 1)])
    U, s, _ = np.linalg.svd(span, full_matrices=False)
    V = U[:, s > 1e-10 * s[0]]
    W = None if entry.W is None else entry.W @ E @ V
    mean = None if entry.mean is None else V.T @ (E.T @ entry.mean)
    return replace(entry, M=V.T @ (E.T @ entry.M), sigma_w=(V.T * values) @ V, W=W, mean=mean)


def _unit(columns: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(columns, axis=0)
    return columns / np.where(norm > 0, norm, 1.0)
