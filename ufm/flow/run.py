"""One run: features to the trajectory of a flow, with the discrete scheme beside it on the same features and the same clock."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ufm.flow.config import FlowConfig
from ufm.flow.result import FlowRun, Progress, largest_gap, silent
from ufm.flow.start import Start, end_time, output_times
from ufm.laws import discrete
from ufm.laws.closed import LAWS
from ufm.laws.trajectory import Trajectory

if TYPE_CHECKING:
    from pathlib import Path


def run(config: FlowConfig, start: Start, progress: Progress = silent, checkpoint: "Path | None" = None) -> FlowRun:
    """The flow and the scheme from `start`. `progress` gets a stage and the share of it that is done.

    `checkpoint` is where a --full run keeps its state, and from where it resumes. Raises ValueError where no run can be made.
    """
    if config.full:
        from ufm.flow.full_state import run_full

        return run_full(config, start, progress, checkpoint)
    began = time.perf_counter()
    C, N, found = start.layout.C, start.layout.N, start.snr
    t_end, omega_at = _motion(config, start, progress)
    times = output_times(config, t_end, found.omega, C, N)
    eta, steps = discrete.schedule(t_end, found.omega, C, N, config.eta, config.steps)
    omega = omega_at(times)
    flow = Trajectory(times[: len(omega)], omega, found.V, C, N, found.U)
    scheme = discrete.run_discrete(found.omega, eta, steps, C, N, lambda done: progress("scheme", done / steps))
    at_steps = omega_at(scheme.t)
    gap = largest_gap(scheme.omega[: len(at_steps)], at_steps)
    warnings = (*start.warnings, *discrete.step_warnings(t_end, eta, steps, found.omega, C, N))
    complete = {"complete": float(scheme.steps[-1] == steps and len(omega) == len(times) and len(at_steps) == len(scheme.t))}
    return FlowRun(config, start, flow, scheme, gap, found.whitening.residual, time.perf_counter() - began, warnings, complete)


def _motion(config: FlowConfig, start: Start, progress: Progress) -> tuple[float, Callable[[np.ndarray], np.ndarray]]:
    """The end time, and omega (T, K) of the flow at ascending times (T,) that begin with 0 (fewer where it is interrupted)."""
    C, N, omega0 = start.layout.C, start.layout.N, start.snr.omega
    t_end = end_time(config, start)
    if config.start == "raw":
        from ufm.laws.mean_system import mean_system, run_raw

        system = mean_system(start.H, start.layout, start.snr)
        return t_end, lambda times: run_raw(system, times, progress=lambda share: progress("flow", share)).omega
    return t_end, lambda times: LAWS[config.flow].omega(times, omega0, C, N)


def check(config: FlowConfig, start: Start) -> None:
    """Raise what `run` would raise for this flow, before anything is computed: ValueError, or OverflowError past float64."""
    if config.start != "raw":
        LAWS[config.flow].omega(np.array(end_time(config, start)), start.snr.omega, start.layout.C, start.layout.N)
