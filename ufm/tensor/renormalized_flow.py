"""The flows on the full state (Eq. 5; Lemma 4 prints their ambient gradient), numpy or torch: vector fields, steps.

A flow is a small object: a law, and the map that turns an ambient gradient into a velocity. The gradient is any function of X,
the analytic one of L_LS (`central_path_gradient`, `ls_gradient`) or autograd's for a user's own loss (`autograd_gradient`).
X (P, n) has its columns in class blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from manifolds.class_centering import ClassLayout
from manifolds.linalg import Array, ArrayT, array_like, detached, identity_like, namespace, symmetrize
from manifolds.renormalized_gradient_step import renormalized_step
from ufm.arrays import FeatureMatrix, SingularValues
from ufm.features.least_squares import ls_classifier
from ufm.features.singular_value_derivative import singular_value_derivative
from ufm.features.snr import Snr
from ufm.features.spectral_loss import loss_slope
from ufm.features.statistics import block_statistics
from ufm.laws import singular_value_dynamics as laws

if TYPE_CHECKING:
    from torch import Tensor

AmbientGradient = Callable[[FeatureMatrix[Any]], FeatureMatrix[Any]]


class Flow(Protocol):
    """A named flow: its closed law on L_LS and its velocity for any ambient gradient G of any loss."""

    @property
    def name(self) -> str:
        """The name of its law."""
        ...

    @property
    def law(self) -> laws.Law:
        """The closed law of the singular values on L_LS."""
        ...

    def velocity(self, X: FeatureMatrix[ArrayT], G: FeatureMatrix[ArrayT], layout: ClassLayout) -> FeatureMatrix[ArrayT]:
        """dX/dt at X. (P, n)"""
        ...


@dataclass(frozen=True)
class ProjectedFlow:
    """dX/dt = -(G - L B) on the manifold, with the symmetric L that makes it tangent: B = X gives -Pi(G), B = D gives -P(G).

    L is taken tangent to {X : X C_M X^T = S} through the X at hand, not to S = I, to first order in S - I. On the manifold that
    is the projection itself; beside it, it keeps S where it is. With the projection alone a rounding error of S would grow, in
    the embedded flow as exp(omega^2 / C), and eat the deviations.
    """

    law: laws.Law
    base: Callable[[Array, Array], Array]  # of X and D

    @property
    def name(self) -> str:
        """The name of its law."""
        return self.law.name

    def velocity(self, X: FeatureMatrix[ArrayT], G: FeatureMatrix[ArrayT], layout: ClassLayout) -> FeatureMatrix[ArrayT]:
        """-(G - L B). (P, n)"""
        D = layout.deviations(X)
        A = symmetrize(layout.summed(D @ G.mT) / layout.n)
        excess = layout.summed(D @ D.mT) / layout.n - identity_like(X, X.shape[-2])
        base = self.base(X, D)
        del D  # at most two arrays of the size of X beside X and G
        velocity = (A - symmetrize(excess @ A)) @ base
        velocity -= G
        return velocity


@dataclass(frozen=True)
class AmbientFlow:
    """dH/dt = -G in the whole space of features, nothing renormalized (assumption A3 dropped)."""

    law: laws.Law

    @property
    def name(self) -> str:
        """The name of its law."""
        return self.law.name

    def velocity(self, X: FeatureMatrix[ArrayT], G: FeatureMatrix[ArrayT], layout: ClassLayout) -> FeatureMatrix[ArrayT]:
        """-G. (P, n)"""
        del X, layout
        return -G


RENORMALIZED_FLOW = ProjectedFlow(laws.RENORMALIZED, lambda X, D: X)
EMBEDDED_FLOW = ProjectedFlow(laws.EMBEDDED, lambda X, D: D)
UNNORMALIZED_FLOW = AmbientFlow(laws.UNNORMALIZED)
FLOWS: dict[str, Flow] = {flow.name: flow for flow in (RENORMALIZED_FLOW, EMBEDDED_FLOW, UNNORMALIZED_FLOW)}


def central_path_gradient(X: FeatureMatrix[ArrayT], layout: ClassLayout) -> FeatureMatrix[ArrayT]:
    """G = -(1/N) U diag(f) V^T Y + U diag(f omega) U^T X C_M, the gradient of L_LS at a point of the manifold. (P, n)

    The sum of dL_LS / d omega_j = -f_j times the gradient of omega_j (Lemma 3), `singular_value_derivative`.
    Needs X C_M X^T = I, zero global mean and equal classes (ValueError otherwise for the classes; the rest is not checked here:
    `ls_gradient` holds for every X).
    """
    M = layout.means(X)
    M = M - M.mean(-1)[..., None]  # a rounding error of the zero global mean would grow like a singular value, exponentially
    U, omega, Vt = namespace(M).linalg.svd(M, full_matrices=False)
    return -(U * loss_slope(omega, layout.C)) @ singular_value_derivative(X, layout, U, omega, Vt.mT)


def ls_gradient(H: FeatureMatrix[ArrayT], layout: ClassLayout, lam: float = 0.0) -> FeatureMatrix[ArrayT]:
    """grad L_LS(H) = W_LS^T (W_LS H + b_LS 1^T - Y) / n, for any features, any class sizes and any lambda. (P, n)

    By the envelope theorem the least-squares classifier contributes no derivative of its own. Same errors as `ls_classifier`.
    """
    W, b = ls_classifier(block_statistics(H, layout), lam)
    W, b = array_like(W, H), array_like(b, H)
    residual = layout.add_to_means(W @ H + b[:, None], -identity_like(H, layout.C))
    return W.mT @ (residual / layout.n)


def weighted_gradient(
    X: FeatureMatrix[ArrayT], layout: ClassLayout, ridge: float = 0.0, kernel_ratio: float = 1.0
) -> FeatureMatrix[ArrayT]:
    """`central_path_gradient` for any class sizes and a ridge on W, its class means times `kernel_ratio`. (P, n)

    W^T = ((1 + lambda) I + Sigma_B)^{-1} Mbar diag(pi), b = pi: least squares with free bias, for Sigma_W = I and mean zero.
    """
    xp = namespace(X)
    pi = array_like(layout.priors, X)
    M = layout.means(X)
    M = M - (M @ pi)[:, None]
    Wt = xp.linalg.solve((1 + ridge) * identity_like(X, X.shape[-2]) + (M * pi) @ M.mT, M * pi)
    residual = Wt.mT @ M + pi[:, None] - identity_like(X, layout.C)
    G = (Wt / layout.n) @ layout.deviations(Wt.mT @ X)
    return layout.add_to_means(G, (kernel_ratio / layout.n) * (Wt @ residual))


def autograd_gradient(loss: Callable[["Tensor"], "Tensor"]) -> AmbientGradient:
    """The ambient gradient of a user's own torch loss X -> scalar, as a function X -> (P, n)."""

    def gradient(X: ArrayT) -> ArrayT:
        point: Any = detached(X)
        point.requires_grad_(True)
        (G,) = namespace(X).autograd.grad(loss(point), point)
        return G

    return gradient


