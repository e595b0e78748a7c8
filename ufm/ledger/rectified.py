"""What ReLU units can gain on two Gaussian classes, in closed form: x = m y + z, y = +-1 with equal odds, z ~ N(0, 1).

Units relu(w_k x + b_k) have piecewise polynomial products, whose moments over a Gaussian are truncated moments

    I_0 = Phi(u) - Phi(l),   I_1 = phi(l) - phi(u),   I_2 = I_0 + l phi(l) - u phi(u)

of a standard normal on (l, u). The input has omega^2 = 2 m^2. No function of x, of any width or depth, has more than

    omega*^2 = 2 rho / (1 - rho),   rho = E tanh^2(m x),

because tanh(m x) = P(y = 1 | x) - P(y = -1 | x) is the best of all functionals (E y f = E tanh(m x) f, then Cauchy-Schwarz).
One unit at its best threshold tends to omega^2 = 4 m^2, a factor sqrt 2, as m grows.
"""

from math import erf, erfc, exp, inf, pi, sqrt

import numpy as np


def relu_moments(mean: float, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E relu(w_k x + b_k) (k,) and E of the products of two (k, k), x ~ N(mean, 1). Closed form.

    Raises ValueError for no units, different lengths, or numbers that are not finite.
    """
    w, b = np.asarray(w, dtype=float), np.asarray(b, dtype=float)
    if w.ndim != 1 or w.shape != b.shape or not len(w):
        raise ValueError(f"w {w.shape} and b {b.shape}: one weight and one bias a unit are needed")
    if not (np.isfinite(w).all() and np.isfinite(b).all() and np.isfinite(mean)):
        raise ValueError("weights, biases and the mean must be finite")
    a = b + w * mean  # the unit is relu(w z + a), z standard normal
    first = np.array([_product(w[k], a[k], 0.0, 1.0) for k in range(len(w))])
    second = np.array([[_product(w[j], a[j], w[k], a[k]) for k in range(len(w))] for j in range(len(w))])
    return first, second


def relu_omega(m: float, w: np.ndarray, b: np.ndarray) -> float:
    """omega of the units' outputs on the two classes N(+-m, 1), equal odds. inf where they separate them without noise.

    Paper: Definition 2 for C = 2, omega^2 = delta^T Sigma_W^{-1} delta / 2 with delta the difference of the class means.
    """
    _check_signal(m)
    (high, high2), (low, low2) = relu_moments(m, w, b), relu_moments(-m, w, b)
    delta = high - low
    sigma = (high2 - np.outer(high, high) + low2 - np.outer(low, low)) / 2
    scale = np.sqrt(np.clip(np.diag(sigma), 0, None))
    alive = scale > 0
    if not alive.any():
        return inf if delta.any() else 0.0
    inside = sigma[alive][:, alive] / np.outer(scale[alive], scale[alive])
    values, E = np.linalg.eigh(inside)
    kept = values > len(values) * 1e-13 * values[-1]
    whitened = (E[:, kept].T @ (delta[alive] / scale[alive])) / np.sqrt(values[kept])
    return float(np.sqrt(whitened @ whitened / 2))


def input_omega(m: float) -> float:
    """omega of x itself: sqrt(2) m."""
    _check_signal(m)
    return sqrt(2) * m


def largest_omega(m: float) -> float:
    """omega* of the best function of x: sqrt(2 rho / (1 - rho)), rho = E tanh^2(m x), 1 - rho by quadrature of sech^2."""
    from scipy.integrate import quad

    _check_signal(m)

    def integrand(z: float) -> float:
        t = m * (m + z)  # by symmetry the class +1 alone
        return exp(-z * z / 2) / sqrt(2 * pi) / np.cosh(min(abs(t), 350.0)) ** 2

    rest = quad(integrand, -40, 40, points=[-m, 0.0], limit=400, epsabs=0, epsrel=1e-11)[0]
    return inf if rest == 0 else sqrt(2 * (1 - rest) / rest)


def best_threshold(m: float) -> tuple[float, float]:
    """The bias b of one unit relu(x + b) with the largest omega on N(+-m, 1), and that omega. The sign of x is a convention."""
    from scipy.optimize import minimize_scalar

    _check_signal(m)

    def loss(b: float) -> float:
        return -np.log(max(relu_omega(m, np.array([1.0]), np.array([b])), 1e-300))

    grid = np.linspace(-m - 6, m + 8, 200)
    k = int(np.argmin([loss(b) for b in grid]))
    minimum = minimize_scalar(
        loss, bounds=(grid[max(k - 1, 0)], grid[min(k + 1, 199)]), method="bounded", options={"xatol": 1e-10}
    )
    return float(minimum.x), float(exp(-minimum.fun))


def _check_signal(m: float) -> None:
    if not 0 < m < inf:
        raise ValueError(f"m = {m}: half the distance of the class means, in deviations, must be positive and finite")


def _product(w1: float, a1: float, w2: float, a2: float) -> float:
    """E relu(w1 z + a1) relu(w2 z + a2), z standard normal."""
    lower, upper = -inf, inf
    for w, a in ((w1, a1), (w2, a2)):
        if w > 0:
            lower = max(lower, -a / w)
        elif w < 0:
            upper = min(upper, -a / w)
        elif a <= 0:
            return 0.0
    if lower >= upper:
        return 0.0
    i0 = _normal_mass(lower, upper)
    i1 = _density(lower) - _density(upper)
    i2 = i0 + _times(lower) - _times(upper)
    return max(w1 * w2 * i2 + (w1 * a2 + w2 * a1) * i1 + a1 * a2 * i0, 0.0)


def _density(z: float) -> float:
    return exp(-z * z / 2) / sqrt(2 * pi) if abs(z) < inf else 0.0


def _times(z: float) -> float:
    return z * _density(z) if abs(z) < inf else 0.0


def _normal_mass(lower: float, upper: float) -> float:
    """Phi(upper) - Phi(lower), from the nearer tail, where nothing cancels."""
    if lower > 0:
        return (erfc(lower / sqrt(2)) - erfc(upper / sqrt(2))) / 2
    if upper < 0:
        return (erfc(-upper / sqrt(2)) - erfc(-lower / sqrt(2))) / 2
    return (erf(upper / sqrt(2)) - erf(lower / sqrt(2))) / 2
