"""How a predicted path moves with the noise of its start: d Y_t / d Y_0, by paths from starts that are turned a little.

Errors of the start are those of its class means, Sigma_W given: S = M diag(q) becomes S T with Y_0 + E in place of Y_0.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy.interpolate import CubicSpline

from manifolds.representation import short_repr
from ufm.compare.coordinates import Entry, log_gram
from ufm.compare.motions import FIRST_HALVINGS, PLACES, FlowState, Motion

TURN = 1e-4  # of Y_0, by which the starts of a divided difference differ
FEW_STEPS, MORE_STEPS = 2, 6  # from place to place
BETWEEN = 4  # parts of every interval between two places, to whose ends a cubic spline takes the response; linear in each
FEWER_PLACES, ERROR_DRAWS = 8, 4  # for many singular values, and the random errors of either kind that stand for all
PATH_DISTANCE, ONE_STEP_DISTANCE = (
    0.02,
    0.0002,
)  # of log omega, from its path, that a path of longer steps may be; one of a single step, and how
# much further few steps between places that lie further apart may take it
MOST_FULL = 10  # singular values, up to which the responses of all values to all values are computed
CLOSE = 0.05  # of log omega between two starts whose divided difference is a derivative
FlowStep = Callable[[FlowState, float], FlowState]
BLOCKS, QUICK_BLOCKS = 7, 5  # powers 0, -1, -2, ... of Sigma_W that span what many features are reduced to


@dataclass(frozen=True, eq=False, repr=False)
class Response:
    """D (R, m, k) at grid positions `places` (R,) of a path, ascending from 0, to k errors: the m of the values compared, and m
    more that stand for those of all others where there are many. cross (R, 2, m): rms of what errors of size 1 of all others do
    to a value, those on the diagonal and those off it.
    """

    places: np.ndarray
    D: np.ndarray
    cross: np.ndarray | None = None
    __repr__ = short_repr

    @classmethod
    def unchanged(cls, m: int) -> "Response":
        """Of m values that stay in error by what their start is in error by."""
        return cls(np.array([0.0, 1.0]), np.tile(np.eye(m), (2, 1, 1)))

    def widened(self, kinds: np.ndarray, sigma: np.ndarray) -> "Response":
        """With the errors of all others as one of its own for every value, in units of the noise sigma (m,) of the values."""
        if self.cross is None:
            return self
        sizes = [sigma[kinds == kind].mean() if (kinds == kind).any() else 0.0 for kind in (0, 1)]
        beside = np.sqrt((self.cross[:, 0] * sizes[0]) ** 2 + (self.cross[:, 1] * sizes[1]) ** 2) / sigma
        return Response(self.places, np.concatenate([self.D, beside[..., None] * np.eye(len(sigma))], axis=-1))

    def at(self, tau: np.ndarray) -> np.ndarray:
        """D at grid positions of any shape, interpolated. (..., m, m)"""
        low, share = self._between(tau)
        return (1 - share)[..., None, None] * self.D[low] + share[..., None, None] * self.D[low + 1]

    def moved(self, start: np.ndarray, count: int) -> np.ndarray:
        """D start at every grid position 0, ..., count - 1. (B, k) -> (B, count, m)"""
        R, m, k = self.D.shape
        at_places = (self.D.reshape(-1, k) @ start.T).reshape(R, m, -1).transpose(2, 0, 1)
        low, share = self._between(np.arange(count, dtype=float))
        return (1 - share)[:, None] * at_places[:, low] + share[:, None] * at_places[:, low + 1]

    def _between(self, tau: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low = np.clip(np.searchsorted(self.places, tau, side="right") - 1, 0, len(self.places) - 2)
        share = (tau - self.places[low]) / (self.places[low + 1] - self.places[low])
        return low, np.clip(share, 0.0, 1.0)


def turns(Y0: np.ndarray, frame: np.ndarray, where: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """T (1 + m, C, C) with S T of Y_0 + TURN E for no E and for the m symmetric ones of single values `where`. Y0 (K, K)

    Of more than MOST_FULL singular values, for no E, E = I, and ERROR_DRAWS random ones on the diagonal and as many off it.
    """
    C, K = frame.shape
    starts = Y0 + TURN * _errors(K, where)
    values, vectors = np.linalg.eigh(starts)
    to = (vectors * np.exp(values)[..., None, :]) @ vectors.mT
    inside = np.linalg.solve(to[0], to)
    return np.eye(C) + frame @ (inside - np.eye(K)) @ frame.T


def _errors(K: int, where: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The errors E of Y_0, in units of TURN. (B, K, K)"""
    if K > MOST_FULL:
        rng = np.random.default_rng(0)
        on = rng.standard_normal((ERROR_DRAWS, K))[..., None] * np.eye(K)
        off = np.triu(rng.standard_normal((ERROR_DRAWS, K, K)), 1)
        return np.concatenate([np.zeros((1, K, K)), np.eye(K)[None], on, off + off.mT])
    E = np.zeros((1 + len(where[0]), K, K))
    number = np.arange(1, len(E))
    E[number, where[0], where[1]] = E[number, where[1], where[0]] = 1.0
    return E