def central_path_field(
    flow: Flow, layout: ClassLayout, ridge: float = 0.0, kernel_ratio: float = 1.0, feature_decay: float = 0.0
) -> AmbientGradient:
    """The velocity X -> dX/dt of `flow` on L_LS, from its projection and the analytic gradient. (P, n) -> (P, n)

    Any class sizes; the ridge is for features on the manifold, the decay for the unnormalized flow.
    """
    if isinstance(flow, AmbientFlow):
        return lambda X: flow.velocity(X, _decayed_gradient(X, layout, kernel_ratio, feature_decay), layout)
    gradient = manifold_gradient(layout, ridge, kernel_ratio)
    return lambda X: flow.velocity(X, gradient(X), layout)


def manifold_gradient(layout: ClassLayout, ridge: float = 0.0, kernel_ratio: float = 1.0) -> AmbientGradient:
    """The gradient of L_LS on the manifold by the means' SVD for equal classes alone, by a solve otherwise. (P, n) -> (P, n)"""
    if layout.balanced and ridge == 0 and kernel_ratio == 1:
        return lambda X: central_path_gradient(X, layout)
    return lambda X: weighted_gradient(X, layout, ridge, kernel_ratio)


def _decayed_gradient(
    H: FeatureMatrix[ArrayT], layout: ClassLayout, kernel_ratio: float, feature_decay: float
) -> FeatureMatrix[ArrayT]:
    G = ls_gradient(H, layout)
    if kernel_ratio != 1:
        G = layout.add_to_means(G, (kernel_ratio - 1) * layout.means(G))
    return G + feature_decay * H if feature_decay else G


def renormalize_after_step(
    X: FeatureMatrix[ArrayT], eta: float, gradient: AmbientGradient, layout: ClassLayout
) -> FeatureMatrix[ArrayT]:
    """renormalize(X - eta G(X)), one step of the paper's discrete scheme D.1, for any loss. (P, n)"""
    return renormalized_step(X, gradient(X), eta, layout)


def advance_means(
    X: FeatureMatrix[ArrayT],
    start: Snr[ArrayT],
    omega_from: SingularValues[ArrayT],
    omega_to: SingularValues[ArrayT],
    layout: ClassLayout,
) -> FeatureMatrix[ArrayT]:
    """X + U diag(omega_to - omega_from) V^T Y written into X: the exact step of laws (a), (b) and of the scheme (d). (P, n)

    Only the class means move on the manifold, so this reads and writes X once and needs no second X. omega_* (K,).
    """
    xp = namespace(X)
    dM = (start.left_vectors * (omega_to - omega_from)) @ start.V.mT
    return layout.add_to_means(X, dM.astype(X.dtype) if xp.__name__ == "numpy" else dM.to(X.dtype))


def advance_unnormalized(
    H: FeatureMatrix[ArrayT],
    start: Snr[ArrayT],
    omega_from: SingularValues[ArrayT],
    omega_to: SingularValues[ArrayT],
    layout: ClassLayout,
) -> FeatureMatrix[ArrayT]:
    """The exact step of law (c) written into H, started from H H^T / n = I. (P, n)

    With q = omega^2 / (C + omega^2): class means U diag(sqrt(C q)) V^T, deviations along u_j shrink as sqrt(1 - q).
    """
    C, U = layout.C, start.left_vectors
    means_from, means_to = ((C / (C + w * w)) ** 0.5 * w for w in (omega_from, omega_to))
    shrink = ((C + omega_from**2) / (C + omega_to**2)) ** 0.5
    along = U.mT @ H
    H += (U * (shrink - 1)) @ along
    return layout.add_to_means(H, (U * (means_to - shrink * means_from)) @ start.V.mT)
