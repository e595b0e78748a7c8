"""One run: features to the trajectory of a flow, with the discrete scheme beside it on the same features and the same clock."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ufm.flow.config import FlowConfig
from ufm.flow.motion import ClosedMotion, end_time, keeps_vectors, motion_of, output_times, run_scheme, schedule_of, thinned
from ufm.flow.result import FlowRun, StageProgress, distance_warnings, largest_gap, silent
from ufm.flow.start import Start
from ufm.interrupt import Interrupted
from ufm.laws.discrete_singular_values import DiscreteRun, kept_steps

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
    t_end = end_time(config, start)
    motion, times = motion_of(config, start), output_times(config, start, t_end)
    eta, steps, warnings = schedule_of(config, start, t_end)
    kept = eta * kept_steps(steps)
    (flow, at_steps), complete = _until_interrupted(lambda: motion.flow(times, kept, lambda share: progress("flow", share)))
    scheme = DiscreteRun(np.arange(1), start.snr.omega[None], eta)
    if complete:
        scheme, complete = _until_interrupted(
            lambda: run_scheme(config, start, eta, steps, lambda share: progress("scheme", share)), scheme
        )
    both = min(len(scheme.omega), len(at_steps))
    gap = largest_gap(scheme.omega[:both], at_steps[:both])
    residual, seconds = start.snr.whitening.residual, time.perf_counter() - began
    said = (*start.warnings, *warnings, *distance_warnings(config, gap, residual))
    result = FlowRun(config, start, flow, scheme, gap, residual, seconds, said, complete)
    if not complete:
        raise Interrupted(result)
    return result


def _until_interrupted(compute: Callable[[], Any], before: Any = None) -> tuple[Any, bool]:
    """What `compute` returns, or had when Ctrl-C came, or what there was before, and whether it is whole."""
    try:
        return compute(), True
    except Interrupted as stop:
        return stop.partial, False
    except KeyboardInterrupt:
        if before is None:
            raise
        return before, False


def check(config: FlowConfig, start: Start) -> None:
    """Raise what `run_flow` would raise for this flow, before anything is computed: ValueError, or OverflowError past float64."""
    motion = motion_of(config, start)
    if keeps_vectors(motion):
        from ufm.laws.run_cost import check_run_cost

        check_run_cost(start.layout.C, start.P, config.points or thinned(start))
    if isinstance(motion, ClosedMotion):
        motion.flow(np.array([0.0, end_time(config, start)]), np.zeros(1), lambda share: None)
