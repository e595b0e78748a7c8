"""The joint flow of features and classifier (`ufm.laws.joint`), from any start and from many at once."""

from collections.abc import Callable
from functools import partial

import numpy as np

from ufm.compare.coordinates import Entry
from ufm.compare.motions import ROUGH_SPLIT, FlowState, Motion, extrapolated

FAST = 30.0  # kappa, from which on a classifier follows within a long step, whose halves and whole then differ before paths do


def joint_motion(entry: Entry, kappa: float, turns: np.ndarray | None = None) -> Motion:
    """Gradient flow of (W, b, H) on 1/2 Ave ||W h + b - y||^2, W and b kappa / n times as fast, with weight decays.

    The state is (W, b, M with its mean, a factor D of Sigma_W). It is linear in (M, D) given (W, b) and the reverse: in a Strang
    step either half moves exactly while the other stands still. Two halves of a step and the whole are extrapolated to fourth
    order, and halved again where they differ; the cheaper step does without the last. The classifiers of many starts are taken to
    first order in what their features differ from the first ones by.
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

    def classifier_near(W: np.ndarray, b: np.ndarray, M: np.ndarray, D: np.ndarray, h: float) -> tuple[np.ndarray, np.ndarray]:
        """The same to first order in what the second moments differ from the first one by, in the eigenbasis of that alone."""
        ones = np.ones((len(M), 1, C))
        S, second = second_moment(M[0], D[0])
        a, F = np.linalg.eigh(second)
        growth, drive, of_growth, of_drive = relaxation(a, kappa * h, divided=True)
        assert of_growth is not None
        assert of_drive is not None
        S = np.concatenate([M, ones], axis=-2) * q
        now, target = np.concatenate([W, b[..., None]], axis=-1) @ F, (S * q).mT @ F
        moved = now + growth * now + drive * target
        root = np.zeros((len(M), P + 1, C + P))  # of the second moments
        root[:, :, :C], root[:, :P, C:] = S, D
        half = F.T @ ((root - root[0]).reshape(-1, C + P) @ (root[0].T @ F)).reshape(len(M), P + 1, P + 1)
        change = half + half.mT
        of_change = now[0] * of_growth[:, None] + target[0] * of_drive[:, None]  # (P + 1, C, P + 1): symmetric in P + 1
        moved += (change.transpose(1, 0, 2) @ of_change.mT).transpose(1, 2, 0)
        moved = moved @ F.T
        return moved[..., :P], moved[..., P]

    def both(
        state: FlowState, h: float, classifier: Callable[..., tuple[np.ndarray, np.ndarray]] = classifier
    ) -> tuple[FlowState, FlowState]:
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
    pair = both if turns is None else partial(both, classifier=classifier_near)
    step, rough = extrapolated(pair, sizes=sizes), extrapolated(pair, sizes=sizes, split=ROUGH_SPLIT)
    quick = extrapolated(pair, 0, sizes) if kappa < FAST else rough
    return Motion((W0, b0, M0 + entry.mean[:, None], D0), step, gram, quick, rough)


def relaxation(
    a: np.ndarray, time: float, divided: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """exp(-t a) - 1 and (1 - exp(-t a)) / a of eigenvalues a (..., m), and, of one set of them in ascending order, their divided
    differences (m, m), which are the first-order changes of the functions of a matrix (Daleckii & Krein 1965).
    """
    a = np.clip(a, 0, None)
    growth = np.expm1(-time * a)
    drive = np.where(a > 0, -growth / np.where(a > 0, a, 1.0), time)
    if not divided:
        return growth, drive, None, None
    gap = time * abs(a[:, None] - a)
    smaller, larger = np.minimum(a[:, None], a), np.maximum(a[:, None], a)
    of_growth = -time * np.exp(-time * smaller) * np.where(gap > 0, -np.expm1(-gap) / np.where(gap > 0, gap, 1.0), 1.0)
    index = np.arange(len(a))
    of_smaller = drive[np.minimum(index[:, None], index)]
    of_drive = np.where(larger > 0, -(of_growth + of_smaller) / np.where(larger > 0, larger, 1.0), -(time**2) / 2)
    return growth, drive, of_growth, of_drive
