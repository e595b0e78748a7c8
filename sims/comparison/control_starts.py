"""Class statistics that the runs of the controls start from, on request with a classifier and the layer below."""

from dataclasses import replace
from typing import Protocol

import numpy as np

from ufm.compare.coordinates import Entry, LayerBelow

BELOW = 4.0  # of the SNR singular values of the layer below over the growth of those of the features


class CaseStart(Protocol):
    """What a start depends on."""

    @property
    def C(self) -> int:
        """Number of classes."""
        ...

    @property
    def P(self) -> int:
        """Number of features."""
        ...

    @property
    def u(self) -> float:
        """Typical u_j of the start."""
        ...

    @property
    def growth(self) -> float:
        """Growth of the geometric mean of omega over the run."""
        ...

    @property
    def anisotropy(self) -> float:
        """Spread of the logarithms of the standard deviations within classes."""
        ...

    @property
    def unequal(self) -> bool:
        """Whether the class sizes differ."""
        ...

    @property
    def stored(self) -> bool:
        """Whether W, b and the layer below are stored."""
        ...


def start_of_case(case: CaseStart, rng: np.random.Generator) -> Entry:
    """Class means in random directions with SNR near `u`, Sigma_W of the anisotropy."""
    C, P = case.C, case.P
    counts = np.full(C, 50) if not case.unequal else np.round(np.linspace(30, 90, C)).astype(int)
    q = np.sqrt(counts / counts.sum())
    B = np.linalg.qr(np.eye(C) - np.outer(q, q))[0][:, : C - 1] @ np.linalg.qr(rng.standard_normal((C - 1, C - 1)))[0]
    B = np.linalg.qr(B - np.outer(q, q @ B))[0]
    S = np.linalg.qr(rng.standard_normal((P, C - 1)))[0] * np.sqrt(case.u) * np.exp(rng.uniform(-0.5, 0.5, C - 1)) @ B.T
    E, deviations = np.linalg.qr(rng.standard_normal((P, P)))[0], np.exp(rng.uniform(-1, 1, P) * case.anisotropy)
    root = (E * deviations) @ E.T
    entry = Entry(counts, root @ S / q, root @ root.T)
    return _with_classifier_and_layer(entry, case.growth, rng) if case.stored else entry


def _with_classifier_and_layer(entry: Entry, growth: float, rng: np.random.Generator) -> Entry:
    """W half of least squares and a little noise, b = pi; the features A Z of a layer of P + C - 1 units, which has an SNR by
    which theirs may grow, in directions that A does not see yet.
    """
    P, C = entry.M.shape
    q = np.sqrt(entry.priors)
    S = entry.M * q
    least_squares = np.linalg.solve(entry.sigma_w + S @ S.T, S).T * q[:, None]
    W = 0.5 * least_squares + 0.05 * np.linalg.norm(least_squares) / np.sqrt(C * P) * rng.standard_normal((C, P))
    unseen = np.linalg.qr(np.eye(C) - np.outer(q, q))[0][:, : C - 1].T * BELOW * growth / q
    R = np.linalg.qr(rng.standard_normal((P + C - 1, P + C - 1)))[0]
    below = np.block([[entry.sigma_w, np.zeros((P, C - 1))], [np.zeros((C - 1, P)), np.eye(C - 1)]])
    layer = LayerBelow(R.T[:P], R @ np.vstack([entry.M, unseen]), R @ below @ R.T)
    return replace(entry, W=W, b=entry.priors, mean=np.zeros(P), layer=layer)


def with_means(entry: Entry, M: np.ndarray) -> Entry:
    """The entry with other class means, in the layer below too: those nearest to its own that the features come from."""
    if entry.layer is None:
        return replace(entry, M=M)
    A = entry.layer.A
    below = entry.layer.M + np.linalg.lstsq(A, M - entry.M, rcond=None)[0]
    return replace(entry, M=M, layer=replace(entry.layer, M=below))
