"""The flow of a linear last layer over fixed features (`ufm.ledger.last_layer`), from any start and from many at once."""

import numpy as np

from ufm.compare.coordinates import Entry
from ufm.compare.motions import Motion, extrapolated, halves_and_whole

SMALLEST_SQUARE = 1e-300


def layer_motion(entry: Entry, turns: np.ndarray | None = None) -> Motion:
    """dA/dt = W^T (R - W A S), W = R A^T (A S A^T)^{-1}: A A^T is conserved, omega ends at that of the layer below.

    Exponential midpoint: for W held, every entry of A in the singular basis of W and the eigenbasis of S relaxes on its own.
    turns (B, C, C): from class means of the layer with M diag(q) T for every T of them, all at once.
    Raises ValueError without the statistics of the layer below, and where S is singular.
    """
    if entry.layer is None:
        raise ValueError("the model layer needs the last linear map and the class statistics of the layer below")
    priors, below = entry.priors, entry.layer
    q = np.sqrt(priors)
    scaled = below.M * q if turns is None else (below.M * q) @ turns
    s, E = np.linalg.eigh(below.sigma_w + scaled @ scaled.mT)
    if not s.min() > 0:
        raise ValueError("Sigma_T of the layer below is singular: reduce it to the range of its Sigma_W first")
    s = s[..., None, :]
    means = E.mT @ scaled  # (..., d, C)
    R = q[:, None] * means.mT
    within = E.mT @ below.sigma_w @ E

    def classifier(A: np.ndarray) -> np.ndarray:
        return np.linalg.solve((A * s) @ A.mT, A @ R.mT).mT

    def advance(A: np.ndarray, W: np.ndarray, h: float) -> np.ndarray:
        _, w, Vt = np.linalg.svd(W, full_matrices=False)
        fall = w[..., None] ** 2 * s
        shrunk = np.expm1(-h * fall)
        pull = Vt @ W.mT @ R
        return A + Vt.mT @ (shrunk * (Vt @ A) - shrunk / np.maximum(fall, SMALLEST_SQUARE) * pull)

    def step(state: tuple[np.ndarray], h: float) -> tuple[np.ndarray]:
        (A,) = state
        middle = advance(A, classifier(A), h / 2)
        return (advance(A, classifier(middle), h),)

    def gram(state: tuple[np.ndarray]) -> np.ndarray:
        (A,) = state
        S = A @ means
        return S.mT @ np.linalg.solve(A @ within @ A.mT, S)

    both = halves_and_whole(step)
    return Motion((below.A @ E,), extrapolated(both), gram, extrapolated(both, 0))
