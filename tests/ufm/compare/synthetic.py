"""Trajectories whose exponent, clock and noise are known; only the exact laws themselves come from the code under test."""

import numpy as np
from scipy.integrate import solve_ivp

from ufm.laws.singular_value_dynamics import Law
from ufm.laws.trajectory import Trajectory

C, N, K, EPOCHS = 10, 500, 9, 50


def class_vectors(C: int, K: int) -> np.ndarray:
    """Orthonormal columns of zero sum. (C, K)"""
    return np.linalg.qr(np.eye(C) - 1 / C)[0][:, :K]


def trajectory(log_u: np.ndarray, C: int = C, N: int = N) -> Trajectory:
    """Of log u (T, K), the epochs counted from 1."""
    omega = np.sqrt(C) * np.exp(log_u / 2)
    return Trajectory(np.arange(1.0, len(omega) + 1), omega, class_vectors(C, omega.shape[1]), C, N)


def along(p: float, x0: np.ndarray, b: np.ndarray, rtol: float = 1e-12) -> np.ndarray:
    """log u (T, K) of d log u / db = (1 + u)^{-p} from x0 (K,) at ascending b (T,), b[0] = 0, by numerical integration."""
    solution = solve_ivp(
        lambda _, x: (1 + np.exp(x)) ** -p, (0, b[-1]), x0, method="DOP853", t_eval=b[1:], rtol=rtol, atol=rtol, first_step=1e-3
    )
    assert solution.success
    return np.vstack([x0, solution.y.T])


def clock(rng: np.random.Generator, T: int = EPOCHS) -> np.ndarray:
    """0 to 1 (T,), never decreasing: a power, jumps of any size, one that slows down, or stretches at rates 1, 1/10, 1/100."""
    even = np.linspace(0, 1, T)
    kind = rng.integers(4)
    if kind == 0:
        tau = even ** np.exp(rng.uniform(-1, 1))
    elif kind == 1:
        tau = np.cumsum(np.r_[0, rng.gamma(rng.uniform(0.3, 3), size=T - 1)])
    elif kind == 2:
        tau = np.log1p(even * rng.uniform(1, 50))
    else:
        drops = rng.uniform(0.3, 0.9, size=2)
        tau = np.cumsum(np.r_[0, 0.1 ** (even[1:, None] > drops).sum(1)])
    return tau / tau[-1]


def starts(rng: np.random.Generator, K: int = K) -> np.ndarray:
    """log u (K,): around u = e^-2 to e^2, max / min omega of 2 to 6."""
    half = np.log(rng.uniform(2, 6))
    x = rng.uniform(-1, 1, size=K)
    x[:2] = -1, 1
    return rng.uniform(-2, 2) + half * x


def of_law(law: Law, rng: np.random.Generator, C: int = C, N: int = N, T: int = EPOCHS, K: int = K) -> np.ndarray:
    """log u (T, K) of a law whose largest omega grows 3 to 10 fold, on a random clock from epochs to its logarithm."""
    x0 = starts(rng, K)
    top = x0.max() + 2 * np.log(rng.uniform(3, 10)) * clock(rng, T)
    omega0 = np.sqrt(C) * np.exp(x0 / 2)
    t: np.ndarray = law.time(np.sqrt(C) * np.exp(top / 2), np.full(T, omega0.max()), C, N)
    return 2 * law.log_omega(t, omega0, C, N) - np.log(C)


def noisy(log_u: np.ndarray, rng: np.random.Generator, share: float = 0.01) -> np.ndarray:
    """With white relative errors of omega."""
    return log_u + 2 * share * rng.standard_normal(log_u.shape)


def of_exponent(p: float, rng: np.random.Generator) -> np.ndarray:
    """log u (T, K) of any exponent, its largest omega growing 3 to 10 fold."""
    x0 = starts(rng)
    wide = np.linspace(0, 2 * np.log(rng.uniform(3, 10)), 400) + x0.max()
    b = np.cumsum(np.r_[0, np.diff(wide) * (1 + np.exp((wide[1:] + wide[:-1]) / 2)) ** p])  # Phi of the largest, to 1e-4
    wanted = np.interp(clock(rng), np.linspace(0, 1, 400), b)
    return along(p, x0, np.maximum.accumulate(wanted), rtol=1e-9)


def own_clocks(rng: np.random.Generator) -> np.ndarray:
    """log u (T, K): every omega grows 3 to 10 fold on a clock of its own."""
    return starts(rng) + 2 * np.log(rng.uniform(3, 10, size=K)) * np.column_stack([clock(rng) for _ in range(K)])


def saturating(rng: np.random.Generator) -> np.ndarray:
    """log u (T, K) that saturate, as under weight decay: d log u / ds = 1 / (1 + u) - 1 / (1 + u_j), each at its own u_j."""
    x0 = starts(rng)
    level = x0 + 2 * np.log(rng.uniform(3, 10, size=K))
    s = clock(rng) * rng.uniform(2, 4) * np.exp(level.max())
    solution = solve_ivp(
        lambda _, x: 1 / (1 + np.exp(x)) - 1 / (1 + np.exp(level)), (0, s[-1]), x0, method="LSODA", t_eval=s[1:], rtol=1e-8
    )
    return np.vstack([x0, solution.y.T])


def random_walk(rng: np.random.Generator) -> np.ndarray:
    """log u (T, K): independent walks that end 3 to 10 fold away, as a rule."""
    steps = rng.standard_normal((EPOCHS, K)) * np.log(rng.uniform(3, 10)) * 2 / np.sqrt(EPOCHS)
    steps[0] = 0
    return starts(rng) + steps.cumsum(0)


def at_rest(rng: np.random.Generator) -> np.ndarray:
    """log u (T, K) that does not move."""
    return np.tile(starts(rng), (EPOCHS, 1))
