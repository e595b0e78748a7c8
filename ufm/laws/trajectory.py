"""One type for every trajectory of the singular values, simulated or measured, so that they can be compared directly."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from manifolds.representation import short_repr
from ufm.arrays import LeftVectors, LeftVectorsInTime, OmegaInTime, PerClass, RightVectors, RightVectorsInTime, Times
from ufm.features import spectral_loss

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

LOSSES = ("loss", "loss_nc1", "loss_nc23")
LOSS_PARTS = (*LOSSES, "loss_perp")  # the last is that of a classifier off least squares


@dataclass(frozen=True, eq=False, repr=False)
class Trajectory:
    """omega (T, K) at clock values t (T,), K = min(C-1, P), each column one singular value followed in time, descending at first.

    V (C, K) and U (P, K) are the singular vectors at the start; laws (a)-(d) keep them. N is the number of examples a class, or
    n // C where `counts` gives sizes that differ: Lemma 1 does not hold then, and the losses must be among the observed.
    Where they were measured: V_t (T, C, K) and U_t (T, P, K) at every time, and more quantities by name in `observed`, (T,) each.
    """

    t: Times[np.ndarray]
    omega: OmegaInTime[np.ndarray]
    V: RightVectors[np.ndarray]
    C: int
    N: int
    U: LeftVectors[np.ndarray] | None = None
    V_t: RightVectorsInTime[np.ndarray] | None = None
    U_t: LeftVectorsInTime[np.ndarray] | None = None
    observed: Mapping[str, Times[np.ndarray]] = field(default_factory=dict)
    counts: tuple[int, ...] | None = None
    __repr__ = short_repr

    @property
    def class_sizes(self) -> PerClass[np.ndarray]:
        """Examples of every class. (C,)"""
        return np.full(self.C, self.N) if self.counts is None else np.asarray(self.counts)

    def _known(self, name: str, by_lemma_1: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
        if name in self.observed:
            return self.observed[name]
        if self.counts is not None and min(self.counts) != max(self.counts):
            raise ValueError(
                f"{name} of unequal classes ({min(self.counts)} to {max(self.counts)}) is not a function of omega alone"
            )
        return by_lemma_1(self.omega, self.C)

    @cached_property
    def loss(self) -> Times[np.ndarray]:
        """L_LS (T,): `ls_loss` where it is among the observed, else by Lemma 1."""
        return self._known("ls_loss", spectral_loss.spectral_loss)

    @cached_property
    def loss_nc1(self) -> Times[np.ndarray]:
        """L_NC1 (T,): `ls_loss_nc1` where it is among the observed, else by Lemma 1."""
        return self._known("ls_loss_nc1", spectral_loss.spectral_loss_nc1)

    @cached_property
    def loss_nc23(self) -> Times[np.ndarray]:
        """L_NC2/3 (T,): `ls_loss_nc23` where it is among the observed, else by Lemma 1."""
        return self._known("ls_loss_nc23", spectral_loss.spectral_loss_nc23)

    def rows(self, indices: Annotated[np.ndarray, "S"]) -> "Trajectory":
        """The same trajectory at some of its times."""
        V_t, U_t = (None if vectors is None else vectors[indices] for vectors in (self.V_t, self.U_t))
        observed = {name: values[indices] for name, values in self.observed.items()}
        return Trajectory(self.t[indices], self.omega[indices], self.V, self.C, self.N, self.U, V_t, U_t, observed, self.counts)

    def to_pandas(self) -> "pd.DataFrame":
        """One row a time: t as index, columns omega_1, ..., omega_K, the losses where they are known, and the observed.

        Raises ImportError where pandas is not installed.
        """
        columns = {f"omega_{j + 1}": values for j, values in enumerate(self.omega.T)} | self._columns()
        return _optional_module("pandas").DataFrame(columns, index=_optional_module("pandas").Index(self.t, name="t"))

    def to_xarray(self) -> "xr.Dataset":
        """omega (t, j), losses where known and the observed (t,), V (c, j), U (p, j), V_t, U_t; C, N, counts as attributes.

        Raises ImportError where xarray is not installed.
        """
        vectors = {"V": ("c", "j"), "U": ("p", "j"), "V_t": ("t", "c", "j"), "U_t": ("t", "p", "j")}
        variables: dict[str, Any] = {"omega": (("t", "j"), self.omega)}
        variables |= {name: (("t",), values) for name, values in self._columns().items()}
        variables |= {name: (axes, getattr(self, name)) for name, axes in vectors.items() if getattr(self, name) is not None}
        attributes = {"C": self.C, "N": self.N} | (dict[str, Any]() if self.counts is None else {"counts": list(self.counts)})
        coordinates = {"t": self.t, "j": np.arange(1, self.omega.shape[1] + 1)}
        return _optional_module("xarray").Dataset(variables, coordinates, attributes)

    def _columns(self) -> dict[str, np.ndarray]:
        """The losses and the observed, (T,) each, those that are known."""
        losses = {}
        for name in LOSSES:
            with contextlib.suppress(ValueError):  # of unequal classes, and not observed
                losses[name] = getattr(self, name)
        others = {name: values for name, values in self.observed.items() if name.removeprefix("ls_") not in losses}
        return losses | {name: np.asarray(values) for name, values in others.items() if np.shape(values) == self.t.shape}


def _optional_module(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(f"{name} is not installed: pip install 'neural-collapse-flow[tables]'", name=name) from error


def follow(previous: np.ndarray, omega: np.ndarray, V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """omega (K,) and V (C, K) reordered so that every singular value follows its right vector from `previous` (C, K).

    Singular values come sorted; where two cross, the order swaps but the vectors do not. Matching: the assignment with the
    largest total |overlap|.
    """
    order = _matching(previous, V)
    return omega[order], V[:, order]


def followed(omega: np.ndarray, V: np.ndarray, U: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Every singular value followed in time by its right vector: omega (T, K), V (T, C, K), U (T, P, K), sorted at first.

    The sign of a pair of vectors is that of its predecessor.
    """
    omega, V, U = omega.copy(), V.copy(), None if U is None else U.copy()
    for k in range(1, len(omega)):
        order = _matching(V[k - 1], V[k])
        signs = np.where((V[k - 1] * V[k][:, order]).sum(0) < 0, -1.0, 1.0)
        omega[k], V[k] = omega[k][order], V[k][:, order] * signs
        if U is not None:
            U[k] = U[k][:, order] * signs
    return omega, V, U


def _matching(previous: np.ndarray, V: np.ndarray) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(-abs(previous.T @ V))[1]
