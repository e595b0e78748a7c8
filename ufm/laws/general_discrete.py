"""The discrete scheme renormalize-after-step (paper D.1) as an exact recursion, for any class sizes, ridge and kernel ratio.

With W = diag(q) K S^T, B = S K Pi K and A = B S^T = W^T W, a step X' = renormalize(X - eta grad L_LS Theta) is

    S' = |I - (eta/n) A|^{-1} (S + (eta/n) r s B J),     deviations multiplied by the sign of I - (eta/n) A,

at every step size; for r = infinity (time divided by r) the deviations take no step and S' = S + (eta/n) s B J.

Safe steps. No direction of the deviations is reflected while eta < n / ||W||_2^2. L_LS is constant on fibres, and for fixed W the
loss is quadratic in the features with the Hessian W^T W / n, so that it falls while eta max(r, 1) < 2 n / ||W||_2^2. Over all
features ||W||_2^2 is at most nu / (4 s), nu the largest eigenvalue of J Pi J, and reaches it where G = s v v^T, v its
eigenvector; for equal classes nu = 1 / C and the bound is the 4 C^2 N of `ufm.laws.discrete_singular_values`, times s.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from manifolds.class_centering import whole_number
from manifolds.linalg import Array, ArrayT, epsilon, identity_like, namespace
from manifolds.representation import short_repr
from ufm.interrupt import Interrupted
from ufm.laws.discrete_singular_values import kept_steps
from ufm.laws.general import GeneralLaw
from ufm.laws.general_states import reduced_start
from ufm.laws.thin_svd import singular_values


@dataclass(frozen=True, eq=False, repr=False)
class GeneralDiscreteRun:
    """Steps kept (S,), always the first and the last, omega and u (S, K) at them, descending, and the last state S (P, C)."""

    steps: np.ndarray
    omega: Array
    u: Array
    eta: float
    S: Array
    __repr__ = short_repr

    @property
    def t(self) -> np.ndarray:
        """Flow time eta * step of every kept step. (S,)"""
        return self.eta * self.steps


def safe_step(law: GeneralLaw) -> float:
    """4 s n / nu, over max(1, r / 2): below it no deviation is reflected and the loss falls at every step, from any features."""
    return _safe(law, (law.largest_weight / (4 * law.s)) ** 0.5)


def safe_step_from(law: GeneralLaw, S: Array) -> float:
    """n / ||W||_2^2, over max(1, r / 2): the bound for the next step alone from S (P, C). Infinite at S = 0."""
    W, _ = law.classifier(S)
    return _safe(law, float(namespace(W).linalg.svd(W, full_matrices=False)[1][0]))


def _safe(law: GeneralLaw, norm: float) -> float:
    factor = 2.0 if math.isinf(law.kernel_ratio) else 1 / max(1.0, law.kernel_ratio / 2)
    return factor * law.n / norm / norm if norm > 0 else math.inf


def general_step(law: GeneralLaw, S: ArrayT, eta: float) -> ArrayT:
    """One exact step of the scheme. (P, C) -> (P, C)

    Raises ValueError for eta <= 0 and where the step makes a deviation vanish: the renormalisation does not exist there.
    """
    if not 0 < eta < math.inf:
        raise ValueError(f"eta = {eta}: the step size must be positive and finite")
    S = law.checked_scaled(S)
    basis, start = law.basis(S), reduced_start(law, S)
    return start.U @ basis.expand(_reduced_step(law, start.Z_of(start.sigma), eta))


def _reduced_step(law: GeneralLaw, Z: ArrayT, eta: float) -> ArrayT:
    """`general_step` of Z = U^T S Q, Q a basis orthogonal to q. (m, C-1) -> (m, C-1)"""
    xp, h, ratio = namespace(Z), eta / law.n, law.kernel_ratio
    gain, damped, B = law.reduced_terms(Z, damping=True)
    moved = Z + (eta * (1.0 if math.isinf(ratio) else ratio)) * damped
    if math.isinf(ratio):
        return moved
    A = (law.n * gain) @ B.mT  # U^T W^T W U
    if eta < safe_step(law):  # I - h A is positive definite
        return xp.linalg.solve(identity_like(Z, len(Z)) - h * A, moved)
    values, E = xp.linalg.eigh(A)
    factors = 1 - h * values
    _check_factors(law, factors, eta)
    return E @ ((E.mT @ moved) / abs(factors)[:, None])


def _balanced_step(law: GeneralLaw, sigma: ArrayT, eta: float) -> ArrayT:
    """`_reduced_step` of the singular values alone, for equal classes, whose vectors stay. (K,) -> (K,)"""
    h, ratio, u = eta / (law.n * law.C), law.kernel_ratio, sigma * sigma
    K = 1 / (law.s + u)
    grown = sigma * (1 + (h * law.s * (1.0 if math.isinf(ratio) else ratio)) * K * K)
    if math.isinf(ratio):
        return grown
    factors = 1 - h * u * K * K
    _check_factors(law, factors, eta)
    return grown / abs(factors)


def _check_factors(law: GeneralLaw, factors: Array, eta: float) -> None:
    if bool((abs(factors) <= 4 * epsilon(factors)).any()):  # to rounding
        raise ValueError(f"eta = {eta:g} annihilates a direction of the deviations: choose one below {safe_step(law):g}")


def run_general_discrete(
    law: GeneralLaw, S: Array, eta: float, steps: int, progress: Callable[[int], None] | None = None
) -> GeneralDiscreteRun:
    """`steps` steps of size eta from S (P, C), in the coordinates of its left singular vectors; at most 10,001 of them are kept.

    `progress` gets the number of steps done. Same errors as `general_step`, ValueError for steps < 1; Interrupted, a
    KeyboardInterrupt with the steps kept until then and the state at the last step done, on Ctrl-C.
    """
    if whole_number(steps, "steps") < 1:
        raise ValueError(f"steps = {steps}: at least one step is needed")
    if not 0 < eta < math.inf:
        raise ValueError(f"eta = {eta}: the step size must be positive and finite")
    S = law.checked_scaled(S)
    xp, basis, kept, start = namespace(S), law.basis(S), kept_steps(steps), reduced_start(law, S)
    state, omega, u = start.sigma if law.balanced else start.Z_of(start.sigma), list[Any](), list[Any]()

    def done() -> GeneralDiscreteRun:
        Z = start.Z_of(state) if law.balanced else state
        return GeneralDiscreteRun(kept[: len(u)], xp.stack(omega[: len(u)]), xp.stack(u), float(eta), start.U @ basis.expand(Z))

    try:
        for before, stop in zip([0, *kept[:-1].tolist()], kept.tolist(), strict=True):
            for _ in range(stop - before):
                state = (_balanced_step if law.balanced else _reduced_step)(law, state, eta)
            if law.balanced:
                values = _sorted(state)
                omega.append(law.C**0.5 * values)
            else:
                values = singular_values(state)
                omega.append(singular_values(law.class_means(basis.expand(state))))
            u.append(values**2)
            if progress is not None:
                progress(stop)
    except KeyboardInterrupt:
        if not u:
            raise
        raise Interrupted(done()) from None
    return done()


def _sorted(values: Any) -> Any:
    """Descending. (K,)"""
    return -np.sort(-values) if isinstance(values, np.ndarray) else values.sort(descending=True)[0]
