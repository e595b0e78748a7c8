"""States inside a step of the formula of Dormand and Prince, by its interpolant of order 7, with a bound on what that adds.

Three more slopes give the polynomial (Hairer, Norsett & Wanner, Solving ODEs I, II.6; the tables are scipy's). Its derivative
misses the field by a defect. The error of the state is an integral of the defect that is 0 at both ends of the step, and the
defect had one shape in every flow that was tried: largest in the last third of the step, the error nine times smaller than it.
Half the defect at `PROBE` is taken as the bound: there it was twice the error or more.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from manifolds.linalg import Array, ArrayT, array_like, namespace

PROBE = 0.7  # of the step, where the defect is measured
Slope = Callable[[float, Any], Any]


@dataclass(frozen=True, eq=False)
class Interpolant:
    """A polynomial in the share x of a step, and a bound on the relative error of its singular values."""

    start: Any
    terms: Any
    error: float

    def __call__(self, x: float) -> Any:
        """The state at the share x of the step. (m, c)"""
        return _value(self.start, self.terms, x)


def interpolant(slope: Slope, start: Array, end: Array, stages: Array, h: float) -> Interpolant:
    """The interpolant of a step h with its 13 slopes; `slope(x, S)` is the field at the share x of the step."""
    terms = _terms(slope, start, end, stages, h)
    defect = _derivative(terms, PROBE) - h * slope(PROBE, _value(start, terms, PROBE))
    norms = ((end * end).sum(-1) ** 0.5)[:, None]
    return Interpolant(start, terms, 0.5 * moved(defect / norms, end / norms))


def combine(weights: np.ndarray, stages: ArrayT) -> ArrayT:
    """sum_i weights_i stages_i, as one product that reads every stage once."""
    k = len(weights)
    return (array_like(weights, stages) @ stages[:k].reshape(k, -1)).reshape(stages.shape[1:])


def moved(error: Array, Y: Array) -> float:
    """||error||_2 / sigma_min(Y), by which factor an error relative to rows of norm 1 moves singular values. (m, c), (m, c)"""
    smallest = float(_squares(Y)[0])
    return (float(_squares(error)[-1]) / smallest) ** 0.5 if smallest > 0 else math.inf


def _squares(Y: ArrayT) -> ArrayT:
    """Squares of the singular values of Y (m, c), ascending. (m,)"""
    return namespace(Y).linalg.eigvalsh(Y @ Y.mT).clip(min=0)


@cache
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a (3, 16) and c (3,) of the further slopes, and the weights of the four highest terms (4, 16)."""
    from scipy.integrate import DOP853

    return DOP853.A_EXTRA, DOP853.C_EXTRA, DOP853.D


def _terms(slope: Slope, start: ArrayT, end: ArrayT, stages: ArrayT, h: float) -> ArrayT:
    """Coefficients of the nested polynomial x (f_0 + (1-x) (f_1 + x (f_2 + ...))). (7, m, c)"""
    xp, (A, C, D) = namespace(start), _tables()
    first, more = len(stages), len(C)
    K = xp.empty((first + more, *start.shape), dtype=start.dtype, device=start.device)
    K[:first] = stages
    for k in range(more):
        K[first + k] = slope(float(C[k]), start + combine(h * A[k, : first + k], K))
    terms, change = xp.empty((7, *start.shape), dtype=start.dtype, device=start.device), end - start
    terms[0] = change
    terms[1] = h * K[0] - change
    terms[2] = 2 * change - h * (K[first - 1] + K[0])
    for k in range(len(D)):
        terms[3 + k] = combine(h * D[k], K)
    return terms


def _value(start: ArrayT, terms: ArrayT, x: float) -> ArrayT:
    return start + combine(np.cumprod([x, 1 - x] * 3 + [x]), terms)


def _derivative(terms: ArrayT, x: float) -> ArrayT:
    """d/dx of `_value`."""
    powers = [(k // 2 + 1, (k + 1) // 2) for k in range(len(terms))]  # term k is x^a (1-x)^b
    return combine(np.array([x ** (a - 1) * (1 - x) ** b * (a - b * x / (1 - x)) for a, b in powers]), terms)
