"""The same run with the whole tensor X carried through both schemes: the expensive control of the laws.

Nothing here knows the laws: the flow is integrated from its projection and its gradient, the scheme renormalizes X after every
step. numpy, or torch on any device. A checkpoint every few seconds makes a killed run resume with bitwise the same result.
Of several processes each carries the columns of its share (`ufm.flow.share`).
"""

import hashlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from manifolds.linalg import Array
from manifolds.normalized_features import renormalize
from ufm.features.snr import Snr, deviations_and_means, renormalized_by, renormalized_features
from ufm.flow.checkpoints import Checkpoint, SharedCheckpoint
from ufm.flow.config import FlowConfig
from ufm.flow.motion import end_time, output_times, schedule_of, vectors_turn
from ufm.flow.result import FlowRun, StageProgress, distance_warnings, largest_gap, spectral_losses
from ufm.flow.share import ColumnShare
from ufm.flow.stages import WANTED, FlowStage, SchemeStage
from ufm.flow.start import Start, on_device, to_total_covariance_one
from ufm.interrupt import Interrupted
from ufm.laws.discrete_singular_values import DiscreteRun, kept_steps
from ufm.laws.singular_value_dynamics import UNNORMALIZED
from ufm.laws.trajectory import Trajectory


def starting_states(config: FlowConfig, start: Start) -> tuple[Array, Array]:
    """X for the scheme, and the start of the flow: X, or X brought to total covariance I, or the centred raw features."""
    X, measured = _renormalized(start)
    flow_start = X
    if config.start == "raw":
        H = start.features.astype(np.float64)
        flow_start = H - (H.mean(-1, keepdims=True) if start.statistics is None else start.statistics.mean[:, None])
    elif config.flow == UNNORMALIZED.name:
        flow_start = to_total_covariance_one(X, measured, start)
    placed = _place(X.astype(config.dtype, copy=False), config.device)
    if flow_start is X:  # neither stage writes into its state, so one X serves both
        return placed, placed
    return placed, _place(flow_start.astype(config.dtype, copy=False), config.device)


def _renormalized(start: Start) -> tuple[np.ndarray, Snr[np.ndarray]]:
    """X at hand, and its SNR; of shards by the statistics of all of them."""
    known = start.statistics
    if known is None:
        return renormalized_features(start.features, start.layout)
    near = known.mean[:, None] + known.centred_means
    D, M = deviations_and_means(start.features.astype(np.float64, copy=False), start.layout, near)
    X = renormalized_by(start.snr.whitening, D, M, start.layout)
    return renormalize(X, start.layout), start.snr  # once more: the statistics know Sigma_W to eps cond(Sigma_W)^(1/2)


def run_full(config: FlowConfig, start: Start, progress: StageProgress, path: Path | None) -> FlowRun:
    """`ufm.flow.run.run_flow` on the full state; the checkpoint stays, whether the run is finished or interrupted."""
    began = time.perf_counter()
    X, H = starting_states(config, start)
    t_end = end_time(config, start)
    eta, steps, warnings = schedule_of(config, start, t_end)
    checkpoint = checkpoint_of(config, start, t_end, path)
    times, eta, steps = checkpoint.schedule(output_times(config, start, t_end), eta, steps)
    kept = kept_steps(steps)
    every_time = np.union1d(times, eta * kept)
    flow = FlowStage(config, H, every_time, start, np.isin(every_time, times))
    scheme = SchemeStage(config, X, eta, kept, start)
    try:
        flow.run(checkpoint, progress)
        scheme.run(checkpoint, progress)
        complete = True
    except Interrupted:  # both hold what they have computed
        complete = False
    trajectory = whole_trajectory(config, start, times, every_time, flow)
    discrete_run = DiscreteRun(kept[: scheme.count], scheme.omega[: scheme.count], eta)
    gap = largest_gap(discrete_run.omega, flow.omega[np.searchsorted(every_time, discrete_run.t)])
    residual = max(flow.residual(), scheme.residual())
    result = FlowRun(
        config,
        start,
        trajectory,
        discrete_run,
        gap,
        residual,
        time.perf_counter() - began,
        (*start.warnings, *warnings, *distance_warnings(config, gap, residual)),
        complete,
        {"overlap": flow.overlap()},
    )
    if not complete:
        raise Interrupted(result)
    return result


def whole_trajectory(config: FlowConfig, start: Start, times: np.ndarray, every_time: np.ndarray, flow: FlowStage) -> Trajectory:
    """What the flow's stage has recorded at the output times reached, with the losses where omega alone does not decide them."""
    layout, measured = start.layout, start.snr
    V_t = flow.V_t if vectors_turn(config, start) else None
    shown = np.searchsorted(every_time, times)
    shown = shown[shown < flow.count]
    bare = Trajectory(
        every_time, flow.omega, measured.V, layout.C, layout.n // layout.C, measured.U, V_t, counts=layout.sizes
    ).rows(shown)
    U_t = flow.U_t[: len(shown)] if len(flow.U_t) else None
    observed = {} if layout.balanced and config.ridge == 0 else spectral_losses(bare, layout.priors, config.ridge)
    return Trajectory(bare.t, bare.omega, bare.V, bare.C, bare.N, bare.U, bare.V_t, U_t, observed, layout.sizes)


def checkpoint_of(config: FlowConfig, start: Start, t_end: float, path: Path | None) -> Checkpoint:
    """Where this run keeps its state. It belongs to its options, and to its features by their SHA-256, wherever they lie."""
    decided: dict[str, Any] = {name: value for name, value in asdict(config).items() if name != "features"}
    if start.digest is None:
        digest = hashlib.sha256(np.ascontiguousarray(start.features).data).hexdigest()
        return Checkpoint(path, {**decided, "t_end": t_end, "sha256 of the features": digest}, WANTED)
    decided["digest of the rows"] = start.digest
    if config.reduce:  # the basis of the range is known to rounding, and where eigenvalues are close its vectors are any
        decided["processes"] = start.layout.group.size if isinstance(start.layout, ColumnShare) else 1
    return SharedCheckpoint(path, decided, WANTED, start)


def _place(H: np.ndarray, device: str | None) -> Array:
    return H if device is None else on_device(H, device)
