"""The same run with the whole tensor X carried through both schemes: the expensive control of the closed laws.

Nothing here knows the laws: the flow is integrated from its projection and its gradient, the scheme renormalizes X after every
step. numpy, or torch on any device. A checkpoint every few seconds makes a killed run resume with bitwise the same result.
"""

import hashlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from manifolds.geometry import constraint_residual
from manifolds.linalg import Array, epsilon, namespace
from ufm.arrays import as_numpy
from ufm.features.snr import renormalized_features, snr
from ufm.files import store
from ufm.flow.config import FlowConfig
from ufm.flow.result import FlowRun, StageProgress, largest_gap
from ufm.flow.start import Start, end_time, on_device, output_times
from ufm.interrupt import Interrupted
from ufm.laws import discrete
from ufm.laws.closed import UNNORMALIZED
from ufm.laws.discrete import DiscreteRun
from ufm.laws.trajectory import Trajectory, follow
from ufm.tensor.integrate import dormand_prince, observe_at
from ufm.tensor.vector_fields import FLOWS, central_path_field, central_path_gradient, renormalize_after_step

CHECKPOINT_SECONDS = 10.0
OFF_MANIFOLD = 1e-2  # residual of a stored state: float32 runs stay a hundred times below
TOLERANCE = 1e-9  # local error of the integrator, relative; never below 50 eps of the dtype


class Checkpoint:
    """Where a run keeps its state; does nothing without a path."""

    def __init__(self, path: Path | None, config: dict[str, Any]) -> None:
        self.path, self.config = path, config
        self.saved = {} if path is None else store.load_checkpoint(path, config) or {}
        self.last = time.monotonic()

    def offer(self, arrays: dict[str, np.ndarray], force: bool = False) -> None:
        """Keep these arrays (beside those of earlier stages) if enough time has passed."""
        if self.path is None or not (force or time.monotonic() - self.last > CHECKPOINT_SECONDS):
            return
        self.saved |= arrays
        store.save_checkpoint(self.path, self.config, self.saved)
        self.last = time.monotonic()


def starting_states(config: FlowConfig, start: Start) -> tuple[Array, Array]:
    """X for the scheme, and the start of the flow: X, or X brought to total covariance I, or the centred raw features."""
    X, found = renormalized_features(start.H, start.layout)
    flow_start = X
    if config.start == "raw":
        H = start.H.astype(np.float64)
        flow_start = H - H.mean(-1, keepdims=True)
    elif config.flow == UNNORMALIZED.name:
        shrink = (1 + found.omega**2 / start.layout.C) ** -0.5
        flow_start = X + (found.left_vectors * (shrink - 1)) @ (found.left_vectors.T @ X)
    placed = _place(X.astype(config.dtype, copy=False), config.device)
    if flow_start is X:  # neither stage writes into its state, so one X serves both
        return placed, placed
    return placed, _place(flow_start.astype(config.dtype, copy=False), config.device)


def run_full(config: FlowConfig, start: Start, progress: StageProgress, path: Path | None) -> FlowRun:
    """`ufm.flow.run.run_flow` on the full state; the checkpoint stays, whether the run is finished or interrupted."""
    began = time.perf_counter()
    classes, found = start.layout, start.snr
    C, N = classes.C, classes.N
    X, H = starting_states(config, start)
    t_end = end_time(config, start)
    eta, steps = discrete.schedule(t_end, found.omega, C, N, config.eta, config.steps)
    kept = discrete.kept_steps(steps)
    times = output_times(config, t_end, found.omega, C, N)
    every_time = np.union1d(times, eta * kept)
    identity = {"t_end": t_end, "sha256 of the features": hashlib.sha256(np.ascontiguousarray(start.H).data).hexdigest()}
    decided = {
        name: value for name, value in asdict(config).items() if name != "features"
    }  # their SHA-256 counts, not their path
    checkpoint = Checkpoint(path, {**decided, **identity})
    flow = _FlowStage(config, H, every_time, start).run(checkpoint, progress)
    scheme = _SchemeStage(X, eta, kept, start).run(checkpoint, progress) if flow.complete else None
    trajectory = Trajectory(every_time, flow.omega, found.V, C, N, found.U)
    steps_done = kept[: 1 if scheme is None else scheme.count]
    discrete_run = DiscreteRun(steps_done, found.omega[None] if scheme is None else scheme.omega[: scheme.count], eta)
    at_steps = np.searchsorted(every_time, discrete_run.t)
    gap = largest_gap(discrete_run.omega, flow.omega[at_steps])
    shown = np.searchsorted(every_time, times)
    complete = scheme is not None and scheme.complete
    result = FlowRun(
        config,
        start,
        trajectory.rows(shown[shown < flow.count]),
        discrete_run,
        gap,
        max(flow.residual(), found.whitening.residual if scheme is None else scheme.residual()),
        time.perf_counter() - began,
        (*start.warnings, *discrete.step_warnings(t_end, eta, steps, found.omega, C, N)),
        complete,
        {"overlap": flow.overlap()},
    )
    if not complete:
        raise Interrupted(result)
    return result


