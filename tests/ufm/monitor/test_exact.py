"""Every measure of collapsed, unequal classes far from the origin against 60 digits of the same numbers.

Relative 1e-12, or as many digits as there are in the classifier: 8 times what the exact value moves when W and b move by their
last bit. Features and class means are given no such room.
"""

from collections.abc import Iterator

import mpmath
import numpy as np
import pytest
import torch
from mpmath import mp

from ufm.monitor import NeuralCollapse

SIZES = (9, 12, 7, 16)
C, P, LAM = len(SIZES), 6, 0.01
Numbers = list[list[mpmath.mpf]]


@pytest.fixture(autouse=True)
def sixty_digits() -> Iterator[None]:
    with mp.workdps(60):
        yield


def collapsed(offset: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features with tr Sigma_W / tr Sigma_B = 1e-10: means 1 apart in float64, half the offset in float32."""
    rng = np.random.default_rng(5)
    labels = rng.permutation(np.repeat(np.arange(C), SIZES))
    spread = 1.0 if dtype == torch.float64 else offset / 2
    means = offset + spread * rng.standard_normal((C, P))
    features = torch.from_numpy(means[labels] + 1e-5 * spread * rng.standard_normal((len(labels), P))).to(dtype)
    W = rng.standard_normal((C, P)) / spread
    return (
        features,
        torch.from_numpy(labels),
        torch.from_numpy(W),
        torch.from_numpy(0.1 * rng.standard_normal(C) - W @ means.mean(0)),
    )


def matrix(rows: np.ndarray) -> mpmath.matrix:
    return mp.matrix([[mp.mpf(float(x)) for x in row] for row in np.atleast_2d(rows)])


def length(row: mpmath.matrix) -> mpmath.mpf:
    return mp.sqrt(mp.fsum(x * x for x in row))


def deviation(values: list[mpmath.mpf]) -> mpmath.mpf:
    mean = mp.fsum(values) / len(values)
    return mp.sqrt(mp.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def angles(rows: list[mpmath.matrix]) -> tuple[mpmath.mpf, mpmath.mpf, mpmath.mpf]:
    lengths = [length(row) for row in rows]
    cosines = [mp.fdot(rows[i], rows[j]) / lengths[i] / lengths[j] for i in range(C) for j in range(i)]
    off = mp.fsum(abs(c + mp.mpf(1) / (C - 1)) for c in cosines) / len(cosines)
    return deviation(lengths) / (mp.fsum(lengths) / C), deviation(cosines), off


def loss(H: mpmath.matrix, Y: mpmath.matrix, A: mpmath.matrix) -> mpmath.mpf:
    """At the classifier A (C, P + 1) on extended features (n, P + 1)."""
    return (length(H * A.T - Y) ** 2 / H.rows + LAM * length(A) ** 2) / 2


def definitions(H: mpmath.matrix, y: list[int], W: mpmath.matrix, b: mpmath.matrix) -> dict[str, mpmath.mpf]:
    """Every measure by its definition."""
    n = H.rows
    rows = [H[i, :] for i in range(n)]
    means = [sum((rows[i] for i in range(n) if y[i] == c), mp.zeros(1, P)) / SIZES[c] for c in range(C)]
    centre = sum(rows, mp.zeros(1, P)) / n
    M = [m - centre for m in means]
    sigma_w = sum(((rows[i] - means[y[i]]).T * (rows[i] - means[y[i]]) for i in range(n)), mp.zeros(P)) / n
    sigma_b = sum((M[c].T * M[c] * SIZES[c] for c in range(C)), mp.zeros(P)) / n
    basis = mp.matrix([list(means[c] - means[-1]) for c in range(C - 1)]).T  # of the range of Sigma_B
    share = mp.diag([mp.mpf(size) / n for size in SIZES[:-1]])
    middle = share - share * mp.ones(C - 1) * share
    inverse = mp.inverse(basis.T * basis)
    out = {"nc1": sum((basis * inverse * mp.inverse(middle) * inverse * basis.T * sigma_w)[k, k] for k in range(P)) / C}
    weights = [W[c, :] for c in range(C)]
    for suffix, vectors in (("", M), ("_w", weights)):
        names = (f"nc2_{name}{suffix}" for name in ("equinorm", "equiangular", "maxangle"))
        out |= dict(zip(names, angles(vectors), strict=True))
    all_means = mp.matrix([list(m) for m in M])
    out["nc3"] = length(W / length(W) - all_means / length(all_means)) ** 2
    out["nc0"] = length(sum(weights, mp.zeros(1, P)))
    spectrum = [mp.sqrt(v) for v in mp.eigsy(sigma_w + sigma_b, eigvals_only=True)]
    out["effective_rank"] = mp.exp(-mp.fsum(v / mp.fsum(spectrum) * mp.log(v / mp.fsum(spectrum)) for v in spectrum))
    squares = sorted(mp.eigsy(all_means * mp.inverse(sigma_w) * all_means.T, eigvals_only=True))[1:]
    out["omega_geometric_mean"] = mp.exp(mp.fsum(mp.log(v) for v in squares) / (2 * (C - 1)))

    wide = mp.matrix([[*row, 1] for row in rows])
    Y = mp.matrix([[int(y[i] == c) for c in range(C)] for i in range(n)])
    A = mp.matrix([[*weights[c], b[c]] for c in range(C)])
    best = (mp.inverse(wide.T * wide / n + LAM * mp.eye(P + 1)) * (wide.T * Y) / n).T
    own = mp.matrix([[*means[y[i]], 1] for i in range(n)])
    out["loss"], out["loss_nc23"] = loss(wide, Y, A), length(own * best.T - Y) ** 2 / n / 2
    out["loss_nc1"], out["loss_perp"] = loss(wide, Y, best) - out["loss_nc23"], out["loss"] - loss(wide, Y, best)
    decided = [max(range(C), key=lambda c, h=h: mp.fdot(weights[c], h) + b[c]) for h in rows]
    nearest = [min(range(C), key=lambda c, h=h: length(h - means[c])) for h in rows]
    out["nc4"] = mp.mpf(sum(d != m for d, m in zip(decided, nearest, strict=True))) / n
    out["train_error"] = mp.mpf(sum(d != t for d, t in zip(decided, y, strict=True))) / n
    out["ncc_accuracy"] = mp.mpf(sum(m == t for m, t in zip(nearest, y, strict=True))) / n
    return out


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("offset", [1e3, 1e6, 1e8])
def test_every_measure_has_the_digits_that_the_features_hold(offset: float, dtype: torch.dtype) -> None:
    features, labels, W, b = collapsed(offset, dtype)
    metric = NeuralCollapse(C, lam=LAM)
    for h, t in zip(features.split(5), labels.split(5), strict=True):
        metric.update(h, t, classifier=(W, b))
    values = metric.compute()
    H, y = matrix(features.double().numpy()), labels.tolist()
    exact = definitions(H, y, matrix(W.numpy()), matrix(b.numpy()))
    moved = [moved_by_a_bit(H, y, W, b, seed) for seed in range(2)]
    assert values["dropped"] == 0
    assert values.keys() - exact.keys() == {"dropped", "lost_signal", "omega_rounding", "examples", "classes_seen"}
    for name, value in exact.items():
        room = max(1e-12 * abs(value), *(8 * abs(other[name] - value) for other in moved))
        assert abs(values[name] - value) <= room, (
            f"{name}: {mp.nstr((values[name] - value) / value, 3)} of {mp.nstr(room / value, 3)}"
        )


@pytest.mark.parametrize("digits", [0, 4, 8, 10, 12, 14])
def test_what_is_lost_of_omega_where_variability_is_unequal_is_said(digits: int) -> None:
    """Sigma_W of condition 10^digits along no axis."""
    rng = np.random.default_rng(11)
    labels = np.repeat(np.arange(C), SIZES)
    Q = np.linalg.qr(rng.standard_normal((P, P)))[0]
    features = rng.standard_normal((C, P))[labels] + rng.standard_normal((len(labels), P))
    features = (features * np.logspace(0, -digits / 2, P)) @ Q
    metric = NeuralCollapse(C)
    metric.update(torch.from_numpy(features), torch.from_numpy(labels))
    values = metric.compute()
    H = matrix(features)
    means = [sum((H[i, :] for i in np.flatnonzero(labels == c)), mp.zeros(1, P)) / SIZES[c] for c in range(C)]
    centre = sum((H[i, :] for i in range(H.rows)), mp.zeros(1, P)) / H.rows
    deviations = mp.matrix([list(H[i, :] - means[labels[i]]) for i in range(H.rows)])
    M = mp.matrix([list(mean - centre) for mean in means])
    squares = sorted(mp.eigsy(M * mp.inverse(deviations.T * deviations / H.rows) * M.T, eigvals_only=True))[1:]
    exact = mp.exp(mp.fsum(mp.log(v) for v in squares) / (2 * (C - 1)))
    error = float(abs(values["omega_geometric_mean"] / exact - 1))
    assert values["dropped"] == 0
    assert error <= values["omega_rounding"] <= 1e-15 * 10**digits * 10


def moved_by_a_bit(H: mpmath.matrix, y: list[int], W: torch.Tensor, b: torch.Tensor, seed: int) -> dict[str, mpmath.mpf]:
    """The definitions after a change of W and b by the last bit of float64."""
    rng, eps = np.random.default_rng(seed), np.finfo(float).eps

    def bits(shape: tuple[int, ...]) -> np.ndarray:
        return eps * rng.choice([-1.0, 1.0], shape)

    return definitions(H, y, matrix(W.numpy() * (1 + bits((C, P)))), matrix(b.numpy() * (1 + bits((C,)))))
