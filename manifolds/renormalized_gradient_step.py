"""The discrete scheme of D.1, gradient descent with renormalization: a gradient step, then Sigma_W^{-1/2} of the point it gave.

Lemma 2: for X on the manifold it is a step projected on the tangent space, to first order,

    renormalize(X - eta G) = X - eta Pi(G) + O(eta^2),   Pi of Proposition 4,

so that small steps follow Eq. 5, the continually renormalized gradient flow.
"""

from typing import Any

from manifolds.array import ArrayT, Columns
from manifolds.class_centering import ClassLayout
from manifolds.normalized_features import renormalize
from manifolds.precision import at_least_float32
from manifolds.retractions import renormalisation
from manifolds.steps import fused_step


@at_least_float32
def renormalized_step(
    X: Columns[ArrayT], G: Columns[ArrayT], eta: float, layout: ClassLayout, *, out: Columns[ArrayT] | None = None
) -> Columns[ArrayT]:
    """renormalize(X - eta G), the paper's scheme D.1 for any loss: X - eta Pi G up to O(eta^2). (..., P, n)  Paper: Lemma 2

    Raises ValueError where the step loses rank, and for an `out` of another shape or dtype.
    """

    def plain(X: Columns[ArrayT], G: Columns[ArrayT], eta: Any) -> Columns[ArrayT]:
        return renormalize(X - eta * G, layout)

    return fused_step(plain, X, G, eta, layout, lambda M, sums: layout.per_class(sums), renormalisation, project=False, out=out)
