"""The spread of the cosines of all pairs of columns (P, C), without a list of pairs: 1e5 classes have 5e9. numpy or torch."""

from manifolds.linalg import gram, identity_like
from ufm.arrays import Array
from ufm.features.vectors import unit_vectors


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
    unit = unit_vectors(vectors)
    D = unit - unit.mean(-1)[:, None]
    squares = (D * D).sum(0)
    a, trace = (squares.mean() - squares) / 2, float(squares.sum())
    if C - 1 <= P:
        rest, excess = gram(D.mT) - trace / (C - 1) * (identity_like(D, C) - 1 / C), 0.0
    else:
        rest, excess = gram(D) - trace / P * identity_like(D, P), trace**2 * (1 / P - 1 / (C - 1))
    total = 2 * C * float((a * a).sum()) + float((rest * rest).sum()) + excess
    return (total / (C * (C - 1) - 2)) ** 0.5
