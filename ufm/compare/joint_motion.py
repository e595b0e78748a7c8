"""The joint flow of features and classifier (`ufm.laws.joint`), from any start and from many at once."""

from collections.abc import Callable

import numpy as np

from ufm.compare.coordinates import Entry
from ufm.compare.joint_tangents import JointTangents, relaxation
from ufm.compare.motions import ROUGH_SPLIT, FlowState, Motion, extrapolated

PLACES_BENT_AT_FIRST = 15, 1.5  # of a response, which bends most at first: more accurate than 20 evenly spaced ones
FAST = 30.0  # kappa, from which on a classifier follows within a long step, whose halves and whole then differ before paths do


def joint_motion(entry: Entry, kappa: float, turns: np.ndarray | None = None) -> Motion:
    """Gradient flow of (W, b, H) on 1/2 Ave ||W h + b - y||^2, W and b kappa / n times as fast, with weight decays.

    The state is (W, b, M with its mean, a factor D of Sigma_W). It is linear in (M, D) given (W, b) and the reverse: in a Strang
    step either half moves exactly while the other stands still. Two halves of a step and the whole are extrapolated to fourth
    order, and halved again where they differ; the cheaper step does without the last. Many starts are taken to first order in
    what they differ from the first one by (`ufm.compare.joint_tangents`).
    turns (B, C, C): from S T for every T of them instead of S = M diag(q), all at once.
    Raises ValueError without a measured classifier.
    """
    if entry.W is None or entry.b is None or entry.mean is None:
        raise ValueError("the joint flow needs the classifier W and b of the entry")
    priors, C, P = entry.priors, len(entry.priors), len(entry.M)
    q, Y = np.sqrt(priors), np.eye(C)
    values, E = np.linalg.eigh(entry.sigma_w)
    D0 = E * np.sqrt(np.clip(values, 0, None))
    penalty = np.diag(np.r_[np.full(P, entry.decay_w), 0.0])

    def modes(W: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The eigenvalues (C, 1) and vectors U of W W^T, and U^T W."""
        a, U = np.linalg.eigh(W @ W.mT)
        return np.clip(a, 0, None)[..., None], U, U.mT @ W

    def features(
        of_W: tuple[np.ndarray, np.ndarray, np.ndarray], b: np.ndarray, M: np.ndarray, D: np.ndarray, h: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """M and D after h: dM/dt = -W^T (W M + b - I) - decay_h M and dD/dt = -W^T W D - decay_h D, in the eigenbasis of W W^T:
        exp(-h W^T W) = I + W^T f(W W^T) W, f(a) = (exp(-h a) - 1) / a.
        """
        a, U, rows = of_W
        fall = a + entry.decay_h
        rest = np.exp(-h * entry.decay_h)
        kept = rest * np.where(a > 0, np.expm1(-h * a) / np.where(a > 0, a, 1.0), -h)
        drive = np.where(fall > 0, -np.expm1(-h * fall) / np.where(fall > 0, fall, 1.0), h)
        pull = U.mT @ (Y - b[..., None])
        M = rest * M + rows.mT @ (kept * (rows @ M) + drive * pull)
        return M, rest * D + rows.mT @ (kept * (rows @ D))

    def second_moment(M: np.ndarray, D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[S; q] (P + 1, C) and the second moment of the features and 1, with the decay of W. S = M diag(q)"""
        S = np.concatenate([M, np.ones((*M.shape[:-2], 1, C))], axis=-2) * q
        second = S @ S.mT + penalty
        second[..., :P, :P] += D @ D.mT
        return S, second

    def classifier(W: np.ndarray, b: np.ndarray, M: np.ndarray, D: np.ndarray, h: float) -> tuple[np.ndarray, np.ndarray]:
        """W and b after kappa h, in the eigenbasis of the second moment of the features and 1."""
        S, second = second_moment(M, D)
        a, F = np.linalg.eigh(second)
        growth, drive, _, _ = relaxation(a, kappa * h)
        now, target = np.concatenate([W, b[..., None]], axis=-1) @ F, (S * q).mT @ F
        moved = (now + growth[..., None, :] * now + drive[..., None, :] * target) @ F.mT
        return moved[..., :P], moved[..., P]

    def both(state: FlowState, h: float) -> tuple[FlowState, FlowState]:
        """Two Strang steps of h / 2, whose inner halves are one, and one of h."""
        W0, b0, M0, D0 = state
        first = modes(W0)
        M, D = features(first, b0, M0, D0, h / 2)
        W, b = classifier(W0, b0, M, D, h)
        whole = W, b, *features(modes(W), b, M, D, h / 2)
        M, D = features(first, b0, M0, D0, h / 4)
        W, b = classifier(W0, b0, M, D, h / 2)
        M, D = features(modes(W), b, M, D, h / 2)
        W, b = classifier(W, b, M, D, h / 2)
        return (W, b, *features(modes(W), b, M, D, h / 4)), whole

    def gram(state: FlowState) -> np.ndarray:
        _, _, M, D = state
        S = (M - (M @ priors)[..., None]) * q
        white = np.linalg.solve(D, S)
        return white.mT @ white

    M0 = entry.M if turns is None else (entry.M * q) @ turns / q
    W0, b0 = entry.W, entry.b
    if turns is not None:
        W0, b0, D0 = (np.broadcast_to(x, (len(turns), *x.shape)) for x in (W0, b0, D0))
    sizes = (0.0, float(priors.min()), 0.0, 0.0)  # b may begin at 0 on its way to the priors
    M0 = M0 + entry.mean[:, None]
    if turns is None or len(turns) == 1:
        return _motion((W0, b0, M0, D0), both, gram, kappa, sizes)
    tangents = JointTangents(entry, kappa)
    start = tangents.start(M0[0], D0[0], M0[1:] - M0[0])
    return _motion(start, tangents.both, tangents.gram, kappa, sizes, lambda state, h: both(state[:4], h))


def _motion(
    state: FlowState,
    both: Callable[[FlowState, float], tuple[FlowState, FlowState]],
    gram: Callable[[FlowState], np.ndarray],
    kappa: float,
    sizes: tuple[float, ...],
    watched: Callable[[FlowState, float], tuple[FlowState, FlowState]] | None = None,
) -> Motion:
    step = extrapolated(both, sizes=sizes, watched=watched)
    rough = extrapolated(both, sizes=sizes, split=ROUGH_SPLIT, watched=watched)
    return Motion(state, step, gram, extrapolated(both, 0, sizes) if kappa < FAST else rough, rough, PLACES_BENT_AT_FIRST)
