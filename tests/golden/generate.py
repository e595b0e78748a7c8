"""The golden files: points, tangent vectors and what every map of the manifold makes of them, to 50 digits by mpmath.

    python -m tests.golden.generate        writes tests/golden/*.json again

Nothing of `manifolds` is used. Centering is an n x n matrix, roots come from eigenvectors, derivatives are differences at
twice the digits, geodesics and parallel transport are Taylor series of their differential equations.
docs/geometry.md describes the files.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mpmath import matrix as Matrix
from mpmath import mp, mpf

DIGITS = 50
WORKING = 70  # digits of everything but differences
DIFFERENCES = 130  # digits of differences, whose step is 10^(-DIFFERENCES / 2)
ORDER, STEPS = 44, 12  # of the Taylor series
CASES = {"two_classes": ((3, 4), 2), "three_classes": ((4, 2, 3), 3)}
HERE = Path(__file__).parent


def decimals(rows: int, columns: int, seed: int) -> Matrix:
    """Numbers with two decimals between -1 and 1, from a linear congruential generator: the same everywhere."""
    values = []
    for _ in range(rows * columns):
        seed = (1103515245 * seed + 12345) % 2**31
        values.append(mpf((seed >> 8) % 201 - 100) / 100)
    return Matrix([values[i * columns : (i + 1) * columns] for i in range(rows)])


def frobenius(A: Matrix, B: Matrix) -> mpf:
    """<A, B>."""
    return mp.fsum(a * b for a, b in zip(A, B, strict=True))


def sym(A: Matrix) -> Matrix:
    """(A + A^T) / 2."""
    return (A + A.T) / 2


def inverse_root(S: Matrix) -> Matrix:
    """S^(-1/2) by eigenvectors."""
    values, E = mp.eigsy(S)
    return E * mp.diag([1 / mp.sqrt(value) for value in values]) * E.T


@dataclass(frozen=True)
class Manifold:
    """{X : X C X^T = I} with C written out."""

    sizes: tuple[int, ...]

    @property
    def n(self) -> int:
        return sum(self.sizes)

    @property
    def C(self) -> Matrix:
        """The class centering (I - class averaging) / n. (n, n)"""
        C, start = mp.eye(self.n) / self.n, 0
        for size in self.sizes:
            for i in range(start, start + size):
                for j in range(start, start + size):
                    C[i, j] -= mpf(1) / (size * self.n)
            start += size
        return C

    def deviations(self, X: Matrix) -> Matrix:
        return self.n * X * self.C

    def embedded_projection(self, X: Matrix, Z: Matrix) -> Matrix:
        return Z - self.n * sym(X * self.C * Z.T) * X * self.C

    def oblique_projection(self, X: Matrix, Z: Matrix) -> Matrix:
        return Z - sym(X * self.C * Z.T) * X

    def oblique_adjoint(self, X: Matrix, W: Matrix) -> Matrix:
        return W - sym(W * X.T) * X * self.C

    def bundle_gradient(self, X: Matrix, G: Matrix) -> Matrix:
        return self.oblique_projection(X, self.oblique_adjoint(X, G))

    def fibre_scale(self, X: Matrix, Z: Matrix) -> Matrix:
        return lyapunov(X * X.T, Z * X.T + X * Z.T)

    def horizontal(self, X: Matrix, Z: Matrix) -> Matrix:
        return Z - self.fibre_scale(X, Z) * X

    def renormalisation(self, X: Matrix, U: Matrix) -> Matrix:
        Z = X + U
        return inverse_root(Z * self.C * Z.T) * Z

    def horizontal_renormalisation(self, X: Matrix, U: Matrix) -> Matrix:
        return self.renormalisation(X, self.horizontal(X, U))

    def polar(self, X: Matrix, U: Matrix) -> Matrix:
        Z, D = X + U, self.deviations(X + U)
        return inverse_root(D * D.T / self.n) * D + Z - D

    def cholesky(self, X: Matrix, U: Matrix) -> Matrix:
        Z, D = X + U, self.deviations(X + U)
        return mp.cholesky(D * D.T / self.n) ** -1 * D + Z - D


def lyapunov(A: Matrix, B: Matrix) -> Matrix:
    """The S with S A + A S = B."""
    values, E = mp.eigsy(A)
    right = E.T * B * E
    for i in range(len(values)):
        for j in range(len(values)):
            right[i, j] /= values[i] + values[j]
    return E * right * E.T


Series = list[Matrix]
Rule = Callable[[Manifold, Series, Series, Series], tuple[Matrix, Matrix]]


def product(a: Series, b: Series, k: int, transpose: bool = True) -> Matrix:
    """Coefficient k of a(t) b(t)^T, or of a(t) b(t)."""
    terms = [a[j] * (b[k - j].T if transpose else b[k - j]) for j in range(k + 1)]
    return sum(terms[1:], terms[0])


def embedded_rule(manifold: Manifold, X: Series, U: Series, W: Series) -> tuple[Matrix, Matrix]:
    """Coefficients len(U) - 1 of U' and W': -sym(D_U D_V^T) D_X / n for V = U, W: the derivative is normal."""
    k, n = len(U) - 1, manifold.n
    D, D_U = ([manifold.deviations(A) for A in series] for series in (X, U))
    answers = []
    for V in (U, W):
        D_V = [manifold.deviations(A) for A in V]
        squares = [sym(product(D_U, D_V, j)) for j in range(k + 1)]
        answers.append(-product(squares, D, k, transpose=False) / n)
    return answers[0], answers[1]


class BundleRule:
    """Coefficients of U' and W' for the bundle metric: ((sym(U V^T) - sym(S_U A S_V)) X_M - sym(D_U D_V^T) X) / n, V = U, W."""

    def __init__(self) -> None:
        self.scales: tuple[Series, Series] = ([], [])

    def __call__(self, manifold: Manifold, X: Series, U: Series, W: Series) -> tuple[Matrix, Matrix]:
        k, n = len(U) - 1, manifold.n
        if k == 0:
            self.scales = ([], [])
        A = [product(X, X, j) for j in range(k + 1)]
        for V, S in zip((U, W), self.scales, strict=True):
            right = product(V, X, k) + product(X, V, k)
            for j in range(k):
                right -= S[j] * A[k - j] + A[k - j] * S[j]
            S.append(lyapunov(A[0], right))
        D_U, X_M = [manifold.deviations(B) for B in U], [B - manifold.deviations(B) for B in X]
        S_UA = [product(self.scales[0], A, j, transpose=False) for j in range(k + 1)]
        answers = []
        for V, S in zip((U, W), self.scales, strict=True):
            D_V = [manifold.deviations(B) for B in V]
            across = [sym(product(U, V, j) - product(S_UA, S, j, transpose=False)) for j in range(k + 1)]
            inside = [sym(product(D_U, D_V, j)) for j in range(k + 1)]
            answers.append((product(across, X_M, k, transpose=False) - product(inside, X, k, transpose=False)) / n)
        return answers[0], answers[1]


def transport(manifold: Manifold, rule: Rule, X: Matrix, U: Matrix, W: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """The geodesic's end, its velocity there, and W carried parallel along it, by Taylor series of order ORDER."""
    h = mpf(1) / STEPS
    for _ in range(STEPS):
        x, u, w = [X], [U], [W]
        for k in range(ORDER):
            dU, dW = rule(manifold, x, u, w)
            x.append(u[k] / (k + 1))
            u.append(dU / (k + 1))
            w.append(dW / (k + 1))
        X, U, W = (evaluate(series, h) for series in (x, u, w))
    return X, U, W


