"""One measured trajectory beside the laws and the discrete scheme from its entry, and beside any other trajectory."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from manifolds.representation import short_repr
from ufm.compare.clock import LOG_OMEGA_MARGIN, Clock, fit_clock, law_from
from ufm.compare.drift import Drift, drift_of
from ufm.compare.spectra import spectra
from ufm.compare.vectors import Frozen, frozen_vectors
from ufm.compare.window import FRACTION, Window, find_window
from ufm.laws.discrete_singular_values import run_discrete, schedule
from ufm.laws.singular_value_dynamics import LAWS, RENORMALIZED
from ufm.laws.trajectory import Trajectory

SCHEME = "discrete scheme"


@dataclass(frozen=True, eq=False, repr=False)
class Pair:
    """A simulated trajectory at the best monotone clock beside a measured one: clock, errors, and spectra by name (T,)."""

    clock: Clock
    simulated: Mapping[str, np.ndarray]
    measured: Mapping[str, np.ndarray]
    __repr__ = short_repr


@dataclass(frozen=True, eq=False)
class Comparison:
    """A measured run beside every law and the scheme (`pairs`, by name), its drifts by law, and its vectors.

    Empty where the window has nothing to compare; `window.reason` says why.
    """

    window: Window
    pairs: Mapping[str, Pair]
    drifts: Mapping[str, Drift]
    frozen: Frozen | None

    @property
    def log_u(self) -> np.ndarray:
        """log(omega^2 / C) of the epochs compared. (T, K)"""
        run = self.window.compared
        assert run is not None
        return 2 * np.log(run.omega) - np.log(run.C)


def compare_trajectories(simulated: Trajectory, measured: Trajectory) -> Pair:
    """A simulated trajectory beside a measured one that starts where it does, through the best monotone clock.

    Raises ValueError for different C or K, or singular values that are not positive (`find_window` leaves those out).
    """
    if simulated.C != measured.C:
        raise ValueError(f"C = {simulated.C} simulated and C = {measured.C} measured: no clock makes them one trajectory")
    if simulated.omega.shape[1] != measured.omega.shape[1]:
        both = f"{simulated.omega.shape[1]} singular values simulated and {measured.omega.shape[1]} measured"
        raise ValueError(f"{both}: they differ in P, or one has vanishing values to be left out")
    for name, run in (("simulated", simulated), ("measured", measured)):
        if not (run.omega > 0).all():
            raise ValueError(f"a {name} singular value is {run.omega.min():.3g}: only positive ones can be compared")
    clock = fit_clock(simulated, np.log(measured.omega))
    V = measured.V[None] if measured.V_t is None else measured.V_t
    path = spectra(np.exp(clock.predicted), np.broadcast_to(V[0], (len(measured.t), *V[0].shape)), measured.C)
    V = np.broadcast_to(V, (len(measured.t), *V.shape[1:]))
    return Pair(clock, path, spectra(measured.omega, V, measured.C))


def compare(
    measured: Trajectory, fraction: float = FRACTION, from_epoch: float | None = None, to_epoch: float | None = None
) -> Comparison:
    """Everything about one run: entry, laws and scheme from there, clocks, drifts, vectors. `ufm.compare.verdict` decides.

    fraction, from_epoch and to_epoch choose the epochs compared (`ufm.compare.window.find_window`).
    """
    window = find_window(measured, fraction, from_epoch, to_epoch)
    run = window.compared
    if run is None:
        return Comparison(window, {}, {}, None)
    reach = float(run.omega.max())
    pairs = {
        name: compare_trajectories(_with_vectors(law_from(law, run.omega[0], reach, run.C, run.N), run), run)
        for name, law in LAWS.items()
    }
    scheme = _scheme(run, float(pairs[RENORMALIZED.name].clock.tau[-1]))
    if scheme is not None:
        pairs[SCHEME] = compare_trajectories(scheme, run)
    expected = {name: pairs[name].clock.predicted for name in LAWS}
    drifts = {name: drift_of(law, np.log(run.omega), run.C, expected) for name, law in LAWS.items()}
    return Comparison(window, pairs, drifts, frozen_vectors(run))


def _with_vectors(law: Trajectory, run: Trajectory) -> Trajectory:
    return Trajectory(law.t, law.omega, run.V, run.C, run.N, run.U)


def _scheme(run: Trajectory, t_end: float) -> Trajectory | None:
    """The renormalize-after-step scheme from the entry, a little past flow time t_end; None where nothing moves."""
    if not t_end > 0:
        return None
    omega0 = run.omega[0]
    eta, steps = schedule(t_end * np.exp(LOG_OMEGA_MARGIN), omega0, run.C, run.N)
    discrete = run_discrete(omega0, eta, steps, run.C, run.N)
    return Trajectory(discrete.t, discrete.omega, run.V, run.C, run.N, run.U)
