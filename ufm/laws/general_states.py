"""States of the general law at given times, and the time of a given growth, each from one integration in reduced coordinates."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from manifolds.linalg import Array, ArrayT, epsilon, namespace
from manifolds.representation import short_repr
from ufm.laws.general import GeneralLaw
from ufm.laws.integrator import Arc, arcs
from ufm.laws.thin_svd import singular_values

INSIDE = 0.25  # share of the accuracy for states inside a step
MUCH_SPREAD = 10.0  # of the class sizes' root ratio, from which on a refusal names it
SEARCH_ACCURACY = 1e-6  # of omega, where only the time of a growth is wanted


@dataclass(frozen=True, eq=False, repr=False)
class ReducedStart:
    """S = U (diag(sigma) Vt) Q^T with sigma (K,), K = min(C - 1, P), of which the first `moving` are not rounding of zeros.

    U (P, K), Vt (K, C-1), Q an orthonormal basis orthogonal to q.
    """

    U: Array
    sigma: Array
    Vt: Array
    moving: int
    __repr__ = short_repr

    @property
    def Z(self) -> Array:
        """U^T S Q of the values that move. (moving, C-1)"""
        return self.sigma[: self.moving, None] * self.Vt[: self.moving]

    def Z_of(self, sigma: ArrayT) -> ArrayT:
        """U^T S Q of other singular values sigma (K,) with the same vectors. (K, C-1)"""
        return sigma[:, None] * self.Vt


def reduced_start(law: GeneralLaw, S: Array) -> ReducedStart:
    """S (P, C) in its own singular vectors. Values of at most max(P, C) eps sigma_1 are rounding of zeros and set to 0."""
    xp, K = namespace(S), min(law.C - 1, S.shape[0])
    U, sigma, Vt = xp.linalg.svd(law.basis(S).reduce(S), full_matrices=False)
    moving = int((sigma > max(S.shape) * epsilon(S) * sigma[0]).sum())
    sigma = xp.concatenate([sigma[:moving], 0 * sigma[moving:]])
    return ReducedStart(U[:, :K], sigma[:K], Vt[:K], moving)


def states_at(
    law: GeneralLaw, Z: ArrayT, times: np.ndarray, accuracy: float, progress: Callable[[float], None] | None = None
) -> Iterator[tuple[ArrayT, float]]:
    """Z (m, C-1) at ascending times (T,), Z given at time 0, each with a bound on the relative error of its singular values.

    Half of `accuracy` is for the steps, a quarter for the states inside them, a quarter for rounding. Raises ValueError where
    rounding leaves more, with the largest ratio of two class sizes where that is what it grows by.
    """
    done = int(np.searchsorted(times, 0.0, side="right"))
    yield from [(Z, 0.0)] * done
    if done == len(times):
        return
    end, unit = float(times[-1]), accuracy / law.spread_of_sizes
    share = INSIDE * unit
    for arc in _refused_by_sizes(
        law, arcs(law.reduced_velocity, Z, end, law.time_unit, 0.5 * unit, (1 - INSIDE) * unit), accuracy
    ):
        last = int(np.searchsorted(times, arc.end, side="right"))
        for t in times[done:last]:
            state, more = arc.at(float(t), share)
            yield state, (arc.error + more) * law.spread_of_sizes
        done = last
        if progress is not None:
            progress(arc.end / end)


def _refused_by_sizes(law: GeneralLaw, steps: Iterator[Arc[ArrayT]], accuracy: float) -> Iterator[Arc[ArrayT]]:
    """The same steps; a refusal names the class sizes, where their ratio makes most of the error."""
    try:
        yield from steps
    except ValueError as error:
        if law.spread_of_sizes < MUCH_SPREAD:
            raise
        ratio, way_out = max(law.counts) / min(law.counts), "an earlier end, a larger `accuracy`, or sizes that are closer"
        raise ValueError(
            f"{str(error).split(';')[0]}: class sizes {ratio:.3g} apart leave {law.spread_of_sizes:.3g} times the rounding in "
            f"omega, and {accuracy:.0e} was asked for; choose {way_out}"
        ) from None


def time_of_growth(law: GeneralLaw, S: Array, growth: float) -> float:
    """When the smallest omega has grown `growth`-fold from S (P, C): closed for equal classes, else to about 1e-6 of it.

    Raises ValueError for a growth below 1 and where a singular value is zero and never grows, OverflowError where the time
    overflows float64.
    """
    if not 1 <= growth < math.inf:
        raise ValueError(f"growth = {growth}: a finite factor of at least 1 is needed, singular values only grow")
    S = law.checked_scaled(S)
    start, basis = reduced_start(law, S), law.basis(S)
    if start.moving < len(start.sigma):
        raise ValueError(f"{len(start.sigma) - start.moving} of {len(start.sigma)} singular values are zero and never grow")
    if law.balanced:
        omega = (law.C**0.5) * start.sigma[-1:]
        return float(law.closed_time(growth * omega, omega)[0])

    def smallest(Z: Array) -> float:
        return float(singular_values(law.class_means(basis.expand(Z)))[start.moving - 1])

    target = growth * smallest(start.Z)
    share = SEARCH_ACCURACY / law.spread_of_sizes
    for arc in arcs(law.reduced_velocity, start.Z, math.inf, law.time_unit, share):
        if smallest(arc.state) >= target:
            return _crossing(arc, lambda Z: math.log(smallest(Z) / target))
    raise OverflowError(f"no growth by {growth:g} within float64")  # the arcs raise before


def _crossing(arc: Arc[Array], excess: Callable[[Array], float]) -> float:
    """The time inside an arc at which a function of the state becomes 0."""
    from scipy.optimize import brentq

    def at(t: float) -> float:
        return excess(arc.at(t, SEARCH_ACCURACY)[0] if t > arc.t else arc.start)

    return arc.t if at(arc.t) >= 0 else float(brentq(at, arc.t, arc.end, xtol=1e-300, rtol=1e-10))  # type: ignore[arg-type]


def peak_signs(V: ArrayT) -> ArrayT:
    """+-1 for every column, the sign of its entry of largest modulus. (K,)"""
    xp = namespace(V)
    largest = abs(V).argmax(-2)[None, :]
    peaks = xp.take_along_axis(V, largest, -2) if isinstance(V, np.ndarray) else xp.gather(V, -2, largest)
    return xp.where(peaks[0] < 0, -1.0, 1.0)
