"""Are the singular vectors frozen, as every law says? Angles at later epochs against the entry."""

from dataclasses import dataclass

import numpy as np

from manifolds.representation import short_repr
from ufm.laws.trajectory import Trajectory


@dataclass(frozen=True, eq=False, repr=False)
class Frozen:
    """Angles in radians between the entry and every epoch compared.

    subspace_u, subspace_v   largest principal angle between the spans of U (of V); with K = C-1, V always spans the same
    angle_u, angle_v         (T, K) of every single vector, meaningful where its singular value keeps apart from the others
    rotated                  (T,) share of ||SNR||_F^2 outside the diagonal of U_0^T SNR(t) V_0; 0 while vectors are frozen, also
                             where equal singular values leave their vectors undefined
    """

    subspace_u: np.ndarray | None
    subspace_v: np.ndarray
    angle_u: np.ndarray | None
    angle_v: np.ndarray
    rotated: np.ndarray | None
    __repr__ = short_repr


def frozen_vectors(run: Trajectory) -> Frozen | None:
    """The angles of a measured trajectory, None for one whose vectors were not measured at every time."""
    V, U = run.V_t, run.U_t
    if V is None:
        return None
    subspace_v = np.array([largest_principal_angle(V[0], later) for later in V])
    angle_v = _angles(V)
    if U is None:
        return Frozen(None, subspace_v, None, angle_v, None)
    subspace_u = np.array([largest_principal_angle(U[0], later) for later in U])
    return Frozen(subspace_u, subspace_v, _angles(U), angle_v, _rotated(run.omega, U, V))


def largest_principal_angle(A: np.ndarray, B: np.ndarray) -> float:
    """Between the spans of orthonormal columns A and B (m, K), accurate for small angles too (Knyazev & Argentati 2002)."""
    inside = A.T @ B
    sine = np.linalg.norm(B - A @ inside, 2)
    if sine < 0.7:
        return float(np.arcsin(sine))
    return float(np.arccos(min(np.linalg.svd(inside, compute_uv=False)[-1], 1.0)))


def _angles(vectors: np.ndarray) -> np.ndarray:
    """Of every column with itself at first, signs left aside. (T, m, K) -> (T, K)"""
    first = vectors[0]
    flip = np.where((vectors * first).sum(1) < 0, -1.0, 1.0)[:, None, :]
    # 2 arcsin(|a - b| / 2) keeps the small angles that arccos(a . b) rounds away
    return 2 * np.arcsin(np.clip(np.linalg.norm(vectors * flip - first, axis=1) / 2, 0, 1))


def _rotated(omega: np.ndarray, U: np.ndarray, V: np.ndarray) -> np.ndarray:
    left, right = np.einsum("pj,tpk->tjk", U[0], U), np.einsum("cj,tck->tjk", V[0], V)
    diagonal = np.einsum("tjk,tk,tjk->tj", left, omega, right)
    return np.clip(1 - (diagonal**2).sum(1) / (omega**2).sum(1), 0, 1)
