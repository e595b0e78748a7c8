"""The discrete scheme renormalize-after-step (paper D.1) as an exact recursion, for any class sizes, ridge and kernel ratio.

With W = diag(q) K S^T, B = S K Pi K and A = B S^T = W^T W, a step X' = renormalize(X - eta grad L_LS Theta) is

    S' = |I - (eta/n) A|^{-1} (S + (eta/n) r s B J),     deviations multiplied by the sign of I - (eta/n) A,

at every step size; for r = infinity (time divided by r) the deviations take no step and S' = S + (eta/n) s B J.

Safe steps. No direction of the deviations is reflected while eta < n / ||W||_2^2. L_LS is constant on fibres, and for fixed W the
loss is quadratic in the features with the Hessian W^T W / n, so that it falls while eta max(r, 1) < 2 n / ||W||_2^2. Over all
features ||W||_2^2 is at most nu / (4 s), nu the largest eigenvalue of J Pi J, and reaches it where G = s v v^T, v its
eigenvector; for equal classes nu = 1 / C and the bound is the 4 C^2 N of `ufm.laws.discrete`, times s.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from manifolds.linalg import Array, ArrayT, epsilon, namespace
from ufm.laws.discrete import kept_steps
from ufm.laws.general import GeneralLaw


@dataclass(frozen=True, eq=False)
class GeneralDiscreteRun:
    """Steps kept (S,), always the first and the last, omega and u (S, K) at them, descending, and the last state S (P, C)."""

    steps: np.ndarray
    omega: Array
    u: Array
    eta: float
    S: Array

    @property
    def t(self) -> np.ndarray:
        """Flow time eta * step of every kept step. (S,)"""
        return self.eta * self.steps


def safe_step(law: GeneralLaw) -> float:
    """4 s n / nu, over max(1, r / 2): below it no deviation is reflected and the loss falls at every step, from any features."""
    J = np.eye(law.C) - np.sqrt(np.outer(law.priors, law.priors))
    nu = float(np.linalg.eigvalsh(J * law.priors @ J)[-1])
    return _safe(law, nu / (4 * law.s))


def safe_step_from(law: GeneralLaw, S: Array) -> float:
    """n / ||W||_2^2, over max(1, r / 2): the bound for the next step alone from S (P, C)."""
    W, _ = law.classifier(S)
    return _safe(law, float(namespace(W).linalg.svd(W, full_matrices=False)[1][0]) ** 2)


def _safe(law: GeneralLaw, squared_norm: float) -> float:
    if math.isinf(law.kernel_ratio):
        return 2 * law.n / squared_norm
    return law.n / (squared_norm * max(1.0, law.kernel_ratio / 2))


def general_step(law: GeneralLaw, S: ArrayT, eta: float) -> ArrayT:
    """One exact step of the scheme. (P, C) -> (P, C)

    Raises ValueError for eta <= 0 and where the step makes a deviation vanish: the renormalisation does not exist there.
    """
    if not 0 < eta < math.inf:
        raise ValueError(f"eta = {eta}: the step size must be positive and finite")
    S = law.checked(S)
    xp, basis, s, h, ratio = namespace(S), law.basis(S), law.s, eta / law.n, law.kernel_ratio
    U, sigma, Vt = xp.linalg.svd(basis.reduce(S), full_matrices=False)
    Vt, damping = basis.expand(Vt), 1 / (s + sigma * sigma)
    weighted = (sigma * damping)[:, None] * Vt * law.priors_like(S)  # U^T S K Pi
    inner = weighted @ Vt.mT
    gain = (inner * damping) @ Vt  # U^T B J on the span of V, then beside it
    if len(sigma) < law.C - 1:
        q = law.priors_like(S) ** 0.5
        gain = gain + (weighted - inner @ Vt - (weighted @ q)[:, None] * q) / s
    moved = sigma[:, None] * Vt + (h * s * (1.0 if math.isinf(ratio) else ratio)) * gain
    if math.isinf(ratio):
        return U @ moved
    values, E = xp.linalg.eigh(inner * (sigma * damping))  # of U^T W^T W U
    factors = 1 - h * values
    if bool((abs(factors) <= 4 * epsilon(S)).any()):  # to rounding
        raise ValueError(f"eta = {eta:g} annihilates a direction of the deviations: choose one below {safe_step(law):g}")
    return (U @ E) @ ((E.mT @ moved) / abs(factors)[:, None])


def run_general_discrete(
    law: GeneralLaw, S: Array, eta: float, steps: int, progress: Callable[[int], None] | None = None
) -> GeneralDiscreteRun:
    """`steps` steps of size eta from S (P, C), in the coordinates of its left singular vectors; at most 10,001 of them are kept.

    `progress` gets the number of steps done, and may stop the run by raising. Same errors as `general_step`, ValueError for
    steps < 1.
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}: at least one step is needed")
    S = law.checked(S)
    xp, K, kept = namespace(S), min(law.C - 1, S.shape[0]), kept_steps(steps)
    U = xp.linalg.svd(S, full_matrices=False)[0][:, :K]
    Z = U.mT @ S
    omega, u = [], []
    for start, stop in zip([0, *kept[:-1].tolist()], kept.tolist(), strict=True):
        for _ in range(stop - start):
            Z = general_step(law, Z, eta)
        omega.append(xp.linalg.svd(law.class_means(Z), full_matrices=False)[1])
        u.append(xp.linalg.svd(Z, full_matrices=False)[1] ** 2)
        if progress is not None:
            progress(stop)
    return GeneralDiscreteRun(kept, xp.stack(omega), xp.stack(u), float(eta), U @ Z)
