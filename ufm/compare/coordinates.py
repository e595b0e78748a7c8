"""The SNR in coordinates that no basis of the features, fixed or moving, and no crossing of singular values can change.

With priors pi_c, q = sqrt(pi) and class means M of zero mean over examples: G = diag(q) M^T Sigma_W^{-1} M diag(q) (C x C), whose
eigenvalues are u_j = omega_j^2 / C where classes are equal. Compared is Y = 1/2 log (B^T G B), B the eigenvectors of the first G
with positive eigenvalues: log omega_j (up to a constant) on its diagonal, the rotation of V off it, both 1 % for an error of 1 %.
"""

from dataclasses import dataclass

import numpy as np

from manifolds.representation import short_repr

POSITIVE = 1e-13  # of the largest eigenvalue of G: a smaller one is rounding of a zero


@dataclass(frozen=True, eq=False, repr=False)
class LayerBelow:
    """Features that are A Z of the layer below: A (P, d), its centred class means M (d, C) and Sigma_W (d, d)."""

    A: np.ndarray
    M: np.ndarray
    sigma_w: np.ndarray
    __repr__ = short_repr

    def __post_init__(self) -> None:
        d = self.M.shape[0]
        if self.A.ndim != 2 or self.A.shape[1] != d or self.sigma_w.shape != (d, d):
            raise ValueError(f"A {self.A.shape}, M {self.M.shape} and Sigma_W {self.sigma_w.shape} of the layer do not fit")
        if not all(np.isfinite(x).all() for x in (self.A, self.M, self.sigma_w)):
            raise ValueError("the statistics of the layer below have NaN or infinite entries")


@dataclass(frozen=True, eq=False, repr=False)
class Entry:
    """The class statistics that a prediction starts from.

    counts (C,), centred class means M (P, C) with M pi = 0, Sigma_W (P, P), the classifier W (C, P) and b (C,) where it was
    measured (b for the features as they are, their global mean mean (P,)), the weight decays of the run, lambda of its loss, and
    the layer below where it was measured.
    """

    counts: np.ndarray
    M: np.ndarray
    sigma_w: np.ndarray
    W: np.ndarray | None = None
    b: np.ndarray | None = None
    mean: np.ndarray | None = None
    decay_w: float = 0.0
    decay_h: float = 0.0
    lam: float = 0.0
    layer: LayerBelow | None = None
    __repr__ = short_repr

    def __post_init__(self) -> None:
        P, C = self.M.shape
        if self.counts.shape != (C,) or self.sigma_w.shape != (P, P):
            raise ValueError(f"counts {self.counts.shape}, M {self.M.shape} and Sigma_W {self.sigma_w.shape} do not fit")
        if not np.isfinite(self.M).all() or not np.isfinite(self.sigma_w).all():
            raise ValueError("the class statistics have NaN or infinite entries")

    @property
    def priors(self) -> np.ndarray:
        """pi_c = n_c / n. (C,)"""
        return self.counts / self.counts.sum()

    def gram(self) -> np.ndarray:
        """G of these statistics. (C, C)  Raises ValueError for a Sigma_W that is not positive definite."""
        return gram_of(self.M, self.sigma_w, self.priors)


def gram_of(M: np.ndarray, sigma_w: np.ndarray, priors: np.ndarray) -> np.ndarray:
    """diag(q) M^T Sigma_W^{-1} M diag(q), q = sqrt(priors). (C, C)"""
    white = white_means(factor_of(sigma_w), M * np.sqrt(priors))
    return white.T @ white


def factor_of(sigma_w: np.ndarray) -> np.ndarray:
    """L of Sigma_W = L L^T. Raises ValueError where it is not positive definite."""
    try:
        return np.linalg.cholesky(sigma_w)
    except np.linalg.LinAlgError as error:
        raise ValueError("Sigma_W is not positive definite: reduce the features to its range first") from error


def white_means(factor: np.ndarray, S: np.ndarray) -> np.ndarray:
    """L^{-1} S. (P, C)"""
    from scipy.linalg import solve_triangular

    return np.asarray(solve_triangular(factor, S, lower=True))


def gram_of_spectrum(omega: np.ndarray, V: np.ndarray, priors: np.ndarray) -> np.ndarray:
    """The same from singular values omega (T, K) and right vectors V (T, C, K) of Sigma_W^{-1/2} M. (T, C, C)"""
    scaled = np.sqrt(priors)[:, None] * V * omega[..., None, :]
    return scaled @ scaled.swapaxes(-1, -2)


def frame_of(gram: np.ndarray) -> np.ndarray:
    """B: the eigenvectors of G (C, C) with positive eigenvalues, largest first. (C, K)"""
    values, vectors = np.linalg.eigh(gram)
    kept = values > POSITIVE * values[-1]
    return vectors[:, kept][:, ::-1]


def log_gram(gram: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Y = 1/2 log (B^T G B). (..., C, C), (C, K) -> (..., K, K)  Raises ValueError where G is singular in the frame."""
    inside = frame.T @ gram @ frame
    values, vectors = np.linalg.eigh((inside + inside.swapaxes(-1, -2)) / 2)
    if not (values > 0).all():
        raise ValueError("an SNR singular value vanishes in the directions of the start")
    return (vectors * (0.5 * np.log(values))[..., None, :]) @ vectors.swapaxes(-1, -2)
