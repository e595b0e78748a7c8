"""The closed system of the joint flow (`ufm.laws.joint`) followed, each part of its state relative to the size it has there."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from manifolds.representation import short_repr

if TYPE_CHECKING:
    from scipy.integrate import OdeSolver

MOST_WITH_JACOBIAN = 2000  # unknowns for which the solver may hold a dense Jacobian
ROUNDING_OF_SVD = 100 * 2.0**-52  # of the largest singular value of X, as which it may appear in the smallest
FACTOR_OF_SIZE = 100.0  # factor of the size of a part after which the solver starts anew, with errors relative to the new size
ZERO_SIZE = 1e-290  # size below which a part counts as zero
MOST_JOINT_STEPS = 20_000  # of the solver; a few thousand are usual
StateVelocity = Callable[[float, np.ndarray], np.ndarray]


class JointRates(Protocol):
    """What the system takes of a `ufm.laws.joint.JointFlow`: sizes, decays and the rate of the classifier."""

    @property
    def C(self) -> int:
        """Number of classes."""
        ...

    @property
    def n(self) -> int:
        """Number of examples."""
        ...

    @property
    def priors(self) -> np.ndarray:
        """pi_c = n_c / n. (C,)"""
        ...

    @property
    def wd_W(self) -> float:
        """Weight decay of the classifier W."""
        ...

    @property
    def wd_H(self) -> float:
        """Weight decay of the features H."""
        ...

    @property
    def wd_b(self) -> float:
        """Weight decay of the bias b."""
        ...

    @property
    def kappa(self) -> float:
        """Rate of the classifier over that of the features."""
        ...

    @property
    def bias(self) -> bool:
        """Whether there is a bias."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class JointSystem:
    """The closed system of `ufm.laws.joint` from its start W (C, P), b (C,), M (P, C), Sigma_W (P, P)."""

    flow: JointRates
    W: np.ndarray
    b: np.ndarray
    M: np.ndarray
    Sigma_W: np.ndarray
    __repr__ = short_repr

    @cached_property
    def _roots(self) -> tuple[np.ndarray, np.ndarray]:
        """sqrt of the eigenvalues of Sigma_W(0), and their vectors."""
        values, E = np.linalg.eigh(self.Sigma_W)
        return np.sqrt(values.clip(min=0)), E

    @property
    def root(self) -> np.ndarray:
        """L(0) with Sigma_W(0) = L L^T. (P, P)"""
        values, E = self._roots
        return E * values

    @property
    def singular(self) -> bool:
        """Whether Sigma_W(0) is singular to rounding: omega is infinite."""
        return not self.start_error < 1

    @property
    def start_error(self) -> float:
        """P eps lambda_1 / lambda_P of Sigma_W(0): the relative error of an omega that rounding of Sigma_W leaves."""
        values, _ = self._roots
        smallest, allowed = values[0] ** 2, len(values) * np.finfo(np.float64).eps * values[-1] ** 2
        return float(allowed / smallest) if smallest > 0 else math.inf

    def start(self) -> tuple[np.ndarray, ...]:
        """W, b, M, R, N, X; zeros for the last two where Sigma_W is singular."""
        (values, E), M, pi = self._roots, self.M, self.flow.priors
        N = np.zeros_like(E) if self.singular else E.T / values[:, None]
        return self.W, self.b, M, np.eye(len(M)), N, N @ (M - (M @ pi)[:, None])

    def velocity(self, t: float, *parts: np.ndarray) -> list[np.ndarray]:
        """d/dt of W, b, M, e^(wd_H t) R, e^(-wd_H t) N and e^(-wd_H t) X."""
        (W, b, M, R, N, X), flow, pi = parts, self.flow, self.flow.priors
        off = W @ M
        off += b[:, None]
        off.reshape(-1)[:: flow.C + 1] -= 1.0
        L, weighted, pull = math.exp(-flow.wd_H * t) * (R @ self.root), off * pi, W.T / flow.n
        dW = -flow.kappa * ((W @ L) @ L.T + weighted @ M.T + flow.wd_W * W)
        db = -flow.kappa * (weighted.sum(1) + flow.wd_b * b) if flow.bias else 0 * b
        dM = -(pull @ off) - flow.wd_H * M
        driven = N @ pull
        dX = driven - (driven @ pi)[:, None] - flow.wd_H * X
        return [dW, db, dM, -(pull @ (W @ R)), driven @ W, dX]

    def states(
        self, times: np.ndarray, tolerance: float, progress: Callable[[float], None] | None = None
    ) -> list[list[np.ndarray]]:
        """The parts whose `velocity` it is, at times (T,). Raises ValueError with the time reached."""
        parts = StateParts([part.shape for part in self.start()])
        y = parts.joined(self.start())
        rows = [y] * int(np.searchsorted(times, 0.0, side="right"))

        def field(t: float, y: np.ndarray) -> np.ndarray:
            return parts.joined(self.velocity(t, *parts.split(y)))

        t, end, steps = 0.0, float(times[-1]), 0
        while len(rows) < len(times):
            solver, sizes = parts.solver(field, t, y, end, tolerance), parts.sizes(y)
            while solver.status == "running" and not parts.apart(solver.y, sizes):
                reached, steps = solver.t, steps + 1
                with np.errstate(over="ignore", invalid="ignore"):
                    message = solver.step()
                if solver.status == "failed" or not np.isfinite(solver.y).all():
                    raise _followed_no_further(reached, message or "the state overflows float64")
                if steps > MOST_JOINT_STEPS:
                    raise _followed_no_further(reached, f"{MOST_JOINT_STEPS} steps were taken")
                inside = solver.dense_output()
                while len(rows) < len(times) and times[len(rows)] <= solver.t:
                    rows.append(inside(times[len(rows)]))
                if progress is not None:
                    progress(solver.t / end)
            t, y = solver.t, solver.y
        return [parts.split(row) for row in rows]

    def error(self, X: np.ndarray, rough: np.ndarray) -> np.ndarray:
        """Estimate of the largest relative error of the singular values of X (T, P, C), beside those of a rougher run. (T,)"""
        K = min(self.flow.C - 1, X.shape[1])
        fine, coarse = (np.linalg.svdvals(x)[:, :K] for x in (X, rough))
        moving = fine > 0
        ratio = np.divide(coarse, fine, out=np.ones_like(fine), where=moving)
        spread = np.divide(fine[:, :1], fine, out=np.zeros_like(fine), where=moving)
        return abs(ratio - 1).max(1) + ROUNDING_OF_SVD * spread.max(1) + self.start_error


