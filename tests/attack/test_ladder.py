"""A ladder of magnitudes: laws and measures against mpmath over many decades, to what conditioning allows."""

import mpmath
import numpy as np
import pytest

from manifolds.class_centering import ClassLayout
from ufm.features.labels import class_blocks
from ufm.features.measures import phd_nc1
from ufm.features.snr import snr
from ufm.features.statistics import statistics_of
from ufm.laws.singular_value_dynamics import LAWS

EPS = float(np.finfo(float).eps)
C, N = 3, 7
PHI = {
    "renormalized": (lambda u: mpmath.log(u) + u, lambda u: 1 + u),
    "embedded": (lambda u: mpmath.log(u) + 2 * u + u * u / 2, lambda u: (1 + u) ** 2),
    "unnormalized": (lambda u: mpmath.log(u), lambda u: mpmath.mpf(1)),
}  # Phi and u Phi'(u)


@pytest.mark.parametrize("law", sorted(LAWS))
def test_laws_over_a_hundred_and_forty_decades(law: str) -> None:
    phi, slope = PHI[law]
    with mpmath.workdps(50):
        for omega0 in np.geomspace(1e-70, 1e70, 29):
            for t in (0.0, *np.geomspace(1e-30, 1e4, 9)):
                omega = float(LAWS[law].omega(np.array(t), np.array([omega0]), C, N)[0])
                start = phi(mpmath.mpf(omega0) ** 2 / C)
                s = start + 2 * mpmath.mpf(t) / (C * C * N)
                u = mpmath.mpf(omega) ** 2 / C
                # one Newton step from the answer in log u: its length is the relative error of u
                error = abs((phi(u) - s) / slope(u)) / 2
                bound = 8 * EPS * (1 + (abs(s) + abs(start)) / slope(u))
                assert error <= bound, (law, omega0, t, float(error), float(bound))


@pytest.mark.parametrize("shift", [0.0, 1e4, 1e8])
@pytest.mark.parametrize("spread", np.geomspace(1e-6, 1, 4))
@pytest.mark.parametrize("scale", [1e-60, 1.0, 1e60])
def test_measures_through_collapse_and_far_from_zero(scale: float, spread: float, shift: float) -> None:
    rng = np.random.default_rng(11)
    labels = np.repeat(np.arange(C), N)
    means = np.array([[1.0, 0.0], [-0.5, 0.9], [-0.4, -0.7]])
    features = scale * (means[labels] + spread * rng.standard_normal((C * N, 2)) + shift)
    nc1, omega = exact(features, labels)
    # a mean is one float64, rounded where it lies, at `shift` times the distance of two means
    bound = 50 * EPS * (1 + shift)
    np.testing.assert_allclose(phd_nc1(statistics_of(features, labels, C)), nc1, rtol=bound)
    H, layout = class_blocks(features, labels)
    assert layout == ClassLayout.equal(C, N)
    np.testing.assert_allclose(snr(H, layout).omega, omega, rtol=bound)


def exact(features: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """tr(Sigma_W Sigma_B^-1) / C and the singular values of Sigma_W^{-1/2} Mbar of features (n, 2), in 60 digits."""
    with mpmath.workdps(60):
        rows = [mpmath.matrix([mpmath.mpf(float(x)) for x in row]) for row in features]
        average = lambda vectors: sum(vectors[1:], vectors[0]) / len(vectors)  # noqa: E731
        classes = [average([row for row, label in zip(rows, labels, strict=True) if label == c]) for c in range(C)]
        centre = average(classes)
        within = average([(row - classes[c]) * (row - classes[c]).T for row, c in zip(rows, labels, strict=True)])
        between = average([(mean - centre) * (mean - centre).T for mean in classes])
        nc1 = within * between**-1
        ratio = within**-1 * between * C
        trace, determinant = ratio[0, 0] + ratio[1, 1], mpmath.det(ratio)
        root = mpmath.sqrt(trace**2 / 4 - determinant)
        squares = (trace / 2 + root, trace / 2 - root)
        return float((nc1[0, 0] + nc1[1, 1]) / C), np.array([float(mpmath.sqrt(value)) for value in squares])
