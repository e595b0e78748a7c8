"""One run: features to the trajectory of a flow, with the discrete scheme beside it on the same features and the same clock."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from manifolds.layout import ClassLayout
from ufm.features import labels as layout
from ufm.features.snr import Reduction, Snr, reduce_to_range, snr, snr_spectrum
from ufm.flow.config import FlowConfig
from ufm.laws import discrete
from ufm.laws.closed import LAWS
from ufm.laws.discrete import DiscreteRun
from ufm.laws.trajectory import Trajectory

if TYPE_CHECKING:
    from pathlib import Path

Progress = Callable[[str, float], None]
FIRST_TIME = 1e-4  # of the whole run: the first output time after 0, at the latest
MUCH_SIGNAL = 0.01  # share of the between-class signal whose loss to --reduce deserves a warning


def _silent(stage: str, share: float) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True, eq=False)
class Start:
    """Features H (P, n) in class blocks, their layout and SNR, and what was done to them on the way."""

    H: np.ndarray
    layout: ClassLayout
    snr: Snr
    notes: tuple[str, ...]
    reduction: Reduction | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """A warning where the reduction took between-class signal with it."""
        if self.reduction is None or self.reduction.lost_signal <= MUCH_SIGNAL:
            return ()
        lost = f"the dropped directions held {self.reduction.lost_signal:.1%} of the between-class signal, with infinite SNR"
        return (f"{lost}: the trajectory describes the rest of the network only",)


@dataclass(frozen=True, eq=False)
class FlowRun:
    """A finished (or interrupted) run: the flow, the scheme, the largest gap between them, the residual, and warnings."""

    config: FlowConfig
    start: Start
    flow: Trajectory
    scheme: DiscreteRun
    gap: float
    residual: float
    seconds: float
    warnings: tuple[str, ...]
    measured: dict[str, float] = field(default_factory=dict)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What `--out` stores, by name."""
        import json

        flow, scheme = self.flow, self.scheme
        return {
            "t": flow.t,
            "omega": flow.omega,
            "loss": flow.loss,
            "loss_nc1": flow.loss_nc1,
            "loss_nc23": flow.loss_nc23,
            "eta": np.array(scheme.eta),
            "t_discrete": scheme.t,
            "omega_discrete": scheme.omega,
            "U": self.start.snr.left_vectors,
            "V": self.start.snr.V,
            "residual": np.array(self.residual),
            "config": np.array(json.dumps(self.provenance, sort_keys=True)),
        }

    @property
    def provenance(self) -> dict[str, Any]:
        """The configuration as run, with the sizes that the features decided, the notes and the versions behind it."""
        sizes = {"C": self.start.layout.C, "N": self.start.layout.N, "P": len(self.start.H)}
        reduction = self.start.reduction
        dropped = {} if reduction is None else {"dropped": reduction.dropped, "lost_signal": reduction.lost_signal}
        from ufm.files.store import provenance

        extra = {"notes": list(self.start.notes), "warnings": list(self.warnings), "provenance": provenance()}
        return asdict(self.config) | sizes | dropped | extra


def load_run(path: "Path | str") -> tuple[Trajectory, DiscreteRun]:
    """Flow and scheme of a file that `--out` wrote. Raises ValueError for another file."""
    import json

    from ufm.files import store

    arrays = store.load_arrays(path)
    missing = {"t", "omega", "U", "V", "eta", "t_discrete", "omega_discrete", "config"} - arrays.keys()
    if missing:
        raise ValueError(f"{path} is no run of ufm.flow: it lacks {', '.join(sorted(missing))}")
    config, eta = json.loads(str(arrays["config"])), float(arrays["eta"])
    flow = Trajectory(arrays["t"], arrays["omega"], arrays["V"], config["C"], config["N"], arrays["U"])
    steps = np.round(arrays["t_discrete"] / eta).astype(np.int64)
    return flow, DiscreteRun(steps, arrays["omega_discrete"], eta)


