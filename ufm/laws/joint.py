"""The joint gradient flow of classifier, bias and features from any start, as its closed system, for any class sizes.

On 1/2 Ave ||W h + b - y||^2 every example of a class moves by the same affine map, so that (W, b, M, Sigma_W) closes. With
pi_c = n_c / n, Pi = diag(pi), decays wd_W, wd_H, wd_b and kappa the rate of the classifier over that of the features,

    dM/dt = -(1/n) W^T (W M + b 1^T - I) - wd_H M
    dSigma_W/dt = -(1/n) (W^T W Sigma_W + Sigma_W W^T W) - 2 wd_H Sigma_W
    dW/dt = -kappa (W (Sigma_W + M Pi M^T) + b (M pi)^T - Pi M^T + wd_W W)
    db/dt = -kappa (W M pi + b - pi + wd_b b).

kappa -> infinity at wd_W = wd_b = 0 is the central path, the unnormalized flow of `ufm.laws.mean_system`.
The deviations are carried as D = R D_0 with dR/dt = -((1/n) W^T W + wd_H) R, so that Sigma_W = R Sigma_W(0) R^T stays positive
definite. omega is not read off them, since H may decay by any factor, and Sigma_W along some directions more than along others.
With Sigma_W = L L^T, L = R L(0), the inverse N = L^{-1} and the whitened means X = N (M - mu_G 1^T) obey

    dN/dt = N ((1/n) W^T W + wd_H),   dX/dt = (1/n) N W^T (I - pi 1^T),

sums in which nothing cancels. The singular values of X are omega, since Sigma_W^{-1/2} L is orthogonal.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from manifolds.class_centering import ClassLayout
from manifolds.representation import short_repr
from manifolds.whitening import principal_deviations
from ufm.laws.class_counts import ClassCounts
from ufm.laws.joint_system import JointSystem
from ufm.laws.trajectory import Trajectory, followed

STEP_ERROR = 1e-12  # relative error of a step
COARSER = 10.0  # times the tolerance, at which the run is repeated for its error


@dataclass(frozen=True)
class JointFlow(ClassCounts):
    """Class sizes, decays wd_W, wd_H, wd_b >= 0 and the rate ratio kappa > 0 (classifier over features).

    With the loss 1/2 Ave ||W h + b - y||^2, a decay wd stands for wd/2 ||W||^2, and wd_H for n wd_H/2 Ave ||h||^2: every feature
    vector has dh/dt = -(1/n) W^T (W h + b - y) - wd_H h. `bias=False` holds b at its start. Raises ValueError otherwise.
    """

    wd_W: float = 0.0
    wd_H: float = 0.0
    wd_b: float = 0.0
    kappa: float = 1.0
    bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("wd_W", "wd_H", "wd_b"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)}: a decay must be finite and cannot be negative")
        if not 0 < self.kappa < math.inf:
            raise ValueError(
                f"kappa = {self.kappa}: the rate ratio must be positive and finite; its limit is ufm.laws.mean_system"
            )

    def velocity(
        self, W: np.ndarray, b: np.ndarray, M: np.ndarray, Sigma_W: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """dW/dt (C, P), db/dt (C,), dM/dt (P, C) and dSigma_W/dt (P, P)."""
        pi, means = self.priors, M @ self.priors
        residual = W @ M + b[:, None] - np.eye(self.C)
        shrink = W.T @ W / self.n
        dM = -W.T @ residual / self.n - self.wd_H * M
        dSigma = -(shrink @ Sigma_W + Sigma_W @ shrink) - 2 * self.wd_H * Sigma_W
        dW = -self.kappa * (W @ Sigma_W + (residual * pi) @ M.T + self.wd_W * W)
        db = -self.kappa * (W @ means + b - pi + self.wd_b * b) if self.bias else 0 * b
        return dW, db, dM, dSigma

    def loss(self, W: np.ndarray, b: np.ndarray, M: np.ndarray, Sigma_W: np.ndarray) -> float:
        """1/2 Ave ||W h + b - y||^2, without the decays."""
        residual = W @ M + b[:, None] - np.eye(self.C)
        return 0.5 * (float(((W @ Sigma_W) * W).sum()) + float((residual * residual * self.priors).sum()))

    def energy(self, W: np.ndarray, b: np.ndarray, M: np.ndarray, Sigma_W: np.ndarray) -> float:
        """What the flow descends: the loss, wd_W/2 ||W||^2, wd_b/2 ||b||^2 and n wd_H/2 Ave ||h||^2."""
        squares = float(np.trace(Sigma_W)) + float((M * M * self.priors).sum())
        decays = self.wd_W * float((W * W).sum()) + self.wd_b * float((b * b).sum()) + self.n * self.wd_H * squares
        return self.loss(W, b, M, Sigma_W) + 0.5 * decays


@dataclass(frozen=True, eq=False, repr=False)
class JointRun:
    """W (T, C, P), b (T, C), M (T, P, C), Sigma_W (T, P, P) and R (T, P, P), with D_t = R_t D_0, at times t (T,).

    X (T, P, C)   e^(-wd_H t) L^{-1} (M - mu_G 1^T), Sigma_W = L L^T with L = R `root`; None where Sigma_W(0) is singular
    error (T,)    estimate of the largest relative error of an omega at each time: by how much they change at ten times the
                  tolerance, what rounding of the largest leaves of the smallest, and what rounding of Sigma_W(0) leaves
    """

    flow: JointFlow
    t: np.ndarray
    W: np.ndarray
    b: np.ndarray
    M: np.ndarray
    Sigma_W: np.ndarray
    R: np.ndarray
    root: np.ndarray  # (P, P), Sigma_W(0) = root root^T
    X: np.ndarray | None
    error: np.ndarray
    __repr__ = short_repr

    @property
    def loss(self) -> np.ndarray:
        """1/2 Ave ||W h + b - y||^2, without the decays. (T,)"""
        states = zip(self.W, self.b, self.M, self.Sigma_W, strict=True)
        return np.array([self.flow.loss(*state) for state in states])

    def features(self, index: int, H_0: np.ndarray) -> np.ndarray:
        """H (P, n) at one of the times, of the flow that started at H_0 (P, n): M Y + R D_0."""
        layout = ClassLayout(self.flow.counts)
        return layout.add_to_means(self.R[index] @ layout.deviations(H_0), self.M[index])

    def trajectory(self) -> Trajectory:
        """omega and the vectors of Eq. 9's Sigma_W^{-1/2} (M - mu_G 1^T), followed in time, with the loss of (W, b) as observed.

        omega to the relative `error`; the left vectors to what R keeps. Raises ValueError where Sigma_W was singular at the
        start, and with the time from which on omega overflows float64.
        """
        if self.X is None:
            smallest = float(np.linalg.eigvalsh(self.Sigma_W[0])[0])
            raise ValueError(
                f"Sigma_W has the eigenvalue {smallest:.2e} at the start: omega is infinite along it; reduce the features to the "
                "range of Sigma_W (ufm.features.ranges.reduce_to_range)"
            )
        K = min(self.flow.C - 1, self.M.shape[1])
        left, sigma, right = np.linalg.svd(self.X, full_matrices=False)
        with np.errstate(divide="ignore", over="ignore"):
            omega = np.exp(np.log(sigma) + self.flow.wd_H * self.t[:, None])
        if not np.isfinite(omega).all():
            first = self.t[~np.isfinite(omega).all(1)][0]
            raise ValueError(f"t = {first:.6g}: omega overflows float64 there; choose an earlier end")
        E, _, F = np.linalg.svd(self.R @ self.root)
        omega_t, V_t, U_t = followed(omega[:, :K], right[:, :K].mT, (E @ F @ left)[:, :, :K])
        C, N = self.flow.C, self.flow.n // self.flow.C
        observed = {"network_loss": self.loss}
        U_0 = None if U_t is None else U_t[0]
        return Trajectory(self.t, omega_t, V_t[0], C, N, U_0, V_t, U_t, observed, self.flow.counts)


def run_joint(
    flow: JointFlow,
    W: np.ndarray,
    b: np.ndarray,
    M: np.ndarray,
    Sigma_W: np.ndarray,
    t: np.ndarray,
    tolerance: float = STEP_ERROR,
    progress: Callable[[float], None] | None = None,
) -> JointRun:
    """The flow from W (C, P), b (C,), M (P, C), Sigma_W (P, P) at time 0 to times t (T,), ascending, t >= 0.

    By LSODA where a dense Jacobian fits (large kappa is stiff), DOP853 otherwise; in every step every part of the state errs by
    at most `tolerance` of the size it has there. The run is repeated at ten times the tolerance, for `JointRun.error`.
    `progress` gets the share of the time done, and may stop the run by raising. Raises ValueError for shapes that do not go
    together, for bad times and tolerances, and with the time reached where float64 or too many steps end the run before t.
    """
    times = np.asarray(t, dtype=np.float64).reshape(-1)
    if not (len(times) and np.isfinite(times).all() and times[0] >= 0 and (np.diff(times) >= 0).all()):
        raise ValueError(f"times t must be finite, ascending and not negative, got {times[:5]}")
    if not 1e-13 <= tolerance <= 1e-3:
        raise ValueError(f"tolerance = {tolerance}: between 1e-13, below which rounding decides, and 1e-3")
    system = JointSystem(flow, *_checked_start(flow, W, b, M, Sigma_W))
    states, rough = (
        system.states(times, accuracy, (lambda done, k=k: progress((k + done) / 2)) if progress else None)
        for k, accuracy in enumerate((tolerance, COARSER * tolerance))
    )
    Ws, bs, Ms, Rs, _, Xs = (np.stack(parts) for parts in zip(*states, strict=True))
    Rs = np.exp(-flow.wd_H * times)[:, None, None] * Rs
    Sigmas = Rs @ system.Sigma_W @ Rs.mT
    X = None if system.singular else Xs
    error = np.zeros(len(times)) if X is None else system.error(Xs, np.stack([state[5] for state in rough]))
    return JointRun(flow, times, Ws, bs, Ms, Sigmas, Rs, system.root, X, error)


def joint_start(H: np.ndarray, layout: ClassLayout) -> tuple[np.ndarray, np.ndarray]:
    """M (P, C) and Sigma_W (P, P) of features H (P, n) in class blocks."""
    H = np.asarray(H, dtype=np.float64)
    E, deviations = principal_deviations(layout.deviations(H))
    return layout.means(H), (E * deviations**2) @ E.T


def _checked_start(flow: JointFlow, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    W, b, M, Sigma_W = state = tuple(np.asarray(x, dtype=np.float64) for x in arrays)
    P, C = len(M), flow.C
    if (W.shape, b.shape, M.shape, Sigma_W.shape) != ((C, P), (C,), (P, C), (P, P)):
        given = f"W {W.shape}, b {b.shape}, M {M.shape}, Sigma_W {Sigma_W.shape}"
        raise ValueError(f"{given} do not match: W (C, P), b (C,), M (P, C), Sigma_W (P, P) with C = {C} are needed")
    if not all(np.isfinite(x).all() for x in state):
        raise ValueError("the start has NaN or infinite entries")
    return state
