"""The semidefinite relaxation of the layer-peeled model, through cvxpy: a bound that is attained for P >= C - 1."""

import numpy as np
import torch

from ufm.arrays import as_numpy
from ufm.models.objective.feasible import Feasible
from ufm.models.objective.losses import CrossEntropy
from ufm.models.objective.peeled import Peeled, Point
from ufm.models.solvers.contract import Objective, Observe


def semidefinite_minimum(priors: np.ndarray, energy: float) -> tuple[float, np.ndarray]:
    """min sum_k pi_k CE(Z e_k) over PSD [[A, Z^T], [Z, B]] (2K x 2K), tr A <= K E, tr B <= K E, E = sqrt(E_H E_W).

    A = M^T M and B = W W^T for class means M and classifier W, both scaled to one energy. Returns the minimum and the matrix.
    Raises ValueError without cvxpy, RuntimeError where its solver fails.
    """
    try:
        import cvxpy as cp
    except ImportError as error:
        raise ValueError("the SDP relaxation needs cvxpy: pip install 'neural-collapse-flow[models]'") from error

    K = len(priors)
    X = cp.Variable((2 * K, 2 * K), PSD=True)
    Z = X[K:, :K]
    loss = sum(pi * (cp.log_sum_exp(Z[:, k]) - Z[k, k]) for k, pi in enumerate(priors))
    problem = cp.Problem(cp.Minimize(loss), [cp.trace(X[:K, :K]) <= K * energy, cp.trace(X[K:, K:]) <= K * energy])
    problem.solve(solver=cp.CLARABEL)
    if problem.status != "optimal":
        raise RuntimeError(f"cvxpy's Clarabel ended with status {problem.status!r}")
    return float(np.asarray(problem.value)), np.asarray(X.value)


def semidefinite_relaxation(objective: Objective, feasible: Feasible, start: Point, observe: Observe | None = None) -> Point:
    """The solver `sdp` of the layer-peeled model: relax, factor the matrix into P features, scale onto the two spheres.

    Raises ValueError where the matrix has more than P eigenvalues, with the share that does not fit.
    """
    if not (isinstance(objective, Peeled) and isinstance(objective.loss, CrossEntropy)):
        raise ValueError("the SDP relaxation is that of the layer-peeled model: use it with fang")
    W, H = start
    (C, P), N = W.shape, H.shape[1] // W.shape[0]
    priors = as_numpy(objective.loss.weights.reshape(C, N).sum(1))
    _, X = semidefinite_minimum(priors, objective.gain / np.sqrt(N) / C)
    values, vectors = np.linalg.eigh(X)
    dropped = float(values[: max(2 * C - P, 0)].clip(min=0).sum() / values.sum())
    if dropped > 1e-5:
        raise ValueError(
            f"P = {P}: the relaxed solution needs more features ({dropped:.1e} of it does not fit); use P >= {2 * C}"
        )
    factor = torch.from_numpy(vectors[:, -P:] * np.sqrt(values[-P:].clip(min=0))).to(W.device)  # (2C, min(P, 2C))
    factor = torch.nn.functional.pad(factor, (0, max(P - 2 * C, 0)))
    M, V = factor[:C].mT, factor[C:]
    point = tuple(s.onto(t) for s, t in zip(feasible, (V, M.repeat_interleave(N, 1)), strict=True))
    if observe is not None:
        observe(point)
    return point
