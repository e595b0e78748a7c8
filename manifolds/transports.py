"""Vector transport by the differentiated retraction, W -> d/ds R_X(U + s W) at s = 0: tangent at R_X(U), linear in W.

X, U, W are (..., P, n), numpy or torch. Equals parallel transport to first order, as projection at the end does.
[Absil, Mahony and Sepulchre 2008, Section 8.1.4]
"""

from manifolds.array import ArrayT, Columns
from manifolds.column_split import MeanSplit
from manifolds.retractions import RETRACTIONS, Move, Retraction, as_retraction


def differentiated_transport(
    X: Columns[ArrayT], U: Columns[ArrayT], W: Columns[ArrayT], layout: MeanSplit, retraction: Move[ArrayT] | str
) -> Columns[ArrayT]:
    """D R_X(U)[W] for R = `retraction`, one of the four of `manifolds.retractions` or its name. (..., P, n)

    Raises ValueError for another retraction and where the step loses rank.
    """
    known = as_retraction(retraction)
    if not isinstance(known, Retraction):
        raise ValueError(
            f"the derivative of {getattr(known, '__name__', known)} is not known: give one of "
            f"{', '.join(RETRACTIONS)}, or transport by projection (Metric.transport)"
        )
    return known.derivative(X, U, W, layout)
