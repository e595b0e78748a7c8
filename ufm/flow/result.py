"""What a run gives: the flow, the scheme beside it, what is stored of both, and a stored run read again."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ufm.flow.config import FlowConfig
from ufm.flow.start import Start
from ufm.laws.discrete_singular_values import DiscreteRun
from ufm.laws.singular_value_dynamics import RENORMALIZED
from ufm.laws.trajectory import LOSSES, Trajectory

if TYPE_CHECKING:
    from pathlib import Path

STORED = {"t", "omega", "U", "V", "eta", "t_discrete", "omega_discrete", "config"}  # what a stored run is read from
ALSO_STORED = {*LOSSES, "counts", "V_t", "U_t"}
MOST_STATISTICS = 1024  # features, up to which a raw start is stored with its class statistics
WIDE_GAP = 0.1  # in log omega: past it scheme and flow are told apart by eye
WIDE_RESIDUAL = {"float64": 1e-6, "float32": 1e-2}  # integrated tensors stay a hundred times below
StageProgress = Callable[[str, float], None]


def silent(stage: str, share: float) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True, eq=False)
class FlowRun:
    """A run: flow, scheme, the largest gap between them, the residual, warnings; `complete` is False where Ctrl-C came."""

    config: FlowConfig
    start: Start
    flow: Trajectory
    scheme: DiscreteRun
    gap: float
    residual: float
    seconds: float
    warnings: tuple[str, ...]
    complete: bool = True
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
            "u": flow.observed["u"] if "u" in flow.observed else eigenvalues_of_gram(flow, self.start.layout.priors),
            "counts": np.asarray(self.start.layout.sizes),
            **{name: vectors for name in ("V_t", "U_t") if (vectors := getattr(flow, name)) is not None},
            **self._raw_statistics(),
            "complete": np.array(self.complete),
            "config": np.array(json.dumps(self.provenance, sort_keys=True)),
        }

    def _raw_statistics(self) -> dict[str, np.ndarray]:
        """class_means (P, C), of global mean zero, and sigma_w (P, P) of a raw start, which omega and V do not have."""
        start, layout = self.start, self.start.layout
        if self.config.start != "raw" or start.P > MOST_STATISTICS:
            return {}
        if start.statistics is not None:
            return {"class_means": start.statistics.centred_means, "sigma_w": start.statistics.root @ start.statistics.root.T}
        means, deviations = layout.means(start.features), layout.deviations(start.features)
        return {"class_means": means - (means @ layout.priors)[:, None], "sigma_w": deviations @ deviations.T / layout.n}

    @property
    def provenance(self) -> dict[str, object]:
        """The configuration as run, with the sizes that the features decided, the notes and the versions behind it.

        N is None and `counts` has the class sizes where they differ.
        """
        layout = self.start.layout
        sizes: dict[str, object] = {"C": layout.C, "N": layout.N if layout.balanced else None, "P": self.start.P}
        if not layout.balanced:
            sizes["counts"] = list(layout.sizes)
        reduction = self.start.reduction
        dropped: dict[str, object] = (
            {} if reduction is None else {"dropped": reduction.dropped, "lost_signal": reduction.lost_signal}
        )
        from ufm.files.store import provenance

        extra = {"notes": list(self.start.notes), "warnings": list(self.warnings), "provenance": provenance()}
        return asdict(self.config) | sizes | dropped | extra


def eigenvalues_of_gram(flow: Trajectory, priors: np.ndarray) -> np.ndarray:
    """u (T, K), the non-zero eigenvalues of G = S^T S, S = U diag(omega) V^T diag(sqrt(pi)); omega^2 / C for equal classes."""
    if flow.counts is None or min(flow.counts) == max(flow.counts):
        return flow.omega**2 / flow.C
    V = flow.V if flow.V_t is None else flow.V_t
    S = (flow.omega[..., :, None] * V.mT) * np.sqrt(priors)
    return np.linalg.svd(S, compute_uv=False)[..., : flow.omega.shape[-1]] ** 2


def spectral_losses(flow: Trajectory, priors: np.ndarray, ridge: float) -> dict[str, np.ndarray]:
    """L_LS and its parts (T,) from S = U diag(omega) V^T diag(sqrt(pi)), for any class sizes and ridge."""
    V = flow.V if flow.V_t is None else flow.V_t
    _, sigma, Vt = np.linalg.svd((flow.omega[..., :, None] * V.mT) * np.sqrt(priors), full_matrices=False)
    u, p, s = sigma**2, (Vt * Vt) @ priors, 1 + ridge
    rest = (1 - priors @ priors) - p.sum(-1) if flow.omega.shape[-1] < flow.C - 1 else 0.0
    nc1 = 0.5 * s * (p * u / (s + u) ** 2).sum(-1)
    nc23 = 0.5 * (p * (s / (s + u)) ** 2).sum(-1) + 0.5 * rest
    return {"ls_loss": nc1 + nc23, "ls_loss_nc1": nc1, "ls_loss_nc23": nc23}


def load_flow(path: "Path | str") -> tuple[Trajectory, DiscreteRun]:
    """Flow and scheme of a file that `--out` wrote. Raises ValueError for another or a damaged file, with what is wrong."""
    from ufm.files import store
    from ufm.files.json_objects import parse_json

    arrays = store.load_arrays(path, STORED | ALSO_STORED)
    missing = STORED - arrays.keys()
    if missing:
        raise ValueError(f"{path} is no run of ufm.flow: it lacks {', '.join(sorted(missing))}")
    config = parse_json(str(arrays["config"]), path)
    C, N = config.get("C"), config.get("N")
    counts = arrays.get("counts")
    if counts is not None and (counts.shape != (C,) or counts.dtype.kind not in "iu" or counts.min() < 1):
        raise ValueError(f"{path} is damaged: counts of shape {counts.shape} should hold the sizes of C = {C} classes")
    if N is None and counts is not None:
        N = int(counts.sum()) // len(counts)
    if not (isinstance(C, int) and isinstance(N, int) and C >= 2 and N >= 1):
        raise ValueError(f"{path} is no run of ufm.flow: its configuration says C = {C!r}, N = {N!r}")
    _check_run(arrays, C, path)
    eta, sizes = float(arrays["eta"]), None if counts is None else tuple(counts.tolist())
    losses = {f"ls_{name}": arrays[name] for name in LOSSES if name in arrays}
    V_t, U_t = arrays.get("V_t"), arrays.get("U_t")
    flow = Trajectory(arrays["t"], arrays["omega"], arrays["V"], C, N, arrays["U"], V_t, U_t, losses, sizes)
    steps = np.round(arrays["t_discrete"] / eta).astype(np.int64)
    return flow, DiscreteRun(steps, arrays["omega_discrete"], eta)


def _check_run(arrays: dict[str, np.ndarray], C: int, path: "Path | str") -> None:
    """Raise ValueError for arrays of a stored run that are no finite numbers, or whose shapes do not go together."""
    (T, K), S = arrays["omega"].shape if arrays["omega"].ndim == 2 else (-1, -1), arrays["t_discrete"].size
    P = arrays["U"].shape[0] if arrays["U"].ndim == 2 else -1
    shapes = {"t": (T,), "omega": (T, K), "U": (P, K), "V": (C, K), "V_t": (T, C, K), "U_t": (T, P, K)}
    shapes |= {"eta": (), "t_discrete": (S,), "omega_discrete": (S, K), **dict.fromkeys(LOSSES, (T,))}
    for name in sorted(shapes.keys() & arrays.keys()):
        values, shape = arrays[name], shapes[name]
        if values.shape != shape or values.dtype.kind != "f" or not values.size or not np.isfinite(values).all():
            raise ValueError(f"{path} is damaged: {name} of shape {values.shape} should hold finite numbers of shape {shape}")
    if not arrays["eta"] > 0:
        raise ValueError(f"{path} is damaged: eta = {arrays['eta']:g}")


def distance_warnings(config: FlowConfig, gap: float, residual: float) -> tuple[str, ...]:
    """Where the scheme, which is the renormalized flow's, leaves the flow asked for; where the residual is no rounding."""
    lines: tuple[str, ...] = ()
    if config.flow != RENORMALIZED.name and gap > WIDE_GAP:
        factor = f"their omega part by up to a factor {np.exp(gap):.3g} (gap {gap:.3e})"
        lines += (f"the scheme is that of the renormalized flow, not of the {config.flow} one: {factor}, which is no error",)
    if residual > WIDE_RESIDUAL[config.dtype]:
        lines += (f"the residual is {residual:.1e}, far above rounding: the features have left what the flow conserves",)
    return lines


def largest_gap(scheme: np.ndarray, flow: np.ndarray) -> float:
    """max |log omega_scheme - log omega_flow| over steps and values that move."""
    moving = (flow > 0) & (scheme > 0)
    return float(abs(np.log(scheme[moving]) - np.log(flow[moving])).max()) if moving.any() else 0.0
