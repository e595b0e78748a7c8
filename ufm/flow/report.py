"""A run in words: the table of `python -m ufm.flow`, and the same as one JSON object."""

from typing import Any

import numpy as np

from ufm.features import spectral_loss
from ufm.features.vectors import self_duality
from ufm.flow.motion import general_law
from ufm.flow.result import FlowRun, eigenvalues_of_gram
from ufm.laws.singular_value_dynamics import LAWS
from ufm.laws.trajectory import Trajectory
from ufm.output import json_values

ROWS = 9
COLUMNS = ("t", "flow min", "flow max", "step min", "step max", "L_LS", "L_NC1", "L_NC2/3", "NC1", "NC2 norm", "NC2 angle", "NC3")


def table_rows(run: FlowRun) -> list[dict[str, float]]:
    """Rows at log-spaced times: the scheme at its last step not after each, loss and measures along the flow."""
    flow, scheme = run.flow, run.scheme
    shown = np.array(sorted({round(i) for i in np.linspace(0, len(flow.t) - 1, ROWS)}))  # np.unique would import numpy.ma
    at = np.searchsorted(scheme.t, flow.t[shown] * (1 + 1e-12), side="right") - 1
    part = flow.rows(shown)
    stepped = np.where(part.t[:, None] > scheme.t[-1] * (1 + 1e-9), np.nan, scheme.omega[at])  # the scheme may end earlier
    still = np.nan if run.config.start == "raw" and part.V_t is None else 1.0  # NC2 needs V, which turns from a raw start
    V = part.V if part.V_t is None else part.V_t
    columns = (
        part.t,
        part.omega.min(1),
        part.omega.max(1),
        stepped.min(1),
        stepped.max(1),
        part.loss,
        part.loss_nc1,
        part.loss_nc23,
        _nc1(run, part),
        still * spectral_loss.spectral_equinorm(part.omega, V),
        still * spectral_loss.spectral_maximal_angle(part.omega, V),
        _nc3(run, part, V),
    )
    return [dict(zip(COLUMNS, map(float, values), strict=True)) for values in zip(*columns, strict=True)]


def _nc1(run: FlowRun, part: Trajectory) -> np.ndarray:
    """tr(Sigma_W Sigma_B^+) / C, by Sigma_B's own eigenvalues u where classes are unequal. (T,)"""
    if run.start.layout.balanced:
        return spectral_loss.spectral_nc1(part.omega)
    u = part.observed["u"] if "u" in part.observed else eigenvalues_of_gram(part, run.start.layout.priors)
    return spectral_loss.spectral_nc1(np.sqrt(part.C * u))


def _nc3(run: FlowRun, part: Trajectory, V: np.ndarray) -> np.ndarray:
    """Self-duality of the (ridge) least-squares classifier W^T = S (s I + S^T S)^{-1} diag(sqrt(pi)), s = 1 + lambda. (T,)"""
    if run.start.layout.balanced and run.config.ridge == 0:
        return spectral_loss.spectral_nc3(part.omega, part.C)
    law, M = general_law(run.config, run.start, 1.0), part.omega[..., :, None] * V.mT
    means = np.broadcast_to(M, (len(part.t), *M.shape[-2:]))  # of mean 0 but for rounding, which can be that of float32
    W = np.stack([law.classifier(law.scaled_means(each))[0].T for each in means])
    return self_duality(W, M)


def run_summary(run: FlowRun) -> dict[str, Any]:
    """One JSON object: configuration, clock, start and end of both, gap, residual, table, warnings, seconds."""
    flow, scheme = run.flow, run.scheme
    values = {
        "config": run.provenance,
        "flow": run.config.flow,
        "t_end": float(flow.t[-1]),
        "eta": scheme.eta,
        "steps": int(scheme.steps[-1]),
        "omega_start": flow.omega[0].tolist(),
        "omega_end": flow.omega[-1].tolist(),
        "omega_discrete_end": scheme.omega[-1].tolist(),
        "gap": run.gap,
        "residual": run.residual,
        "condition": run.start.snr.whitening.condition,
        "table": table_rows(run),
        "seconds": run.seconds,
        **run.measured,
        "complete": run.complete,
    }
    return json_values(values)


def _column_text(value: float) -> str:
    return f"{value:10.3g}" if np.isfinite(value) else "-".rjust(10)


def title(run: FlowRun) -> str:
    """The run in one line."""
    start = run.start
    layout, config = start.layout, run.config
    N = f"N = {layout.N}" if layout.balanced else f"N = {min(layout.sizes)} to {max(layout.sizes)}"
    options = {"ridge": (config.ridge, 0), "kernel ratio": (config.kernel_ratio, 1), "feature decay": (config.feature_decay, 0)}
    more = "".join(f", {name} {value:g}" for name, (value, plain) in options.items() if value != plain)
    return (
        f"{run.config.flow} flow, C = {layout.C}, {N}, P = {start.P}{more}"
        + ", raw start" * (run.config.start == "raw")
        + ", full state" * run.config.full
    )


def statement(run: FlowRun) -> str:
    """The law in one line."""
    config, law = run.config, LAWS[run.config.flow]
    plain = run.start.layout.balanced and config.ridge == 0 and config.kernel_ratio == 1
    if plain and config.start != "raw":
        return law.statement
    if config.start == "raw":
        return "the unnormalized flow of the features as they are, integrated as the closed system of their class means"
    asked = ["class sizes"] * (not run.start.layout.balanced) + ["ridge"] * (config.ridge != 0)
    asked += ["kernel ratio"] * (config.kernel_ratio != 1)
    return f"the flow of {law.statement.partition(':')[0]} for the given {' and '.join(asked)}, integrated"


def text(run: FlowRun, seconds: float) -> str:
    """What the command prints: a heading, the table, and the three numbers to look at first."""
    start, scheme = run.start, run.scheme
    steps = f"{int(scheme.steps[-1])} steps of eta = {scheme.eta:.6g}"
    lines = [
        title(run),
        statement(run),
        *start.notes,
        f"for comparison the discrete scheme (renormalize after step), {steps}",
        "",
        "".join(name.rjust(10) for name in COLUMNS),
        *("".join(_column_text(value) for value in row.values()) for row in table_rows(run)),
        "",
        f"min and max are over the {len(start.snr.omega)} SNR singular values omega; the scheme is at its last step before t",
        f"gap between scheme and flow, max |log omega_scheme - log omega_flow|   {run.gap:.3e}",
        f"constraint residual of the whitened features, ||X C_M X^T - I||        {run.residual:.3e}",
    ]
    if "overlap" in run.measured:
        lines.append(f"smallest overlap of a right singular vector with its start             {run.measured['overlap']:.12f}")
    return "\n".join([*lines, f"time                                                                   {seconds:.3f} s"])
