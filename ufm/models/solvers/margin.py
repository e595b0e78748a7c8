"""Largest margins, the limits of small decay and of low temperature: scipy's SLSQP on one column a class.

Margins are <w_c - w_j, h_c> for c != j, W (C, P) and one feature a class h_c, the columns of M (P, C).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

_Map = Callable[[np.ndarray], np.ndarray]
_Constraint = Mapping[str, Any]  # as scipy takes one: type, fun, jac

ACCURATE = 1e-10  # of the constraints at the end
STATIONARY = 1e-6  # share of the gradient that multipliers may leave: the value is then known to about its square
ACTIVE = 1e-7  # an inequality closer than this to its bound may carry a multiplier


def margins(W: np.ndarray, M: np.ndarray) -> np.ndarray:
    """<w_c - w_j, h_c>, c over columns, j != c over rows in order. (C (C-1),)"""
    Z = W @ M
    return (np.diag(Z) - Z)[~np.eye(len(W), dtype=bool)]


def margin_slopes(W: np.ndarray, M: np.ndarray) -> np.ndarray:
    """The derivative of `margins` in (W, M), entries in order. (C (C-1), 2 C P)"""
    C, P = W.shape
    rows = []
    for j, c in zip(*np.nonzero(~np.eye(C, dtype=bool)), strict=True):
        dW, dM = np.zeros((C, P)), np.zeros((P, C))
        dW[c], dW[j], dM[:, c] = M[:, c], -M[:, c], W[c] - W[j]
        rows.append(np.concatenate([dW.ravel(), dM.ravel()]))
    return np.array(rows)


def smallest_norm(W: np.ndarray, M: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """min 1/2 |W|^2 + 1/2 sum_c n_c |h_c|^2 with all margins at least 1, from a start. sizes n_c (C,)

    Solved in sqrt(n_c) h_c. Raises RuntimeError where SLSQP ends at no stationary point.
    """
    root = np.sqrt(sizes)
    scales = np.concatenate([np.ones(W.size), np.broadcast_to(1 / root, M.shape).ravel()])

    def point(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _split_point(x * scales, W.shape)

    def excess(x: np.ndarray) -> np.ndarray:
        return margins(*point(x)) - 1

    def slopes(x: np.ndarray) -> np.ndarray:
        return margin_slopes(*point(x)) * scales

    constraint = {"type": "ineq", "fun": excess, "jac": slopes}
    return point(_minimised(lambda x: (x @ x) / 2, lambda x: x, W, M * root, constraint))


def largest_margin(W: np.ndarray, M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """max of the smallest margin over unit w_c and h_c, from a start. Raises RuntimeError where SLSQP fails."""
    shape, size, C = W.shape, 2 * W.size, len(W)

    def lengths(x: np.ndarray) -> np.ndarray:
        W, M = _split_point(x, shape)
        return np.concatenate([(W * W).sum(1), (M * M).sum(0)]) / 2 - 0.5

    def length_slopes(x: np.ndarray) -> np.ndarray:
        W, M = _split_point(x, shape)
        slopes = np.zeros((2 * C, size + 1))
        for c in range(C):
            slopes[c, c * shape[1] : (c + 1) * shape[1]] = W[c]
            slopes[C + c, W.size + c : size : C] = M[:, c]
        return slopes

    def above(x: np.ndarray) -> np.ndarray:
        return margins(*_split_point(x, shape)) - x[-1]

    def above_slopes(x: np.ndarray) -> np.ndarray:
        slopes = margin_slopes(*_split_point(x, shape))
        return np.hstack([slopes, -np.ones((len(slopes), 1))])

    last = np.append(np.zeros(size), -1.0)
    constraints = ({"type": "ineq", "fun": above, "jac": above_slopes}, {"type": "eq", "fun": lengths, "jac": length_slopes})
    return _split_point(_minimised(lambda x: -x[-1], lambda _: last, W, M, *constraints, more=[margins(W, M).min()]), shape)


def _minimised(
    value: _Map, slope: _Map, W: np.ndarray, M: np.ndarray, *constraints: _Constraint, more: Sequence[float] = ()
) -> np.ndarray:
    """SLSQP, again from its end while that tightens the constraints; its end has to be feasible and stationary to ACCURATE."""
    from scipy.optimize import minimize

    x = np.concatenate([W.ravel(), M.ravel(), more])
    for _ in range(4):
        x = minimize(value, x, jac=slope, method="SLSQP", constraints=constraints, options={"ftol": 1e-15, "maxiter": 2000}).x
        if _violation(x, constraints) < ACCURATE:
            break
    left = _violation(x, constraints), _unexplained(x, slope(x), constraints)
    if not (left[0] < ACCURATE and left[1] < STATIONARY):
        raise RuntimeError(f"SLSQP stopped with constraints violated by {left[0]:.1e} and a gradient of {left[1]:.1e} left")
    return x


def _violation(x: np.ndarray, constraints: Sequence[_Constraint]) -> float:
    return max(float(np.abs(np.minimum(c["fun"](x), 0) if c["type"] == "ineq" else c["fun"](x)).max()) for c in constraints)


def _unexplained(x: np.ndarray, gradient: np.ndarray, constraints: Sequence[_Constraint]) -> float:
    """What no multipliers (not negative for inequalities, which must be active) explain of the gradient, relative to it."""
    from scipy.optimize import nnls

    if not gradient.any():
        return 0.0
    normals: list[np.ndarray] = []
    for c in constraints:
        slopes = c["jac"](x)
        normals += [slopes[c["fun"](x) < ACTIVE]] if c["type"] == "ineq" else [slopes, -slopes]
    return nnls(np.vstack(normals).T, gradient)[1] / float(np.linalg.norm(gradient))


def _split_point(x: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """W (C, P) and M (P, C); what follows them is left out."""
    C, P = shape
    return x[: C * P].reshape(C, P), x[C * P : 2 * C * P].reshape(P, C)
