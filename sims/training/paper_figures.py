"""Figures 2-12 and Table 1 of the paper from measured runs: one panel a dataset (column) and a kind of network (row)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sims.training.protocol import TrainConfig
from sims.training.readers import DATASETS, JPEG
from ufm.files.plot import BLACK, BLUE, GREEN, ORANGE, RED
from ufm.monitor.record import Record

NETWORK_KINDS = ("vgg", "resnet", "densenet", "mlp")
DATASET_TITLES = {
    "digits": "digits",
    "mnist": "MNIST",
    "fashionmnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "svhn": "SVHN",
    "stl10": "STL-10",
    JPEG: "CIFAR-10 (JPEG)",
}
ZERO_ERROR_RED = "#CC0000"
CELL_PANEL, MARGIN = (2.5, 2.0), (1.1, 1.0)  # inches
NARROWEST = 4.8  # inches, what two entries of the legend side by side need


@dataclass(frozen=True, eq=False)
class StoredRun:
    """A stored run."""

    config: TrainConfig
    record: Record

    @property
    def cell(self) -> tuple[str, str]:
        """Its row and column: kind of network and dataset."""
        return self.config.net.rstrip("0123456789"), self.config.dataset


@dataclass(frozen=True)
class Line:
    """A stored quantity, how it is called and drawn."""

    name: str
    label: str
    color: str
    dash: str = "-"


@dataclass(frozen=True)
class Plot:
    """One figure of the paper that shows lines of single runs."""

    number: int
    title: str
    ylabel: str
    lines: tuple[Line, ...]
    log: bool = False


def _means_and_classifiers(name: str) -> tuple[Line, ...]:
    return Line(name, "class means", BLUE), Line(f"{name}_w", "classifier", ORANGE, "--")


PLOTS = (
    Plot(
        2,
        "Decomposition of the MSE loss",
        "loss",
        (
            Line("loss", "$L$", BLACK),
            Line("loss_nc1", "$L_{NC1}$", BLUE, "--"),
            Line("loss_nc23", "$L_{NC2/3}$", RED, ":"),
            Line("loss_perp", "$L_{LS}^{\\perp}$", GREEN, "-."),
        ),
        log=True,
    ),
    Plot(3, "Equinorm", "Std / Avg of norms", _means_and_classifiers("nc2_equinorm")),
    Plot(4, "Equiangularity", "Std of cosines", _means_and_classifiers("nc2_equiangular")),
    Plot(5, "Maximal angle", "Avg $|\\cos + 1/(C-1)|$", _means_and_classifiers("nc2_maxangle")),
    Plot(6, "Self-duality", "$\\|W^T/\\|W\\| - M/\\|M\\|\\|_F^2$", (Line("nc3", "distance", BLUE),)),
    Plot(7, "Variability collapse", "tr$(\\Sigma_W \\Sigma_B^+)/C$", (Line("nc1", "train", BLUE),), log=True),
    Plot(8, "Nearest class centre", "share of mismatches", (Line("nc4", "train", BLUE), Line("test_nc4", "test", ORANGE, "--"))),
    Plot(9, "Adversarial robustness", "Ave $\\|r(x)\\|/\\|x\\|$", (Line("robustness", "DeepFool", BLUE),)),
)


@dataclass(frozen=True)
class Overlay:
    """One figure of the paper that shows a quantity under both losses."""

    number: int
    title: str
    ylabel: str
    name: str
    log: bool


OVERLAYS = (
    Overlay(10, "Activation collapse, MSE and cross-entropy", "tr$(\\Sigma_W \\Sigma_B^+)/C$", "nc1", log=True),
    Overlay(11, "Adversarial robustness, MSE and cross-entropy", "Ave $\\|r(x)\\|/\\|x\\|$", "robustness", log=False),
    Overlay(12, "Activation collapse on test data", "tr$(\\Sigma_W \\Sigma_B^+)/C$", "test_nc1", log=True),
)
# the paper does not say whose class means Figure 12 takes
ABOUT_TRAIN_MEANS = replace(OVERLAYS[-1], title="Collapse of test data to the training means", name="test_nc1_train_means")


def check_distinct(runs: Sequence[StoredRun]) -> None:
    """Raise ValueError where two runs would share a panel and a loss."""
    seen: dict[tuple[tuple[str, str], str], StoredRun] = {}
    for run in runs:
        key = (run.cell, run.config.loss)
        if key in seen:
            raise ValueError(f"two runs of {run.config.dataset}, {run.cell[0]}, {run.config.loss}: give one of them")
        seen[key] = run


def plot_figure(plot: Plot, runs: Sequence[StoredRun]) -> Figure | None:
    """A figure of single runs, or None where none of them measured it."""
    shown = [run for run in runs if any(line.name in run.record.arrays for line in plot.lines)]

    def draw(axes: Axes, here: Sequence[StoredRun]) -> None:
        for run in here:
            for line in plot.lines:
                _curve(axes, run.record, line, plot.log)
            _mark_zero_error(axes, run.record, "-", "zero training error")

    return _grid(shown, plot.title, plot.ylabel, draw) if shown else None


def overlay_figure(overlay: Overlay, runs: Sequence[StoredRun]) -> Figure | None:
    """A figure of both losses, or None where no run measured it."""
    shown = [run for run in runs if overlay.name in run.record.arrays]

    def draw(axes: Axes, here: Sequence[StoredRun]) -> None:
        for run in sorted(here, key=lambda run: run.config.loss, reverse=True):  # MSE first, as in the paper's legends
            mse = run.config.loss == "mse"
            line = Line(overlay.name, "MSE" if mse else "cross-entropy", BLUE if mse else ORANGE, "-" if mse else "--")
            _curve(axes, run.record, line, overlay.log)
            _mark_zero_error(axes, run.record, line.dash, f"zero training error, {line.label}")

    return _grid(shown, overlay.title, overlay.ylabel, draw) if shown else None


def improvement(run: StoredRun, name: str) -> tuple[float, float] | None:
    """A quantity at the first epoch of zero training error and at the last; None where that epoch was not reached."""
    zero = run.record.zero_error_epoch
    if zero is None or name not in run.record.arrays:
        return None
    values = run.record.arrays[name]
    return float(values[np.flatnonzero(run.record.epochs == zero)[0]]), float(values[-1])


def table_one(runs: Sequence[StoredRun]) -> str:
    """Table 1 in Markdown: test accuracy (%) at zero training error and at the end, and the gain of robustness of Figure 9."""
    rows = ["| dataset | net | loss | acc. 0-error | acc. final | zero-error epoch |", "|---|---|---|---|---|---|"]
    gains: dict[str, list[float]] = {"accuracy, percentage points": [], "robustness": []}
    for run in sorted(runs, key=_order):
        head = f"| {DATASET_TITLES[run.config.dataset]} | {run.config.net} | {run.config.loss} |"
        errors, robust = improvement(run, "test_error"), improvement(run, "robustness")
        if errors is None:
            rows.append(f"{head} not reached | {100 * (1 - run.record.arrays['test_error'][-1]):.2f} | - |")
        else:
            first, last = (100 * (1 - error) for error in errors)
            gains["accuracy, percentage points"].append(last - first)
            rows.append(f"{head} {first:.2f} | {last:.2f} | {run.record.zero_error_epoch} |")
        if robust is not None:
            gains["robustness"].append(robust[1] - robust[0])
    for name, values in gains.items():
        if values:
            rows.append(
                f"\nGain of {name}: median {np.median(values):.4f}, mean {np.mean(values):.4f}, over {len(values)} run(s)."
            )
    return "\n".join(rows) + "\n"


def _order(run: StoredRun) -> tuple[int, int, str]:
    kind, dataset = run.cell
    return DATASETS.index(dataset), NETWORK_KINDS.index(kind), run.config.loss


def _grid(runs: Sequence[StoredRun], title: str, ylabel: str, draw: Callable[[Axes, Sequence[StoredRun]], None]) -> Figure:
    rows = [kind for kind in NETWORK_KINDS if any(run.cell[0] == kind for run in runs)]
    columns = [dataset for dataset in DATASETS if any(run.cell[1] == dataset for run in runs)]
    size = (max(CELL_PANEL[0] * len(columns) + MARGIN[0], NARROWEST), CELL_PANEL[1] * len(rows) + MARGIN[1])
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    entries: dict[str, Artist] = {}
    for i, kind in enumerate(rows):
        for j, dataset in enumerate(columns):
            axes = grid[i, j]
            here = [run for run in runs if run.cell == (kind, dataset)]
            if not here:
                axes.set_axis_off()
                continue
            draw(axes, here)
            nets = ", ".join(dict.fromkeys(run.config.net for run in here))
            axes.set_title(f"{DATASET_TITLES[dataset]}, {nets}", fontsize=9)
            axes.set_xlabel("epoch", fontsize=8)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.tick_params(which="both", labelsize=8)
            axes.grid(which="major", color="0.9", linewidth=0.6)
            axes.set_axisbelow(True)
            entries |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.supylabel(ylabel, fontsize=9)
    figure.suptitle(title, fontsize=10)
    columns_of_legend = 2 if len(entries) == 4 else 3
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=columns_of_legend, frameon=False, fontsize=8
    )
    return figure


def _curve(axes: Axes, record: Record, line: Line, log: bool) -> None:
    if line.name not in record.arrays:
        return
    draw = axes.semilogy if log else axes.plot
    draw(record.epochs, record.arrays[line.name], line.dash, color=line.color, label=line.label, linewidth=1.5)


def _mark_zero_error(axes: Axes, record: Record, dash: str, label: str) -> None:
    if record.zero_error_epoch is not None:
        axes.axvline(record.zero_error_epoch, color=ZERO_ERROR_RED, linestyle=dash, linewidth=1.0, label=label)
