"""Cosines of all pairs of columns (P, C), summed up without a list of pairs: 1e5 classes have 5e9. numpy or torch."""

import numpy as np

from manifolds.linalg import gram, identity_like, namespace
from ufm.arrays import Array, ArrayT
from ufm.features.vectors import norms

TILE = 1024  # columns; the cosines of two tiles are 8 MB


def cosine_deviation(vectors: Array) -> float:
    """Std over pairs c < c' of cos(v_c, v_c'), over the number of pairs less one; 0 for C = 2. P C min(P, C) operations.

    With unit vectors u_c = m + d_c, m their mean, a_c = (Ave_k ||d_k||^2 - ||d_c||^2) / 2 = m^T d_c and T = tr D^T D,
    2 sum_{c<c'} (cos - Avg cos)^2 = 2 C ||a||^2 + || D^T D - T/(C-1) (I - 1 1^T / C) ||_F^2 where C - 1 <= P, else
                                     2 C ||a||^2 + || D D^T - T/P I ||_F^2 + T^2 (1/P - 1/(C-1)):
    squares alone, so that nothing cancels at a simplex ETF, nor where the vectors all but coincide.
    """
    P, C = vectors.shape
    if C < 3:
        return 0.0
    unit = vectors / norms(vectors)
    D = unit - unit.mean(-1)[:, None]
    squares = (D * D).sum(0)
    a, trace = (squares.mean() - squares) / 2, float(squares.sum())
    if C - 1 <= P:
        rest, excess = gram(D.mT) - trace / (C - 1) * (identity_like(D, C) - 1 / C), 0.0
    else:
        rest, excess = gram(D) - trace / P * identity_like(D, P), trace**2 * (1 / P - 1 / (C - 1))
    total = 2 * C * float((a * a).sum()) + float((rest * rest).sum()) + excess
    return (total / (C * (C - 1) - 2)) ** 0.5


def mean_maximal_angle_gap(vectors: Array, tile: int = TILE) -> float:
    """Avg over pairs of |cos(v_c, v_c') + 1/(C-1)|, two tiles of columns at a time; P C^2 operations, all of them products."""
    C = vectors.shape[1]
    unit = vectors / norms(vectors)
    total = 0.0
    for start in range(0, C, tile):
        rows = unit[:, start : start + tile].mT
        own = rows @ rows.mT + 1 / (C - 1)
        own.reshape(-1)[:: len(own) + 1] = 0.0  # the diagonal
        total += float(abs(own).sum()) / 2
        for other in range(start + tile, C, tile):
            total += _absolute_sum(rows, unit[:, other : other + tile], 1 / (C - 1))
    return total / (C * (C - 1) / 2)


def _absolute_sum(rows: ArrayT, columns: ArrayT, shift: float) -> float:
    """sum |rows columns + shift|, the product being the only room it takes."""
    cosines = rows @ columns
    cosines += shift
    if namespace(cosines) is np:
        return float(np.abs(cosines, out=cosines).sum())
    return float(cosines.abs_().sum())
