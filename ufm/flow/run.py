"""One run: features to the trajectory of a flow, with the discrete scheme beside it on the same features and the same clock."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ufm.flow.config import FlowConfig
from ufm.flow.result import FlowRun, StageProgress, largest_gap, silent
from ufm.flow.start import Start, end_time, output_times
from ufm.interrupt import Interrupted
from ufm.laws import discrete
from ufm.laws.closed import LAWS
from ufm.laws.trajectory import Trajectory

if TYPE_CHECKING:
    from pathlib import Path


def run_flow(config: FlowConfig, start: Start, progress: StageProgress = silent, checkpoint: "Path | None" = None) -> FlowRun:
    """The flow and the scheme from `start`. `progress` gets a stage and the share of it that is done.

    `checkpoint` is where a --full run keeps its state, and from where it resumes; it stays until the caller, who has stored the
    result, deletes it.
    Raises ValueError where no run can be made; Interrupted, a KeyboardInterrupt with the run so far, on Ctrl-C.
    """
    if config.full:
        from ufm.flow.full_state import run_full

        return run_full(config, start, progress, checkpoint)
    began = time.perf_counter()
    C, N, measured = start.layout.C, start.layout.N, start.snr
    t_end, motion = _motion(config, start, progress)
    times = output_times(config, t_end, measured.omega, C, N)
    eta, steps = discrete.schedule(t_end, measured.omega, C, N, config.eta, config.steps)
    flow, complete = _attempt(lambda: motion(times))
    scheme, at_steps = discrete.DiscreteRun(np.arange(1), measured.omega[None], eta), flow.rows(np.arange(1))
    if complete:
        told = lambda done: progress("scheme", done / steps)  # noqa: E731
        scheme, complete = _attempt(lambda: discrete.run_discrete(measured.omega, eta, steps, C, N, told))
        at_steps, whole = _attempt(lambda: motion(scheme.t))
        complete &= whole
    gap = largest_gap(scheme.omega[: len(at_steps.t)], at_steps.omega)
    warnings = (*start.warnings, *discrete.step_warnings(t_end, eta, steps, measured.omega, C, N))
    residual, seconds = measured.whitening.residual, time.perf_counter() - began
    result = FlowRun(config, start, flow, scheme, gap, residual, seconds, warnings, complete)
    if not complete:
        raise Interrupted(result)
    return result


def _attempt(compute: Callable[[], Any]) -> tuple[Any, bool]:
    """What `compute` returns, or had when Ctrl-C came, and whether it is whole."""
    try:
        return compute(), True
    except Interrupted as stop:
        return stop.partial, False


def _motion(config: FlowConfig, start: Start, progress: StageProgress) -> tuple[float, Callable[[np.ndarray], Trajectory]]:
    """The end time, and the flow at ascending times (T,) that begin with 0."""
    C, N, measured = start.layout.C, start.layout.N, start.snr
    t_end = end_time(config, start)
    if config.start == "raw":
        from ufm.laws.mean_system import mean_system, run_raw

        system = mean_system(start.H, start.layout, measured)
        return t_end, lambda times: replace(
            run_raw(system, times, progress=lambda share: progress("flow", share)), V=measured.V, U=measured.U
        )
    law = LAWS[config.flow]
    return t_end, lambda times: Trajectory(times, law.omega(times, measured.omega, C, N), measured.V, C, N, measured.U)


def check(config: FlowConfig, start: Start) -> None:
    """Raise what `run_flow` would raise for this flow, before anything is computed: ValueError, or OverflowError past float64."""
    if config.start != "raw":
        LAWS[config.flow].omega(np.array(end_time(config, start)), start.snr.omega, start.layout.C, start.layout.N)
