"""The gallery's figures: collapse over the course of a solve, and theory against solves along a parameter."""

from typing import TYPE_CHECKING

import numpy as np

from sims.gallery.sweep import FLOOR, Sweep
from sims.training.log_figures import DASHES
from ufm.models.base import Simulation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # Okabe & Ito, safe for colour-blind readers
MARKERS = "osD^v<"
MEASURE_LABELS = {
    "NRC1": "NRC1 off the target's dimensions",
    "NRC2": "NRC2 off the rows of $W$",
    "NRC3": "NRC3 distance of $WW^T$",
    "NC1": "NC1 within-class share",
    "NC2": "NC2 distance from the frame",
    "NC3": "NC3 distance from duality",
}


def model_figure(report: Simulation, sweeps: tuple[Sweep, ...]) -> "Figure":
    """One model: its collapse over time, then each sweep beside it."""
    from matplotlib.figure import Figure

    columns = 1 + len(sweeps)
    figure = Figure(figsize=(4.3 * columns, 3.5), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    draw_collapse(axes[0], report)
    for ax, sweep in zip(axes[1:], sweeps, strict=True):
        draw_sweep(ax, sweep)
    model = report.model
    figure.suptitle(f"{model.facts.paper}   (C = {model.C}, N = {model.N}, P = {model.P})", fontsize=10)
    return figure


def draw_collapse(ax: "Axes", report: Simulation) -> None:
    """The model's measures of collapse and the distance of the objective from its minimum, on a logarithmic axis."""
    for k, name in enumerate(name for name in MEASURE_LABELS if name in report.history):
        label = MEASURE_LABELS[name]
        values = np.maximum(report.history[name], FLOOR)
        ax.semilogy(report.times, values, DASHES[k], color=COLOURS[k], label=label, linewidth=1.6)
    if "minimum" in report.predicted:
        gap = np.maximum(report.history["objective"] - report.predicted["minimum"], FLOOR)
        ax.semilogy(report.times, gap, ":", color="black", label="objective $-$ minimum", linewidth=1.6)
    else:
        ax.semilogy(report.times, report.history["objective"], ":", color="black", label="objective", linewidth=1.6)
    ax.set(xlabel=report.clock, ylabel="distance from collapse", title="collapse over time")
    finish(ax)


def draw_sweep(ax: "Axes", sweep: Sweep) -> None:
    """Lines for the theory, open markers of the same colour for the solves, grey verticals for the thresholds."""
    labels = list(dict.fromkeys([*sweep.lines, *sweep.points]))
    shared = [name for name in labels if name in sweep.lines and name in sweep.points]
    for k, name in enumerate(labels):
        colour = COLOURS[k % len(COLOURS)]
        if name in sweep.lines:
            ax.plot(sweep.line_x, sweep.lines[name], DASHES[k % 4], color=colour, label=name, linewidth=1.6)
        if name in sweep.points:
            label = None if name in sweep.lines else name
            ax.plot(sweep.point_x, sweep.points[name], MARKERS[k % 6], color=colour, label=label, markersize=5, fillstyle="none")
    if shared:
        ax.plot([], [], "k-", label="theory", linewidth=1.6)
        ax.plot([], [], "ko", label="solve or integration", markersize=5, fillstyle="none")
    for name, x in sweep.marks.items():
        ax.axvline(x, color="0.6", linewidth=1, zorder=0)
        ax.annotate(name, (x, 1.0), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8, color="0.3")
    ax.set(xlabel=sweep.x_label, ylabel=sweep.y_label)
    ax.set_title("theory and solves" if sweep.lines else "outside the theory", pad=18 if sweep.marks else None)
    if sweep.log_x:
        ax.set_xscale("log")
    if sweep.log_y:
        ax.set_yscale("log")
    finish(ax)


def finish(ax: "Axes") -> None:
    """Light frame and legend."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    ax.legend(framealpha=0.85, edgecolor="none", fontsize=8)
