"""The two stages of a run on the whole tensor, flow and scheme, each of which resumes from a checkpoint."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from manifolds.linalg import Array, array_like, epsilon
from manifolds.normalized_features import constraint_residual
from ufm.arrays import as_numpy
from ufm.distributed import raised_in_all
from ufm.features.snr import snr
from ufm.flow.checkpoints import Checkpoint
from ufm.flow.config import FlowConfig
from ufm.flow.motion import vectors_turn
from ufm.flow.result import StageProgress
from ufm.flow.start import Start
from ufm.interrupt import Interrupted
from ufm.laws.singular_value_dynamics import UNNORMALIZED
from ufm.laws.trajectory import follow
from ufm.tensor.integrate import dormand_prince, observe_at
from ufm.tensor.renormalized_flow import FLOWS, central_path_field, manifold_gradient, renormalize_after_step

OFF_MANIFOLD = 1e-2  # residual of a stored state: float32 runs stay a hundred times below
STEP_TOLERANCE = 1e-9  # local error of the integrator, relative; never below 50 eps of the dtype


class Stage:
    """Singular values read from class means at `total` moments, each following its right vector; resumable."""

    name = ""
    scalars: ClassVar[dict[str, tuple[int, ...]]] = {}

    def __init__(self, state: Array, total: int, start: Start, turns: bool, wanted: np.ndarray | None = None) -> None:
        self.state, self.total, self.layout, self.t = state, total, start.layout, 0.0
        self.V0 = self.V = start.snr.V
        self.omega = np.full((total, len(start.snr.omega)), np.nan)
        self.omega[0] = start.snr.omega
        self.count = 1
        self.V_t = np.full((total if turns else 1, *self.V0.shape), np.nan)
        self.V_t[0] = self.V0
        self.wanted = np.zeros(total, dtype=bool) if wanted is None else wanted  # moments whose left vectors are kept
        self.U_t = np.full((int(self.wanted.sum()) if turns else 0, start.P, len(start.snr.omega)), np.nan)
        self.U_t[:1] = start.snr.left_vectors

    @property
    def complete(self) -> bool:
        """Whether every moment has been reached."""
        return self.count == self.total

    def read(self, M: Array) -> tuple[np.ndarray, np.ndarray]:
        """omega (K,) and V (C, K) of class means on the manifold (P, C)."""
        _, omega, Vt = np.linalg.svd(as_numpy(M), full_matrices=False)
        K = self.omega.shape[1]
        return omega[:K], Vt[:K].T

    def left_vectors(self, M: Array, omega: np.ndarray, V: np.ndarray) -> np.ndarray:
        """The left vectors (P, K) of the same class means that go with omega and V; columns of zeros where omega = 0."""
        return as_numpy(M) @ V / np.where(omega > 0, omega, np.inf)

    def record(self, M: Array) -> None:
        """Take the singular values of the class means at the next moment."""
        self.omega[self.count], V = follow(self.V, *self.read(M))
        if len(self.V_t) > 1:
            V = self.V_t[self.count] = V * np.where((V * self.V).sum(0) < 0, -1.0, 1.0)
        if self.wanted[self.count] and len(self.U_t):
            self.U_t[self.wanted[: self.count].sum()] = self.left_vectors(M, self.omega[self.count], V)
        self.V, self.count = V, self.count + 1  # together and last: an interrupt finds the moment taken, or not

    def residual(self) -> float:
        """||X C_M X^T - I||_F of the state now."""
        return float(constraint_residual(self.state, self.layout))

    def overlap(self) -> float:
        """min_j |<v_j(start), v_j(now)>|, 1 for frozen vectors."""
        return float(abs((self.V0 * self.V).sum(0)).min())

    def saved(self, **more: float) -> dict[str, np.ndarray]:
        """Everything that resuming needs, by name."""
        fields = {"state": as_numpy(self.state), "omega": self.omega, "V": self.V, "V_t": self.V_t, "U_t": self.U_t}
        fields["count"] = np.array(self.count)
        fields |= {name: np.array(value) for name, value in more.items()}
        return {f"{self.name}_{name}": value for name, value in fields.items()}

    def restore(self, checkpoint: Checkpoint) -> dict[str, np.ndarray]:
        """Take the state of a checkpoint over, where it has one; returns all that was saved for this stage."""
        saved = {key.removeprefix(f"{self.name}_"): value for key, value in checkpoint.saved.items() if key.startswith(self.name)}
        if saved:
            with raised_in_all(checkpoint.group):
                self._check_saved(saved, checkpoint.path)
            self.state, self.t = array_like(saved["state"], self.state), float(saved.get("t", 0.0))
            self.omega, self.V, self.V_t, self.U_t = (saved[name] for name in ("omega", "V", "V_t", "U_t"))
            self.count = int(saved["count"])
            if not self.residual() <= OFF_MANIFOLD:
                raise ValueError(f"{checkpoint.path} is damaged: its state violates what the {self.name} conserves; delete it")
        return saved

    def _check_saved(self, saved: dict[str, np.ndarray], path: Path | None) -> None:
        """Raise ValueError unless every array is there, of the shape that this run has, finite and counted right."""
        shapes = {
            "state": tuple(self.state.shape),
            "omega": self.omega.shape,
            "V": self.V0.shape,
            "V_t": self.V_t.shape,
            "U_t": self.U_t.shape,
            "count": (),
            **self.scalars,
        }
        for name, shape in shapes.items():
            value = saved.get(name)
            if value is None or value.shape != shape or value.dtype.kind not in "fi":
                raise ValueError(f"{path} is damaged: {self.name}_{name} is not of shape {shape}; delete it to start again")
        count = int(saved["count"])
        counted = 1 <= count <= self.total and np.isfinite(saved["omega"][:count]).all()
        if not (counted and all(np.isfinite(saved[name]).all() for name in shapes if name not in ("omega", "V_t", "U_t"))):
            raise ValueError(f"{path} is damaged: {self.name}_count = {count} does not go with its numbers; delete it")


class FlowStage(Stage):
    """The flow, integrated to every time."""

    name = "flow"
    scalars: ClassVar[dict[str, tuple[int, ...]]] = {"t": (), "size": ()}

    def __init__(self, config: FlowConfig, state: Array, times: np.ndarray, start: Start, wanted: np.ndarray) -> None:
        super().__init__(state, len(times), start, vectors_turn(config, start), wanted)
        self.times, self.config, self.system = times, config, None
        if config.flow == UNNORMALIZED.name:
            from ufm.flow.sharded_start import system_of_columns
            from ufm.laws.mean_system import mean_system

            H = as_numpy(state).astype(np.float64)
            self.system = (
                mean_system(H, start.layout, snr(H, start.layout), config.kernel_ratio)
                if start.statistics is None
                else system_of_columns(H, start, config.kernel_ratio)
            )

    def read(self, M: Array) -> tuple[np.ndarray, np.ndarray]:
        """omega and V of class means; off the manifold through the conserved total covariance, undone of its decay."""
        return super().read(M) if self.system is None else self.system.snr(self._system_state(M))

    def left_vectors(self, M: Array, omega: np.ndarray, V: np.ndarray) -> np.ndarray:
        """The left vectors of Eq. 9's matrix that go with omega and V."""
        return (
            super().left_vectors(M, omega, V)
            if self.system is None
            else self.system.left_vectors(self._system_state(M), omega, V)
        )

    def _system_state(self, M: Array) -> np.ndarray:
        """The state of the class-mean system at class means M, undone of their decay."""
        assert self.system is not None
        grown = as_numpy(M) * np.exp(self.config.feature_decay * self.times[self.count])
        return self.system.state_of(grown - (grown @ self.layout.priors)[:, None])

    def residual(self) -> float:
        """||X C_M X^T - I||_F now; for the unnormalized flow the drift of H Theta^{-1} H^T / n, which it conserves, whitened."""
        if self.system is None:
            return super().residual()
        H = as_numpy(self.state).astype(np.float64) * np.exp(self.config.feature_decay * self.t)
        M = self.layout.means(H) * (self.config.kernel_ratio**-0.5 - 1)
        B = self.system.frame @ self.layout.add_to_means(H, M)
        return float(np.linalg.norm(self.layout.summed(B @ B.T) / self.layout.n - np.eye(len(B))))

    def run(self, checkpoint: Checkpoint, progress: StageProgress) -> "FlowStage":
        """Integrate from the start, or from the checkpoint, to the last time; on Ctrl-C Interrupted with itself if not shared."""
        saved = self.restore(checkpoint)
        t, size = (self.t, float(saved["size"])) if saved else (0.0, None)
        if self.complete:
            return self
        tolerance = max(STEP_TOLERANCE, 50 * epsilon(self.state))
        config = self.config
        field = central_path_field(FLOWS[config.flow], self.layout, config.ridge, config.kernel_ratio, config.feature_decay)
        last, layout = float(self.times[-1]), self.layout
        steps = dormand_prince(field, self.state, t, last, layout.means, tolerance, size, layout.summed)
        try:
            for step, values in observe_at(steps, self.times[self.count :]):
                for M in values:
                    self.record(M)
                self.state, t, size = step.X, step.t, step.next_size
                self.t = t
                checkpoint.offer(self.saved(t=t, size=size), force=self.complete)
                progress("flow", t / last)
        except KeyboardInterrupt:
            if self.layout.shared:  # the other processes need not be at the same step
                raise
            if size is not None:
                checkpoint.offer(self.saved(t=t, size=size), force=True)
            raise Interrupted(self) from None
        return self