class _Stage:
    """Singular values read from class means at `total` moments, each following its right vector; resumable."""

    name = ""
    scalars: ClassVar[dict[str, tuple[int, ...]]] = {}

    def __init__(self, state: Array, total: int, start: Start) -> None:
        self.state, self.total, self.layout = state, total, start.layout
        self.V0 = self.V = start.snr.V
        self.omega = np.full((total, len(start.snr.omega)), np.nan)
        self.omega[0] = start.snr.omega
        self.count = 1

    @property
    def complete(self) -> bool:
        """Whether every moment has been reached."""
        return self.count == self.total

    def read(self, M: Array) -> tuple[np.ndarray, np.ndarray]:
        """omega (K,) and V (C, K) of class means on the manifold (P, C)."""
        _, omega, Vt = np.linalg.svd(as_numpy(M), full_matrices=False)
        K = self.omega.shape[1]
        return omega[:K], Vt[:K].T

    def record(self, M: Array) -> None:
        """Take the singular values of the class means at the next moment."""
        self.omega[self.count], self.V = follow(self.V, *self.read(M))
        self.count += 1

    def residual(self) -> float:
        """||X C_M X^T - I||_F of the state now."""
        return float(constraint_residual(self.state, self.layout))

    def overlap(self) -> float:
        """min_j |<v_j(start), v_j(now)>|, 1 for frozen vectors."""
        return float(abs((self.V0 * self.V).sum(0)).min())

    def saved(self, **more: float) -> dict[str, np.ndarray]:
        """Everything that resuming needs, by name."""
        fields = {"state": as_numpy(self.state), "omega": self.omega, "V": self.V, "count": np.array(self.count)}
        fields |= {name: np.array(value) for name, value in more.items()}
        return {f"{self.name}_{name}": value for name, value in fields.items()}

    def restore(self, checkpoint: Checkpoint) -> dict[str, np.ndarray]:
        """Take the state of a checkpoint over, where it has one; returns all that was saved for this stage."""
        saved = {key.removeprefix(f"{self.name}_"): value for key, value in checkpoint.saved.items() if key.startswith(self.name)}
        if saved:
            self._check_saved(saved, checkpoint.path)
            self.state = _like(saved["state"], self.state)
            self.omega, self.V, self.count = saved["omega"], saved["V"], int(saved["count"])
            if not self.residual() <= OFF_MANIFOLD:
                raise ValueError(f"{checkpoint.path} is damaged: its state violates what the {self.name} conserves; delete it")
        return saved

    def _check_saved(self, saved: dict[str, np.ndarray], path: Path | None) -> None:
        """Raise ValueError unless every array is there, of the shape that this run has, finite and counted right."""
        shapes = {"state": tuple(self.state.shape), "omega": self.omega.shape, "V": self.V0.shape, "count": (), **self.scalars}
        for name, shape in shapes.items():
            value = saved.get(name)
            if value is None or value.shape != shape or value.dtype.kind not in "fi":
                raise ValueError(f"{path} is damaged: {self.name}_{name} is not of shape {shape}; delete it to start again")
        count = int(saved["count"])
        counted = 1 <= count <= self.total and np.isfinite(saved["omega"][:count]).all()
        if not (counted and all(np.isfinite(saved[name]).all() for name in shapes if name != "omega")):
            raise ValueError(f"{path} is damaged: {self.name}_count = {count} does not go with its numbers; delete it")


