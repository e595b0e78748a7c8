"""The joint flow with what errors of its start do to it, to first order: the variational equations of the Strang steps.

The derivative of f(A), A = F diag(a) F^T, is F (f[a_i, a_j] * F^T dA F) F^T with the divided differences of f (Daleckii & Krein
1965), so one decomposition a step serves all starts. Tangents have the number of their start as middle index, dZ (C, B, P + 1) of
[W, b] and dX (P, B, C + P) of [M, D], so that every product with a matrix is a single one.
"""

from collections.abc import Callable

import numpy as np

from ufm.compare.coordinates import Entry
from ufm.compare.motions import FlowState

Reference = tuple[np.ndarray, np.ndarray]  # [W, b] and [M, D]
Tangent = tuple[np.ndarray, np.ndarray]  # dZ and dX


class JointTangents:
    """Steps of (W, b, M, D, dZ, dX) under the flow of `ufm.compare.joint_motion`, W and b kappa / n times as fast as features."""

    def __init__(self, entry: Entry, kappa: float) -> None:
        self.entry, self.kappa = entry, kappa
        self.priors, self.q = entry.priors, np.sqrt(entry.priors)
        (self.P, self.C), self.Y = entry.M.shape, np.eye(len(entry.priors))
        self.penalty = np.diag(np.r_[np.full(self.P, entry.decay_w), 0.0])

    def start(self, M: np.ndarray, D: np.ndarray, dM: np.ndarray) -> FlowState:
        """The state of the entry's W and b, class means M (P, C) with their mean, a factor D of Sigma_W, and B starts whose class
        means differ by dM (B, P, C).
        """
        dX = np.zeros((self.P, len(dM), self.C + self.P))
        dX[:, :, : self.C] = dM.transpose(1, 0, 2)
        return self.entry.W, self.entry.b, M, D, np.zeros((self.C, len(dM), self.P + 1)), dX

    def both(self, state: FlowState, h: float) -> tuple[FlowState, FlowState]:
        """Two Strang steps of h / 2, whose inner halves are one, and one of h."""
        W, b, M, D, dZ, dX = state
        Z, X = np.hstack([W, b[:, None]]), np.hstack([M, D])
        move = self._features(Z, dZ)
        whole = self._strang(move(X, dX, h / 2), (Z, dZ), h)
        X, dX = move(X, dX, h / 4)
        Z, dZ = self._classifier(Z, X, dZ, dX, h / 2)
        halves = self._strang(self._features(Z, dZ)(X, dX, h / 2), (Z, dZ), h / 2)
        return self._state(*halves), self._state(*whole)

    def gram(self, state: FlowState) -> np.ndarray:
        """G of the first start and of the others. (1 + B, C, C)"""
        _, _, M, D, _, dX = state
        centred = (self.Y - np.outer(self.priors, np.ones(self.C))) * self.q
        white = np.linalg.solve(D, M @ centred)
        twice = np.linalg.solve(D.T, white)  # Sigma_W^{-1} S
        G = white.T @ white
        half = _over_first(twice.T, dX @ np.vstack([centred, -white]))
        return np.concatenate([G[None], G + (half + half.transpose(2, 1, 0)).transpose(1, 0, 2)])

    def _state(self, features: Reference, classifier: Reference) -> FlowState:
        (X, dX), (Z, dZ) = features, classifier
        return Z[:, : self.P], Z[:, self.P], X[:, : self.C], X[:, self.C :], dZ, dX

    def _strang(self, features: Reference, classifier: Reference, h: float) -> tuple[Reference, Reference]:
        """The rest of a Strang step of h whose first half the features have moved."""
        (X, dX), (Z, dZ) = features, classifier
        Z, dZ = self._classifier(Z, X, dZ, dX, h)
        return self._features(Z, dZ)(X, dX, h / 2), (Z, dZ)

    def _features(self, Z: np.ndarray, dZ: np.ndarray) -> Callable[[np.ndarray, np.ndarray, float], Reference]:
        """Steps of [M, D] with a classifier that stands still: exp(-h W^T W) = I + W^T f(W W^T) W, f(a) = (exp(-h a) - 1) / a."""
        W, b, dW, db = Z[:, : self.P], Z[:, self.P], np.ascontiguousarray(dZ[:, :, : self.P]), dZ[:, :, self.P]
        a, U = np.linalg.eigh(W @ W.T)
        a = np.clip(a, 0, None)
        half = dW @ W.T
        change = _over_first(U.T, half + half.transpose(2, 1, 0)) @ U  # of W W^T in its eigenbasis
        columns = np.ascontiguousarray(dW.transpose(2, 1, 0))  # (P, B, C)
        decay = self.entry.decay_h

        def move(X: np.ndarray, dX: np.ndarray, h: float) -> Reference:
            _, kept, _, of_kept = relaxation(a, h, divided=True)
            _, drive, _, of_drive = relaxation(a + decay, h, divided=True)
            assert of_kept is not None
            assert of_drive is not None
            rest, pull = np.exp(-h * decay), self.Y - b[:, None]
            kept, of_kept = -rest * kept, -rest * of_kept
            K, drive = (U * kept) @ U.T, (U * drive) @ U.T
            seen = W @ X
            inner = K @ seen
            inner[:, : self.C] += drive @ pull
            moved = _over_first(K, dW @ X + _over_first(W, dX)) + _over_first(U, change * of_kept[:, None]) @ (U.T @ seen)
            moved[:, :, : self.C] += _over_first(U, change * of_drive[:, None]) @ (U.T @ pull) - (drive @ db)[:, :, None]
            return rest * X + W.T @ inner, rest * dX + columns @ inner + _over_first(W.T, moved)

        return move

    def _classifier(self, Z: np.ndarray, X: np.ndarray, dZ: np.ndarray, dX: np.ndarray, h: float) -> Reference:
        """[W, b] after kappa h with features that stand still, in the eigenbasis of the second moment of these and 1."""
        C, P = self.C, self.P
        S = np.vstack([X[:, :C], np.ones(C)]) * self.q
        second = S @ S.T + self.penalty
        second[:P, :P] += X[:, C:] @ X[:, C:].T
        a, F = np.linalg.eigh(second)
        growth, drive, of_growth, of_drive = relaxation(a, self.kappa * h, divided=True)
        assert of_growth is not None
        assert of_drive is not None
        now, target = Z @ F, (S * self.q).T @ F
        root = np.hstack([S[:, :C] * self.q, np.vstack([X[:, C:], np.zeros(P)])])  # of the second moment, as dX changes it
        half = _over_first(F[:P].T, dX @ (root.T @ F))
        change = half + half.transpose(2, 1, 0)  # of the second moment in its eigenbasis
        of_change = now.T * of_growth[..., None] + target.T * of_drive[..., None]  # (P + 1, P + 1, C)
        means = np.ascontiguousarray((dX[:, :, :C] * self.priors).transpose(2, 1, 0))
        moved = (1 + growth) * (dZ @ F) + drive * (means @ F[:P]) + (change @ of_change).transpose(2, 1, 0)
        return (now + growth * now + drive * target) @ F.T, moved @ F.T


def _over_first(A: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A x over the first index of x. (m, n), (n, B, k) -> (m, B, k)"""
    return (A @ x.reshape(len(x), -1)).reshape(len(A), *x.shape[1:])


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
