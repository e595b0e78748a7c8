"""Measures of any logged runs against the epoch: one panel a measure, several runs overlaid, the spectrum readable at C = 100."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sims.training.paper_figures import PLOTS
from ufm.files.json_objects import JsonObject
from ufm.files.store import array_names
from ufm.monitor.logged import load_log
from ufm.monitor.record import RUN, Record
from ufm.monitor.tables import read_csv

# Okabe and Ito's colours, told apart by colour-blind readers; dashes repeat the distinction in print
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--", "-.", ":")
FURTHER_TITLES = {"nc0": "NC0: $\\|W^T 1\\|$", "effective_rank": "effective rank", "ncc_accuracy": "nearest-mean accuracy"}
FURTHER_TITLES |= {"omega_geometric_mean": "geometric mean of omega", "gain": "gain of log omega"}
FURTHER_TITLES |= {"nrc1": "NRC1", "nrc2": "NRC2", "nrc3": "NRC3", "mse": "squared error", "train_error": "training error"}
LABELLED = ("nc2", "test")  # measures of several things: their titles say of which
TITLES = {
    line.name: f"{plot.ylabel}, {line.label}"
    if line.name.startswith(LABELLED)
    else plot.ylabel
    if "nc" in line.name[:2]
    else line.label
    for plot in PLOTS
    for line in plot.lines
} | FURTHER_TITLES
LOGARITHMIC = ("nc1", "loss", "loss_nc1", "loss_nc23", "loss_perp", "nrc1", "nrc2", "mse", "omega", "nc0", "omega_geometric_mean")
CLASSIFIER_INPUT = "classifier's features"
PANEL = (3.0, 2.2)  # inches
DECADE = 10.0  # ratio of largest to smallest above which an axis is logarithmic
MOST_LINES = 12  # singular values drawn one by one; above, their median and bands


@dataclass(frozen=True, eq=False)
class LoggedRun:
    """A run by name: columns (T,) beside `epoch`, and omega (T, K) where it was stored; what is known of its training."""

    name: str
    columns: dict[str, np.ndarray]
    facts: JsonObject


def load_logged(path: Path, lam: float | None = None) -> LoggedRun:
    """The run of a folder of `RunLog` or `sims.train`, of a trajectory.npz, or of a CSV. Raises ValueError for anything else.

    lam: lambda of the loss, for a log of `RunLog` that was not told one; any other run keeps its own.
    """
    if path.suffix == ".csv":
        return LoggedRun(path.stem, read_csv(path), {})
    if path.is_dir() and (path / RUN).exists():
        facts, record = load_log(path, lam)
        return LoggedRun(path.name, record.arrays, facts)
    if path.is_dir():
        from sims.training.folder import load_run

        config, record = load_run(path)
        return LoggedRun(path.name, record.arrays, {"net": config.net, "dataset": config.dataset, "loss": config.loss})
    if "epoch" not in array_names(path):
        raise ValueError(f"{path} is no log: it has no array 'epoch'")
    return LoggedRun(path.stem, Record.load(path).arrays, {})


def load_all_logged(paths: Sequence[Path]) -> list[LoggedRun]:
    """Several runs; those whose files or folders have one name are told apart by the folders that hold them."""
    names = [path.resolve().stem if path.is_file() else path.resolve().name for path in paths]
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = [name if names.count(name) == 1 else "/".join(own[-length:]) for name, own in zip(names, parts, strict=True)]
    return [replace(load_logged(path), name=name) for path, name in zip(paths, names, strict=True)]


def measures_of(runs: Sequence[LoggedRun]) -> list[str]:
    """The measures that some run has a number of, those of the paper first: a loss without lambda has none."""
    known = [name for name in TITLES if any(np.isfinite(run.columns.get(name, np.nan)).any() for run in runs)]
    return [*known, *(["omega"] if any("omega" in run.columns for run in runs) else [])]


def overview(runs: Sequence[LoggedRun], names: Sequence[str] | None = None) -> Figure:
    """One panel a measure. Raises ValueError where no run has any."""
    names = list(names or measures_of(runs))
    if not names:
        raise ValueError("these runs have no measure that can be drawn")
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for axes, name in zip(grid, names, strict=False):
        panel(axes, name, runs)
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    if len(runs) > 1:
        entries = {line.get_label(): line for axes in grid for line in axes.get_lines() if line.get_label()[:1] != "_"}
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=min(len(runs), 4), frameon=False)
    return figure


def layers_overview(run: LoggedRun) -> Figure | None:
    """What inner layers and the features of the classifier have in common, one panel a measure; None without inner layers."""
    names: dict[str, set[str]] = {}
    for layer, _, name in (column.rpartition("/") for column in run.columns if "/" in column):
        names.setdefault(layer, set()).add(name)
    if not names:
        return None
    measured = set.union(*names.values())
    columns = {layer: {name: run.columns[f"{layer}/{name}"] for name in names[layer]} for layer in sorted(names, key=by_numbers)}
    columns[CLASSIFIER_INPUT] = {name: run.columns[name] for name in measured if name in run.columns}
    layers = [LoggedRun(layer, {"epoch": run.columns["epoch"], **own}, {}) for layer, own in columns.items()]
    drawn = [name for name in measures_of(layers) if name in measured]
    return overview(layers, drawn) if drawn else None


def by_numbers(name: str) -> list[tuple[int, str]]:
    """What orders layer2 before layer10: a record has its arrays by the alphabet."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def panel(axes: Axes, name: str, runs: Sequence[LoggedRun]) -> None:
    """One measure of all runs against the epoch."""
    for k, run in enumerate(runs):
        style: dict[str, Any] = {"color": COLORS[k % len(COLORS)], "linestyle": DASHES[k % len(DASHES)], "label": run.name}
        if name == "omega" and "omega" in run.columns:
            _draw_spectrum(axes, run.columns["epoch"], run.columns["omega"], style)
        elif name in run.columns:
            axes.plot(run.columns["epoch"], run.columns[name], linewidth=1.5, marker=".", markersize=3, **style)
    shown = np.concatenate([np.ravel(run.columns[name]) for run in runs if name in run.columns])
    positive = shown[np.isfinite(shown) & (shown > 0)]
    if name in LOGARITHMIC and len(positive) and positive.max() > DECADE * positive.min():  # less has no two round ticks
        axes.set_yscale("log")
    axes.set_title(TITLES.get(name, _title_of_spectrum(runs)), fontsize=9)
    axes.set_xlabel("epoch", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.tick_params(which="both", labelsize=8)
    axes.grid(which="major", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


def _title_of_spectrum(runs: Sequence[LoggedRun]) -> str:
    many = any(run.columns["omega"].shape[1] > MOST_LINES for run in runs if "omega" in run.columns)
    return "$\\omega_j$ of SNR: median, quartiles, range" if many else "SNR singular values $\\omega_j$"


def _draw_spectrum(axes: Axes, epochs: np.ndarray, omega: np.ndarray, style: dict[str, Any]) -> None:
    """Every value where they are few; where they are many their median, the middle half and the whole range."""
    omega = np.where(omega > 0, omega, np.nan)
    if omega.shape[1] <= MOST_LINES:
        axes.plot(epochs, omega[:, 0], linewidth=1.2, **style)
        axes.plot(epochs, omega[:, 1:], linewidth=0.9, color=style["color"], linestyle=style["linestyle"])
        return
    defined = np.isfinite(omega).any(1)
    low, first, middle, third, high = np.nanquantile(omega[defined], (0, 0.25, 0.5, 0.75, 1), axis=1)
    axes.fill_between(epochs[defined], low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.fill_between(epochs[defined], first, third, color=style["color"], alpha=0.3, linewidth=0)
    axes.plot(epochs[defined], middle, linewidth=1.5, **style)