@dataclass(frozen=True)
class StateParts:
    """The parts of a state in one vector, each with a size of its own."""

    shapes: list[tuple[int, ...]]

    def joined(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """One vector."""
        return np.concatenate([x.reshape(-1) for x in parts])

    def split(self, y: np.ndarray) -> list[np.ndarray]:
        """The parts of one vector, as views."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])
        return [x.reshape(shape) for x, shape in zip(np.split(y, ends[:-1]), self.shapes, strict=True)]

    def sizes(self, y: np.ndarray) -> np.ndarray:
        """The largest entry of every part; of one that is zero, that of all."""
        sizes = np.array([abs(x).max() for x in self.split(y)])
        return np.where(sizes > ZERO_SIZE, sizes, sizes.max() if sizes.min() == 0 else ZERO_SIZE)

    def apart(self, y: np.ndarray, sizes: np.ndarray) -> bool:
        """Whether a part has left the size it was given by more than a factor `FACTOR_OF_SIZE`."""
        now = np.array([abs(x).max() for x in self.split(y)])
        return bool(((now / FACTOR_OF_SIZE > sizes) | ((now < sizes / FACTOR_OF_SIZE) & (now > ZERO_SIZE))).any())

    def solver(self, field: StateVelocity, t: float, y: np.ndarray, end: float, tolerance: float) -> "OdeSolver":
        """A solver from t to the end, whose steps err in an entry by the tolerance of that entry or of a part's size."""
        from scipy.integrate import DOP853, LSODA

        atol = np.concatenate([np.full(math.prod(s), size) for s, size in zip(self.shapes, self.sizes(y), strict=True)])
        kind = LSODA if y.size <= MOST_WITH_JACOBIAN else DOP853
        return kind(field, t, y, end, rtol=tolerance, atol=tolerance * atol / FACTOR_OF_SIZE)


def _followed_no_further(t: float, why: str) -> ValueError:
    return ValueError(f"t = {t:.6g}: the joint flow cannot be followed further ({why}); choose an earlier end")