def response(
    motion: Motion,
    frame: np.ndarray,
    path: np.ndarray,
    times: np.ndarray,
    places: np.ndarray,
    where: tuple[np.ndarray, np.ndarray],
) -> Response:
    """The response of a flow from the starts of `turns`, all at once, beside its path Y (S, K, K) at flow times and grid
    positions (S,).

    Of more than MOST_FULL singular values, of each value to its own error: on the diagonal as where all are larger alike, off it
    by the divided difference, which is exact while the vectors are frozen; and the rms of what random errors of all others do.
    """
    m, K = len(where[0]), frame.shape[1]
    if len(times) < 2:
        return Response.unchanged(m)
    first_steps = min(FIRST_HALVINGS + 1, len(times) - 1)  # of a trace, the short ones that follow a classifier to rest
    others = len(times) - 1 - first_steps
    count, power = (FEWER_PLACES, 1.0) if K > MOST_FULL else motion.places if others >= PLACES[0] else PLACES
    strays = ONE_STEP_DISTANCE if count < PLACES[0] and K <= MOST_FULL else PATH_DISTANCE
    share = np.linspace(0, 1, count - 1) ** power
    chosen = np.unique(np.r_[0, np.round(first_steps + others * share).astype(int)])
    D, cross, first = [np.eye(m)], [np.zeros((2, m))], np.diagonal(path[0])
    state, easiest, was_off = motion.state, 0, 0.0
    careful = [(motion.step, FEW_STEPS, PATH_DISTANCE), (motion.step, MORE_STEPS, PATH_DISTANCE)]
    quick = list[tuple[FlowStep, int, float]]()
    if motion.quick is not None:
        quick = [
            (motion.quick, 1, ONE_STEP_DISTANCE),
            *((motion.quick, steps, PATH_DISTANCE) for steps in (FEW_STEPS, MORE_STEPS)),
        ]
    for before, after in pairwise(chosen):
        ways = [*quick, *careful] if before else careful  # a classifier that is not at rest at the start comes there in no time
        for way in range(easiest, len(ways)):
            step, steps, largest = ways[way]
            moments = np.interp(np.linspace(before, after, steps + 1), np.arange(len(times)), times)
            moved = _walk(motion, step, state, moments, frame)
            off = np.inf if moved is None else float(abs(moved[1][0] - path[after]).max())
            if off < largest and (step is not motion.quick or steps != FEW_STEPS or off < was_off + strays):
                was_off = off
                easiest = 1 if before and quick and way else easiest  # where one step was too long, the next is too
                break
        if moved is None and before == 0:
            raise ValueError("a start in error by 0.01 % follows no path of the model: its response is undefined")
        if moved is None:
            break  # a start in error collapses sooner: from here on the last response stands
        state, Y = moved
        if K <= MOST_FULL:
            D.append(((Y[1:] - Y[0])[:, *where] / TURN).T)
            continue
        own = _own(Y[:2], first)
        D.append(np.diag(own[where]))
        beside = (((Y[2:] - Y[0]) / TURN - own * _errors(K, where)[2:])[:, *where] ** 2).reshape(2, ERROR_DRAWS, m).mean(1)
        cross.append(np.sqrt((beside + beside.mean(1, keepdims=True)) / 2))
    return _filled(Response(places[chosen[: len(D)]], np.array(D), np.array(cross) if K > MOST_FULL else None))


