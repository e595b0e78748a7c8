"""What the networks of a study say together: gains of the nonlinearities at the last epoch, with intervals over seeds.

A network is one draw: intervals are Student's t over seeds. A statement names its rival: the share of the last nonlinearity is
put beside an even split, the identity beside the activation, random labels beside true ones, train beside test examples.
"""

from typing import Any

import numpy as np

from sims.ledgers.entry import column, plain
from ufm.ledger.estimators import LEVEL
from ufm.output import stored_number


def summary(stored: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One dictionary a cell and split: factors of its nonlinear operations, share of the last, linear loss, force balance."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for network in stored:
        last = max(e["epoch"] for e in network["ledgers"])
        for e in network["ledgers"]:
            if e["epoch"] == last:
                groups.setdefault((e["source"], e["split"]), []).append(e)
    return [_cell_numbers(name, split, members) for (name, split), members in groups.items()]


def _cell_numbers(name: str, split: str, members: list[dict[str, Any]]) -> dict[str, Any]:
    acts = [k for k, row in enumerate(members[0]["rows"]) if k and "acts" in row["operation"]]
    numbers: dict[str, Any] = {"cell": name, "split": split, "networks": len(members)}
    numbers["error"] = mean_and_interval([e["error"] for e in members])
    for estimate in ("omega", "held_out"):
        gains = np.array([column(e, f"{estimate}_gain")[acts] for e in members])
        total = np.array([column(e, estimate) for e in members])
        numbers[f"{estimate}_factors"] = [mean_and_interval(g, np.exp) for g in gains.T]
        with np.errstate(divide="ignore", invalid="ignore"):  # an estimate of 0 is not told from nothing: then there is no number
            levels = np.log(total)
            whole = np.where(np.isfinite(gains).all(1), gains.sum(1), np.nan)
            share = gains[:, -1] / whole if acts else np.zeros(0)
            rest = levels[:, -2] - levels[:, 0] - whole
        numbers[f"{estimate}_share_of_last"] = mean_and_interval(share)
        numbers[f"{estimate}_from_to"] = np.exp(levels.mean(0))[[0, -2]].tolist()
        # everything that is no activation: what linear parts and norms lose together
        numbers[f"{estimate}_rest"] = mean_and_interval(rest, np.exp)
    numbers["even_share"] = 1 / len(acts) if acts else None
    forces = [next((f for f in e["forces"] or [] if f["parameter"] == "all"), None) for e in members]
    numbers["force_cosine"] = mean_and_interval([stored_number(f["cosine"]) for f in forces if f])
    numbers["left_over_means"] = mean_and_interval([stored_number(f["ratio"]) for f in forces if f])
    numbers["decay_cosine"] = mean_and_interval([stored_number(f["decay_cosine"]) for f in forces if f])
    return plain(numbers)


def mean_and_interval(values: Any, scale: Any = None) -> list[float] | None:
    """[mean, low, high] at 95 %, Student's t over networks; None where there is none; low and high NaN for a single one."""
    from scipy.stats import t

    values = np.asarray(values, dtype=float)
    if not len(values) or not np.isfinite(values).all():
        return None
    middle, half = float(values.mean()), float("nan")
    if len(values) > 1:
        half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    triple = np.array([middle, middle - half, middle + half])
    return [float(v) for v in (triple if scale is None else scale(triple))]


def summary_text(told: list[dict[str, Any]]) -> str:
    """A table: factors of the activations, the last one's share (even split in brackets), in sample and held out."""
    lines = [f"{'cell':<34} {'split':<6} {'error':>7}  factors held out [in sample]; share of the last (even)"]
    for row in told:
        held, sample = row["held_out_factors"], row["omega_factors"]
        pairs = " ".join(f"{_value_text(h)}[{_value_text(s)}]" for h, s in zip(held, sample, strict=True)) or "no nonlinearity"
        share = f"; {_interval_text(row['held_out_share_of_last'])} ({row['even_share']:.2f})" if row["even_share"] else ""
        cosine = f"; force cosine {_interval_text(row['force_cosine'])}" if row["force_cosine"] else ""
        lines.append(f"{row['cell']:<34} {row['split']:<6} {row['error'][0]:>7.2%}  {pairs}{share}{cosine}")
    return "\n".join(lines)


def _value_text(triple: list[float] | None) -> str:
    return "?" if triple is None else f"{triple[0]:.2f}"


def _interval_text(triple: list[float] | None) -> str:
    if triple is None:
        return "?"
    low, high = stored_number(triple[1]), stored_number(triple[2])
    return f"{triple[0]:.2f}" + (f" [{low:.2f}, {high:.2f}]" if np.isfinite(low) else "")
