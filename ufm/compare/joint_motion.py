"""The joint flow of features and classifier (`ufm.laws.joint`), from any start and from many at once."""

import numpy as np

from ufm.compare.coordinates import Entry
from ufm.compare.motions import FlowState, Motion, extrapolated


def joint_motion(entry: Entry, kappa: float, turns: np.ndarray | None = None) -> Motion:
    """Gradient flow of (W, b, H) on 1/2 Ave ||W h + b - y||^2, W and b kappa / n times as fast, with weight decays.

    The state is (W, b, M with its mean, a factor D of Sigma_W). It is linear in (M, D) given (W, b) and the reverse: in a Strang
    step either half moves exactly while the other stands still. Two halves of a step and the whole are extrapolated to fourth
    order, and halved again where they differ.
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

    def features(W: np.ndarray, b: np.ndarray, M: np.ndarray, D: np.ndarray, h: float) -> tuple[np.ndarray, np.ndarray]:
        """M and D after h: dM/dt = -W^T (W M + b - I) - decay_h M and dD/dt = -W^T W D - decay_h D, in the eigenbasis of W W^T:
        exp(-h W^T W) = I + W^T f(W W^T) W, f(a) = (exp(-h a) - 1) / a.
        """
        a, U = np.linalg.eigh(W @ W.mT)
        a = np.clip(a, 0, None)[..., None]
        fall, rows = a + entry.decay_h, U.mT @ W
        rest = np.exp(-h * entry.decay_h)
        kept = rest * np.where(a > 0, np.expm1(-h * a) / np.where(a > 0, a, 1.0), -h)
        drive = np.where(fall > 0, -np.expm1(-h * fall) / np.where(fall > 0, fall, 1.0), h)
        pull = U.mT @ (Y - b[..., None])
        M = rest * M + rows.mT @ (kept * (rows @ M) + drive * pull)
        return M, rest * D + rows.mT @ (kept * (rows @ D))

    def classifier(W: np.ndarray, b: np.ndarray, M: np.ndarray, D: np.ndarray, h: float) -> tuple[np.ndarray, np.ndarray]:
        """W and b after kappa h, in the eigenbasis of the second moment of the features and 1."""
        ones = np.ones((*M.shape[:-2], 1, C))
        S = np.concatenate([M, ones], axis=-2) * q
        second = S @ S.mT + penalty
        second[..., :P, :P] += D @ D.mT
        a, F = np.linalg.eigh(second)
        a = a[..., None, :]
        target = (S * q).mT @ F
        now = np.concatenate([W, b[..., None]], axis=-1) @ F
        growth = np.expm1(-kappa * h * np.clip(a, 0, None))
        moved = now + growth * now - growth / np.where(a > 0, a, 1.0) * target
        moved = moved @ F.mT
        return moved[..., :P], moved[..., P]

    def strang(state: FlowState, h: float) -> FlowState:
        W, b, M, D = state
        M, D = features(W, b, M, D, h / 2)
        W, b = classifier(W, b, M, D, h)
        M, D = features(W, b, M, D, h / 2)
        return W, b, M, D

    def gram(state: FlowState) -> np.ndarray:
        _, _, M, D = state
        S = (M - (M @ priors)[..., None]) * q
        white = np.linalg.solve(D, S)
        return white.mT @ white

    M0 = entry.M if turns is None else (entry.M * q) @ turns / q
    W0, b0 = entry.W, entry.b
    if turns is not None:
        W0, b0, D0 = (np.broadcast_to(x, (len(turns), *x.shape)) for x in (W0, b0, D0))
    return Motion((W0, b0, M0 + entry.mean[:, None], D0), extrapolated(strang), gram, extrapolated(strang, 0))