def _filled(coarse: Response) -> Response:
    """The response at BETWEEN times as many places: D by a cubic spline, cross, which is never negative, linearly."""
    parts = np.arange(BETWEEN) / BETWEEN
    fine = np.append((coarse.places[:-1, None] + np.diff(coarse.places)[:, None] * parts).ravel(), coarse.places[-1])
    cross = None
    if coarse.cross is not None:
        low, share = coarse._between(fine)
        share = share[:, None, None]
        cross = (1 - share) * coarse.cross[low] + share * coarse.cross[low + 1]
    return Response(fine, CubicSpline(coarse.places, coarse.D)(fine), cross)


def _walk(
    motion: Motion, step: FlowStep, state: FlowState, times: np.ndarray, frame: np.ndarray
) -> tuple[FlowState, np.ndarray] | None:
    """The state after steps between times (S,) and its Y (B, K, K); None where a step is too long for the flow."""
    try:
        for h in np.diff(times):
            state = step(state, h)
        gram = motion.gram(state)
    except np.linalg.LinAlgError:
        return None
    try:
        return state, log_gram(gram, frame)
    except ValueError:  # an SNR singular value has vanished
        return None


def _own(Y: np.ndarray, first: np.ndarray) -> np.ndarray:
    """d Y_jk(t) / d Y_jk(0) of paths (2, K, K) whose starts `first` (K,) differ by TURN. (K, K)"""
    x = np.diagonal(Y, axis1=1, axis2=2)
    own = np.clip((x[1] - x[0]) / TURN, -1.0, 3.0)
    gap = first[:, None] - first
    near = abs(gap) < CLOSE
    ratio = np.clip((x[0][:, None] - x[0]) / np.where(near, 1.0, gap), -1.0, 3.0)
    return np.where(near, (own[:, None] + own) / 2, ratio)


def krylov(entry: Entry, blocks: int = BLOCKS) -> Entry:
    """The entry in the span of Sigma_W^-k S, k = 0 ... blocks - 1, of which G is the same and flows nearly are.

    Features move by functions of the inverse of Sigma_T, whose powers times S have the same span. With a classifier also in that
    of Sigma_W^-k W^T. The entry itself where that is no smaller.
    """
    first = entry.M if entry.W is None else np.hstack([entry.M, entry.W.T])
    if entry.mean is not None and entry.W is not None:
        first = np.hstack([first, entry.mean[:, None]])
    if blocks * first.shape[1] >= len(entry.M):
        return entry
    values, E = np.linalg.eigh(entry.sigma_w)
    columns = E.T @ first
    span = np.hstack([_unit_columns(columns / values[:, None] ** k) for k in range(blocks)])
    U, s, _ = np.linalg.svd(span, full_matrices=False)
    V = U[:, s > 1e-10 * s[0]]
    W = None if entry.W is None else entry.W @ E @ V
    mean = None if entry.mean is None else V.T @ (E.T @ entry.mean)
    return replace(entry, M=V.T @ (E.T @ entry.M), sigma_w=(V.T * values) @ V, W=W, mean=mean)


def _unit_columns(columns: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(columns, axis=0)
    return columns / np.where(norm > 0, norm, 1.0)