class SchemeStage(Stage):
    """The discrete scheme, step after step."""

    name = "scheme"

    def __init__(self, config: FlowConfig, state: Array, eta: float, kept: np.ndarray, start: Start) -> None:
        super().__init__(state, len(kept), start, turns=not start.layout.balanced)
        self.eta, self.kept = eta, kept
        self.gradient = manifold_gradient(start.layout, config.ridge, config.kernel_ratio)

    def run(self, checkpoint: Checkpoint, progress: StageProgress) -> "SchemeStage":
        """Renormalize after every step, from the start or the checkpoint, to the last step; errors as of the flow."""
        self.restore(checkpoint)
        consistent = (self.state, self.count, self.V)
        try:
            while not self.complete:
                X = self.state
                for _ in range(int(self.kept[self.count] - self.kept[self.count - 1])):
                    X = renormalize_after_step(X, self.eta, self.gradient, self.layout)
                self.record(self.layout.means(X))
                consistent = (X, self.count, self.V)  # one assignment: an interrupt finds either the old or the new state
                self.state = X
                checkpoint.offer(self.saved())
                progress("scheme", self.count / self.total)
        except KeyboardInterrupt:
            if self.layout.shared:
                raise
            self.state, self.count, self.V = consistent
            checkpoint.offer(self.saved(), force=True)
            raise Interrupted(self) from None
        return self


WANTED = {  # of a checkpoint
    f"{stage.name}_{name}"
    for stage in (FlowStage, SchemeStage)
    for name in ("state", "omega", "V", "V_t", "U_t", "count", *stage.scalars)
}