def prepare(config: FlowConfig, left_vectors: bool = False) -> Start:
    """The features of a run, random or from its file, balanced and reduced where it says so, with their SNR.

    `left_vectors` asks for U, which costs an eigendecomposition. Raises ValueError for features that no run can start from.
    """
    notes: list[str] = []
    H, classes = _features(config, notes)
    if min(classes.sizes) < 2:
        lonely = classes.sizes.index(min(classes.sizes))
        raise ValueError(f"N = 1: class {lonely} has one example and no variability to whiten; leave it out, or find more of it")
    if not classes.balanced and config.balance:
        dropped = classes.n - classes.C * min(classes.sizes)
        H, classes = layout.balance(H, classes, np.random.default_rng(config.seed))
        notes.append(f"balanced to {classes.N} examples a class, {dropped} left out")
    if not classes.balanced:
        raise ValueError(
            f"class sizes differ ({min(classes.sizes)} to {max(classes.sizes)}) and the closed laws need equal classes: "
            f"subsample every class to {min(classes.sizes)}, or let --balance do it"
        )
    reduction = None
    if config.reduce:
        H, reduction = reduce_to_range(H, classes)
        notes.append(
            f"reduced to the range of Sigma_W: {reduction.dropped} of {reduction.dropped + len(H)} directions dropped, "
            f"which held {reduction.lost_signal:.2%} of the between-class signal"
        )
    found = _measure(config, H, classes, left_vectors)
    zeros = found.omega <= found.rounding
    if zeros.any():
        notes.append(
            f"{int(zeros.sum())} of {len(zeros)} singular values are zero to rounding (at most {found.rounding:.1e}) "
            "and set to 0: class means coincide or are dependent, and no flow moves them"
        )
        found = replace(found, omega=np.where(zeros, 0.0, found.omega))
    return Start(H, classes, found, tuple(notes), reduction)


def run(config: FlowConfig, start: Start, progress: Progress = _silent, checkpoint: "Path | None" = None) -> FlowRun:
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


def end_time(config: FlowConfig, start: Start) -> float:
    """--t-end, or the time at which the smallest omega has grown --growth fold under the flow."""
    if config.t_end is not None:
        return config.t_end
    C, N, omega0 = start.layout.C, start.layout.N, start.snr.omega
    if not omega0[-1] > 0:
        zeros = int((omega0 == 0).sum())
        raise ValueError(f"{zeros} of {len(omega0)} singular values are zero and never grow: give --t-end instead of --growth")
    if config.start == "raw":
        from ufm.laws.mean_system import growth_time, mean_system

        return growth_time(mean_system(start.H, start.layout, start.snr), config.growth)
    return float(LAWS[config.flow].time(np.array(config.growth * omega0[-1]), omega0[-1:], C, N)[0])


def output_times(config: FlowConfig, t_end: float, omega0: np.ndarray, C: int, N: int) -> np.ndarray:
    """0 and logarithmically spaced times up to t_end, the first before any value has grown by 1 %. (points,)"""
    moving = omega0[omega0 > 0]
    onset = LAWS[config.flow].time(1.01 * moving, moving, C, N).min() if len(moving) else t_end
    first = min(FIRST_TIME * t_end, float(onset))
    return np.concatenate(([0.0], np.geomspace(first, t_end, config.points - 1) if config.points > 2 else [t_end]))


def largest_gap(scheme: np.ndarray, flow: np.ndarray) -> float:
    """max |log omega_scheme - log omega_flow| over steps and values that move."""
    moving = (flow > 0) & (scheme > 0)
    return float(abs(np.log(scheme[moving]) - np.log(flow[moving])).max()) if moving.any() else 0.0


def _features(config: FlowConfig, notes: list[str]) -> tuple[np.ndarray, ClassLayout]:
    if config.features is not None:
        from ufm.files import store

        H, classes = layout.class_blocks(*store.load_features(config.features))
        return H.astype(config.dtype, copy=False) if config.dtype == "float32" else H, classes
    classes = ClassLayout.equal(config.C, config.N)
    _check_examples(config.N)
    if config.P < 1:
        raise ValueError(f"P = {config.P}: at least one feature is needed")
    if not config.reduce:
        classes.check_rank(config.P)
    rng = np.random.default_rng(config.seed)
    notes.append(f"standard Gaussian features, seed {config.seed}")
    return rng.standard_normal((config.P, classes.n), dtype=np.dtype(config.dtype)), classes


def _check_examples(N: int) -> None:
    if N < 2:
        raise ValueError(f"N = {N} example a class: there is no within-class variability to whiten; at least N = 2 is needed")


def _measure(config: FlowConfig, H: np.ndarray, classes: ClassLayout, left_vectors: bool) -> Snr:
    measure = snr if left_vectors or config.full or config.start == "raw" else snr_spectrum
    if config.device is None or config.start == "raw":
        return measure(H, classes)
    from ufm.flow.full_state import on_device

    return measure(on_device(H, config.device), classes).to_numpy()
