"""The one-vs-rest margin of a classifier's unit rows, informative where no simplex ETF fits (P < C - 1) too."""

import numpy as np

from ufm.arrays import Array, Weights, as_numpy, check_matrix
from ufm.features.vectors import unit_rows


def jiang_one_vs_rest_margin(W: Weights[Array]) -> float:
    """min_c dist(w_c, conv{w_j : j != c}) of the rows of W (C, P) divided by their lengths (Jiang et al. 2024, arXiv 2310.05351).

    C/(C-1) at a simplex ETF, its largest value for C <= P + 1. Raises ValueError for a zero row, fewer than 2 rows, and NaN or
    infinite entries.
    """
    rows = np.asarray(as_numpy(W), dtype=np.float64)
    if rows.ndim != 2 or len(rows) < 2:
        raise ValueError(f"W has shape {rows.shape}: a margin needs at least two rows, (C, P)")
    check_matrix(rows, "the rows of W")
    unit = unit_rows(rows, f"row {int(abs(rows).max(1).argmin())} of W is zero: it has no direction")
    return min(hull_distance(np.delete(unit, c, 0), unit[c]) for c in range(len(unit)))


def hull_distance(points: np.ndarray, x: np.ndarray) -> float:
    """The distance of x (P,) from the convex hull of points (k, P).

    Non-negative least squares of [A; 1^T] a ~ [0; 1] with columns a_j = point - x: its solution is a multiple of the weights of
    the nearest point, since for a fixed direction only the size weighs against the last row.
    """
    from scipy.optimize import nnls

    A = (points - x).T
    scale = float(np.abs(A).max())
    if not scale > 0:
        return 0.0
    weights, _ = nnls(np.vstack([A / scale, np.ones(A.shape[1])]), np.append(np.zeros(len(A)), 1.0))
    return float(np.linalg.norm(A @ (weights / weights.sum())))
