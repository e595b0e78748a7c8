"""The nearest of many class means, by products where their rounding error decides nothing, else by the distances."""

from typing import Any, cast

import numpy as np

from manifolds.linalg import Array, ArrayT, epsilon, namespace
from ufm.arrays import ClassMeans, Labels, PerClass, Rows, Weights

LEAST_ROWS = 128  # of a product with all classes: below, reading them would take longer than multiplying
MOST_ENTRIES = 2**21  # of differences of rows and class means held at once: 16 MB


def nearest_mean(features: Rows[ArrayT], class_means: ClassMeans[ArrayT]) -> Labels[ArrayT]:
    """argmin_c ||h - mu_c|| of rows (n, P): by ||m_c||^2 - 2 <h, m_c> about the mean of the means, some rows at a time.

    Rows whose best are no further apart than its rounding are decided by the distances themselves, where nothing cancels.
    """
    xp, C = namespace(features), class_means.shape[1]
    centre = class_means.mean(1)
    M = class_means - centre[:, None]
    squares = (M * M).sum(0)
    nearest = xp.zeros(len(features), dtype=xp.int64, device=features.device)
    for k in range(0, len(features), rows_at_a_time(C)):
        rows = features[k : k + rows_at_a_time(C)]
        row, column = _candidates(rows - centre, M, squares)
        nearest[k + row] = column
        if len(row) > len(rows):
            doubtful = xp.bincount(row, minlength=len(rows)) > 1
            kept = doubtful[row]
            distances = _distances(rows, class_means, row[kept], column[kept])
            nearest[k : k + len(rows)][doubtful] = distances[doubtful].argmin(-1)
    return nearest


def disagreements(features: Rows[Array], W: Weights[Array], b: PerClass[Array], class_means: ClassMeans[Array]) -> int:
    """Rows whose argmax_c <w_c, h> + b_c is not argmin_c ||h - mu_c||, features and W of any floating dtypes."""
    xp, rows, weights = namespace(features), cast("Any", features), cast("Any", W)
    if xp is not np:  # numpy multiplies what has different dtypes
        dtype = xp.promote_types(rows.dtype, weights.dtype)
        rows, weights = rows.to(dtype), weights.to(dtype)
    decisions = (rows @ weights.mT + b).argmax(-1)
    return int((decisions != nearest_mean(features, class_means)).sum())


def _distances(rows: Rows[ArrayT], class_means: ClassMeans[ArrayT], row: Labels[ArrayT], column: Labels[ArrayT]) -> Rows[ArrayT]:
    """Squared distances (n, C) of some pairs of rows and class means, infinity elsewhere."""
    xp, (P, C) = namespace(rows), class_means.shape
    distances = xp.full((len(rows), C), float("inf"), dtype=rows.dtype, device=rows.device)
    size = max(1, MOST_ENTRIES // P)
    for start in range(0, len(row), size):
        i, c = row[start : start + size], column[start : start + size]
        distances[i, c] = ((rows[i] - class_means.mT[c]) ** 2).sum(-1)
    return distances


def rows_at_a_time(C: int) -> int:
    """How many rows are scored against C classes at a time: 32 MB of scores, or enough for an efficient product."""
    return max(2**22 // C, LEAST_ROWS)


def _candidates(H: Rows[ArrayT], M: ClassMeans[ArrayT], squares: PerClass[ArrayT]) -> tuple[ArrayT, ArrayT]:
    """Pairs (row, column) of centred rows with the centred means that rounding cannot tell from the nearest, by rows."""
    xp = namespace(H)
    scores = (-2 * H) @ M
    scores += squares
    longest = squares.max() ** 0.5
    rounding = 2 * (len(M) + 4) * epsilon(scores) * longest * (2 * xp.einsum("np,np->n", H, H) ** 0.5 + longest)
    row, column = xp.where(scores <= (xp.amin(scores, -1) + rounding)[:, None])
    return row, column