def evaluate(series: Series, h: mpf) -> Matrix:
    """The value at h."""
    value = series[-1]
    for term in reversed(series[:-1]):
        value = term + h * value
    return value


def derivative(f: Callable[[mpf], Matrix]) -> Matrix:
    """df/dt at 0 by central differences with twice the digits."""
    with mp.workdps(DIFFERENCES):
        h = mpf(10) ** (-DIFFERENCES // 2)
        return (f(h) - f(-h)) / (2 * h)


def golden(sizes: tuple[int, ...], P: int) -> dict[str, object]:
    """Everything of one case, as decimal strings."""
    with mp.workdps(DIFFERENCES):
        manifold = Manifold(sizes)
        n = manifold.n
        zero = Matrix(P, n)
        X = manifold.polar(decimals(P, n, 1), zero)
        Z, L = decimals(P, n, 2), decimals(P, n, 3)
        Q = sym(decimals(n, n, 4))
        U, W = (manifold.embedded_projection(X, decimals(P, n, seed)) for seed in (5, 6))
        U *= mpf("0.75") / mp.sqrt(frobenius(U, U))

        def G(x: Matrix) -> Matrix:
            return L + x * Q

        moves = {
            "renormalisation": manifold.renormalisation,
            "horizontal_renormalisation": manifold.horizontal_renormalisation,
            "polar": manifold.polar,
            "cholesky": manifold.cholesky,
        }
        arrays = {
            "X": X, "Z": Z, "U": U, "W": W, "L": L, "Q": Q,
            "orthogonal_projection_Z": manifold.embedded_projection(X, Z),
            "oblique_projection_Z": manifold.oblique_projection(X, Z),
            "oblique_projection_adjoint_Z": manifold.oblique_adjoint(X, Z),
            "horizontal_Z": manifold.horizontal(X, Z),
            "embedded_gradient": manifold.embedded_projection(X, G(X)),
            "bundle_gradient": manifold.bundle_gradient(X, G(X)),
        }  # fmt: skip
        for name, move in moves.items():
            arrays[f"{name}_U"] = move(X, U)
            arrays[f"{name}_transport_W"] = derivative(lambda t, move=move: move(X, U + t * W))
        arrays["embedded_hessian_U"] = manifold.embedded_projection(
            X, derivative(lambda t: manifold.embedded_projection(X + t * U, G(X + t * U)))
        )
        # the covariant derivative: that of the field along the curve less what parallel transport does to it
        r = manifold.bundle_gradient(X, G(X))
        along = derivative(lambda t: manifold.bundle_gradient(X + t * U, G(X + t * U)))
        arrays["bundle_hessian_U"] = along - BundleRule()(manifold, [X], [U], [r])[1]
        lifted = manifold.horizontal(X, U)
        numbers = {
            "embedded_inner_UW": frobenius(U, W),
            "bundle_inner_UW": frobenius(lifted, manifold.horizontal(X, W)),
            "embedded_length_U": mp.sqrt(frobenius(U, U)),
            "bundle_length_U": mp.sqrt(frobenius(lifted, lifted)),
        }
    with mp.workdps(WORKING):
        for name, rule in (("embedded", embedded_rule), ("bundle", BundleRule())):
            end, velocity, carried = transport(manifold, rule, X, U, W)
            arrays |= {f"{name}_exp_U": end, f"{name}_velocity_U": velocity, f"{name}_parallel_transport_W": carried}
    return {
        "class_sizes": list(sizes),
        "P": P,
        "n": n,
        "digits": DIGITS,
        "arrays": {name: [[text(A[i, j]) for j in range(A.cols)] for i in range(A.rows)] for name, A in arrays.items()},
        "numbers": {name: text(value) for name, value in numbers.items()},
    }


def text(value: mpf) -> str:
    """DIGITS significant digits; what is zero to the digits worked with is "0"."""
    return "0" if abs(value) < mpf(10) ** (-WORKING + 8) else str(mp.nstr(value, DIGITS))


def main() -> None:
    """Write the files."""
    for name, (sizes, P) in CASES.items():
        (HERE / f"{name}.json").write_text(json.dumps(golden(sizes, P), indent=1) + "\n")


if __name__ == "__main__":
    main()