class _FlowStage(_Stage):
    name = "flow"
    scalars: ClassVar[dict[str, tuple[int, ...]]] = {"t": (), "size": ()}

    def __init__(self, config: FlowConfig, state: Array, times: np.ndarray, start: Start) -> None:
        super().__init__(state, len(times), start)
        self.times, self.flow = times, FLOWS[config.flow]
        self.system = None
        if config.flow == UNNORMALIZED.name:
            from ufm.laws.mean_system import mean_system

            H = as_numpy(state).astype(np.float64)
            self.system = mean_system(H, start.layout, snr(H, start.layout))

    def read(self, M: Array) -> tuple[np.ndarray, np.ndarray]:
        """omega and V of class means; off the manifold through the conserved total covariance."""
        if self.system is None:
            return super().read(M)
        return self.system.snr(self.system.state_of(as_numpy(M)))

    def residual(self) -> float:
        """||X C_M X^T - I||_F now; for the unnormalized flow the drift of H H^T / n, which it conserves, whitened."""
        if self.system is None:
            return super().residual()
        B = self.system.frame @ as_numpy(self.state)
        return float(np.linalg.norm(B @ B.T / self.layout.n - np.eye(len(B))))

    def run(self, checkpoint: Checkpoint, progress: StageProgress) -> "_FlowStage":
        """Integrate from the start, or from the checkpoint, to the last time."""
        saved = self.restore(checkpoint)
        t, size = (float(saved["t"]), float(saved["size"])) if saved else (0.0, None)
        if self.complete:
            return self
        tolerance = max(TOLERANCE, 50 * epsilon(self.state))
        field = central_path_field(self.flow, self.layout)
        steps = dormand_prince(field, self.state, t, float(self.times[-1]), self.layout.means, tolerance, size)
        try:
            for step, values in observe_at(steps, self.times[self.count :]):
                for M in values:
                    self.record(M)
                self.state, t, size = step.X, step.t, step.next_size
                checkpoint.offer(self.saved(t=t, size=size), force=self.complete)
                progress("flow", t / float(self.times[-1]))
        except KeyboardInterrupt:
            if size is not None:
                checkpoint.offer(self.saved(t=t, size=size), force=True)
        return self


class _SchemeStage(_Stage):
    name = "scheme"

    def __init__(self, state: Array, eta: float, kept: np.ndarray, start: Start) -> None:
        super().__init__(state, len(kept), start)
        self.eta, self.kept = eta, kept

    def run(self, checkpoint: Checkpoint, progress: StageProgress) -> "_SchemeStage":
        """Renormalize after every step, from the start or the checkpoint, to the last step."""
        self.restore(checkpoint)
        consistent = (self.state, self.count, self.V)
        try:
            while not self.complete:
                X = self.state
                for _ in range(int(self.kept[self.count] - self.kept[self.count - 1])):
                    X = renormalize_after_step(X, self.eta, lambda X: central_path_gradient(X, self.layout), self.layout)
                self.record(self.layout.means(X))
                consistent = (X, self.count, self.V)  # one assignment: an interrupt finds either the old or the new state
                self.state = X
                checkpoint.offer(self.saved())
                progress("scheme", self.count / self.total)
        except KeyboardInterrupt:
            self.state, self.count, self.V = consistent
            checkpoint.offer(self.saved(), force=True)
        return self


def _place(H: np.ndarray, device: str | None) -> Array:
    return H if device is None else on_device(H, device)


def _like(values: np.ndarray, x: Array) -> Array:
    return values if namespace(x) is np else namespace(x).as_tensor(values, device=x.device)
