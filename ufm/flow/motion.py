"""Which law moves a run: the closed laws for equal classes, the general law or the class-mean system for everything else."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ufm.arrays import as_numpy
from ufm.flow.clock import clock_of, log_spaced, undecayed
from ufm.flow.config import FlowConfig
from ufm.flow.start import FEWEST_TIMES, Start, closed_end_time, closed_onset, scaled_means, to_total_covariance_one
from ufm.interrupt import Interrupted
from ufm.laws import discrete_singular_values as discrete
from ufm.laws.discrete_singular_values import DiscreteRun
from ufm.laws.singular_value_dynamics import EMBEDDED, LAWS, UNNORMALIZED
from ufm.laws.trajectory import Trajectory

if TYPE_CHECKING:
    from ufm.laws.general import GeneralLaw
    from ufm.laws.general_trajectory import GeneralTrajectory
    from ufm.laws.mean_system import MeanSystem

FIRST_GROWTH = 0.01  # of any singular value by that time, at most
LARGE = 2**24  # numbers in the singular vectors of a whole run, and hundreds of operations in its scheme, before both are thinned
Share = Callable[[float], None]


class ClosedMotion:
    """Equal classes under law (a), (b) or (c): omega in closed form, singular vectors frozen."""

    def __init__(self, config: FlowConfig, start: Start) -> None:
        self.law, self.start, self.decay = LAWS[config.flow], start, config.feature_decay

    def end_time(self, growth: float) -> float:
        """When the smallest omega has grown `growth`-fold."""
        return clock_of(closed_end_time(self.law, self.start, growth), self.decay)

    def onset(self, t_end: float) -> float:
        """A time by which no omega has grown by more than 1 %."""
        return clock_of(closed_onset(self.law, self.start, t_end), self.decay)

    def flow(self, times: np.ndarray, beside: np.ndarray, progress: Share) -> tuple[Trajectory, np.ndarray]:
        """The flow at `times` (T,), and omega alone at the times `beside` (B,)."""
        snr, C, N = self.start.snr, self.start.layout.C, self.start.layout.N
        omega, at_steps = (self.law.omega(undecayed(t, self.decay), snr.omega, C, N) for t in (times, beside))
        return Trajectory(times, omega, snr.V, C, N, snr.U), at_steps


class GeneralMotion:
    """Any class sizes, ridge and kernel ratio, on renormalized features: the general law, in the coordinates of U."""

    def __init__(self, config: FlowConfig, start: Start) -> None:
        ratio = math.inf if config.flow == EMBEDDED.name else config.kernel_ratio
        self.law, self.start = general_law(config, start, ratio), start
        self.S = scaled_means(start)

    def end_time(self, growth: float) -> float:
        """When the smallest omega has grown `growth`-fold, to about 1e-6 of it."""
        from ufm.laws.general_states import time_of_growth

        return time_of_growth(self.law, self.S, growth)

    def onset(self, t_end: float) -> float:
        """A time by which no omega has grown by more than 1 %."""
        return FIRST_GROWTH * self.law.time_unit

    def flow(self, times: np.ndarray, beside: np.ndarray, progress: Share) -> tuple[Trajectory, np.ndarray]:
        """The flow at `times` (T,), with V_t and U_t where the vectors move, and omega alone at the times `beside` (B,)."""
        from ufm.laws.general_run import run_general_beside

        try:
            run, at_steps = run_general_beside(self.law, self.S, times, beside, progress=progress)
        except Interrupted as stop:
            run, at_steps = stop.partial
            raise Interrupted((self._trajectory(run), at_steps)) from None
        try:
            return self._trajectory(run), at_steps
        except KeyboardInterrupt:  # the integration is done: a second Ctrl-C ends this as well
            raise Interrupted((self._trajectory(run), at_steps)) from None

    def _trajectory(self, run: "GeneralTrajectory") -> Trajectory:
        """The same with left vectors in the coordinates of the features, signs as in the start."""
        flow, measured = run.trajectory(), self.start.snr
        U_t = None if flow.U_t is None or measured.U is None else measured.U @ flow.U_t
        flow = replace(flow, observed={**flow.observed, "u": as_numpy(run.u)}, U_t=U_t)
        return replace(flow, V=measured.V, U=measured.U, V_t=along(measured.V, flow.V_t), U_t=along(measured.U, U_t))


class MeanMotion:
    """The unnormalized flow from any start, with any class sizes and kernel ratio: the closed system of its class means."""

    def __init__(self, config: FlowConfig, start: Start) -> None:
        self.start, self.decay, self.raw = start, config.feature_decay, config.start == "raw"
        self.turns = vectors_turn(config, start)
        self.system = mean_system_of(config, start)

    def end_time(self, growth: float) -> float:
        """When the smallest omega has grown `growth`-fold."""
        from ufm.laws.mean_run import growth_time

        return clock_of(growth_time(self.system, growth), self.decay)

    def onset(self, t_end: float) -> float:
        """A time by which no omega has grown by more than 1 %."""
        system, pi = self.system, self.start.layout.priors
        return FIRST_GROWTH * system.n * float(system.a.min()) / (max(1.0, system.kernel_ratio) * float(pi.max()))

    def flow(self, times: np.ndarray, beside: np.ndarray, progress: Share) -> tuple[Trajectory, np.ndarray]:
        """The flow at `times` (T,), with V_t and U_t where they are wanted, and omega alone at the times `beside` (B,)."""
        from ufm.laws.mean_run import run_raw

        every, measured = np.union1d(times, beside), self.start.snr
        wanted = None if measured.U is None else np.isin(every, times)
        try:
            flow, stopped = run_raw(self.system, undecayed(every, self.decay), progress=progress, left_vectors=wanted), False
        except Interrupted as stop:
            flow, stopped = stop.partial, True
        reached = every[: len(flow.t)]
        shown, compared = (np.searchsorted(every, t[t <= reached[-1]]) for t in (times, beside))
        part = flow.rows(shown)
        U_t = part.U_t if part.U_t is None or self.raw else measured.U @ part.U_t
        moving = (along(measured.V, part.V_t), along(measured.U, U_t)) if self.turns else (None, None)
        part = replace(part, t=reached[shown], V=measured.V, U=measured.U, V_t=moving[0], U_t=moving[1])
        if stopped:
            raise Interrupted((part, flow.omega[compared]))
        return part, flow.omega[compared]


def motion_of(config: FlowConfig, start: Start) -> "ClosedMotion | GeneralMotion | MeanMotion":
    """The law of this run."""
    if config.flow == UNNORMALIZED.name:
        return ClosedMotion(config, start) if is_plain(config, start) and config.start != "raw" else MeanMotion(config, start)
    return ClosedMotion(config, start) if is_plain(config, start) else GeneralMotion(config, start)


def end_time(config: FlowConfig, start: Start) -> float:
    """t_end, or the time at which the smallest omega has grown `growth`-fold under the flow."""
    if config.t_end is not None:
        return config.t_end
    omega0 = start.snr.omega
    if not omega0[-1] > 0:
        zeros = int((omega0 == 0).sum())
        raise ValueError(f"{zeros} of {len(omega0)} singular values are zero and never grow: give t_end instead of growth")
    return motion_of(config, start).end_time(config.growth)


def output_times(config: FlowConfig, start: Start, t_end: float) -> np.ndarray:
    """0 and logarithmically spaced times up to t_end, the first before any value has grown by 1 %. (points,)"""
    motion = motion_of(config, start)
    points = config.points or (thinned(start) if keeps_vectors(motion) else 1000)
    return log_spaced(t_end, motion.onset(t_end), points)


def keeps_vectors(motion: "ClosedMotion | GeneralMotion | MeanMotion") -> bool:
    """Whether singular vectors are held at every time: not where they are frozen."""
    return isinstance(motion, MeanMotion) or (isinstance(motion, GeneralMotion) and not motion.law.balanced)


def thinned(start: Start) -> int:
    """Output times where vectors move: 1000, fewer where so many of them, K (C + P) numbers each, would not fit into memory."""
    K, P = len(start.snr.omega), start.P
    return max(FEWEST_TIMES, min(1000, LARGE // (K * (start.layout.C + (K if start.snr.U is None else P)))))


def schedule_of(config: FlowConfig, start: Start, t_end: float) -> tuple[float, int, tuple[str, ...]]:
    """Step size, steps and warnings of the discrete scheme (D.1) with the ridge and the kernel of the run."""
    layout, omega0 = start.layout, start.snr.omega
    if is_plain(config, start):
        C, N = layout.C, layout.N
        eta, steps = discrete.schedule(t_end, omega0, C, N, config.eta, config.steps)
        return eta, steps, discrete.step_warnings(t_end, eta, steps, omega0, C, N)
    from ufm.laws.general_discrete import safe_step

    safe = safe_step(general_law(config, start, config.kernel_ratio))
    default = 1000 if layout.balanced else max(20, min(1000, 400 * LARGE // (len(omega0) ** 2 * layout.C)))
    eta, steps = discrete.schedule_within(t_end, safe, config.eta, config.steps, default)
    return eta, steps, discrete.warnings_within(t_end, eta, steps, safe, f"{safe:g} for these classes")


def run_scheme(config: FlowConfig, start: Start, eta: float, steps: int, progress: Share) -> DiscreteRun:
    """The discrete scheme (D.1) on its singular values, or on its class means where classes, ridge or kernel ask for it."""
    layout, omega0 = start.layout, start.snr.omega
    if is_plain(config, start):
        return discrete.run_discrete(omega0, eta, steps, layout.C, layout.N, lambda done: progress(done / steps))
    from ufm.laws.general_discrete import run_general_discrete

    law = general_law(config, start, config.kernel_ratio)
    try:
        run = run_general_discrete(law, scaled_means(start), eta, steps, lambda done: progress(done / steps))
    except Interrupted as stop:
        raise Interrupted(DiscreteRun(stop.partial.steps, stop.partial.omega, eta)) from None
    return DiscreteRun(run.steps, as_numpy(run.omega), eta)


def is_plain(config: FlowConfig, start: Start) -> bool:
    """Whether singular values alone decide everything: equal classes, no ridge, one speed of means and deviations."""
    return start.layout.balanced and config.ridge == 0 and config.kernel_ratio == 1


def vectors_turn(config: FlowConfig, start: Start) -> bool:
    """Whether singular vectors move: of unequal classes, and from a raw start."""
    return not start.layout.balanced or config.start == "raw"


def general_law(config: FlowConfig, start: Start, kernel_ratio: float) -> "GeneralLaw":
    """The general law of these classes."""
    from ufm.laws.general import GeneralLaw

    return GeneralLaw(start.layout.sizes, config.ridge, kernel_ratio)


def mean_system_of(config: FlowConfig, start: Start) -> "MeanSystem":
    """The class-mean system from the features as they are, or brought to total covariance I.

    The latter in the coordinates of U (K of them): nothing moves outside, where both covariances stay I.
    """
    from ufm.features.snr import renormalized_features, snr
    from ufm.laws.mean_system import mean_system

    if start.statistics is not None:
        from ufm.flow.sharded_start import factored_system

        return factored_system(config, start, start.statistics)
    if config.start == "raw":
        return mean_system(start.features, start.layout, start.snr, config.kernel_ratio)
    X, measured = renormalized_features(start.features, start.layout)
    H = measured.left_vectors.T @ to_total_covariance_one(X, measured, start)
    return mean_system(H, start.layout, snr(H, start.layout), config.kernel_ratio)


def along(vectors: np.ndarray | None, moving: np.ndarray | None) -> np.ndarray | None:
    """Moving vectors (T, ., K) with the signs that `vectors` (., K) have at the start."""
    return moving if vectors is None or moving is None else moving * np.where((moving[0] * vectors).sum(0) < 0, -1.0, 1.0)
