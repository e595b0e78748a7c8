"""The figures of a comparison. Laws have the same colour and dash everywhere; what was measured is black."""

from collections.abc import Mapping, Sequence
from typing import BinaryIO

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from sims.comparison.analysis import Group
from sims.comparison.numbers import spectra_of
from ufm.compare.comparison import SCHEME, Comparison
from ufm.compare.exponent import EXPONENTS
from ufm.files.plot import BLACK, BLUE, GREEN, ORANGE, RED, few_ticks, panels

STYLES = {"renormalized": (BLUE, "-"), "embedded": (RED, "--"), "unnormalized": (GREEN, "-."), SCHEME: (ORANGE, ":")}
SHOWN_EXPONENTS = (-1.0, 2.5)  # exponents in the figure; an interval that leaves it is cut
INVARIANTS = {
    "renormalized": "log u + u",
    "embedded": "log u + 2u + u²/2",
    "unnormalized": "log u",
}
SPECTRA = (
    ("spread", "max ω / min ω", False),
    ("loss", "L(LS)", True),
    ("loss_nc1", "L(NC1)", True),
    ("loss_nc23", "L(NC2/3)", True),
    ("nc1", "NC1: Σⱼ ωⱼ⁻²", True),
    ("nc2_equinorm", "NC2 equinorm", False),
    ("nc2_maxangle", "NC2 maximal angle", False),
    ("nc3", "NC3", True),
    ("nc4", "NC4", False),
)


def exponent_figure(columns: Mapping[str, Sequence[Group]]) -> Figure | None:
    """The exponent of every group of runs (rows) with its interval, between the laws', for several choices of epochs (columns).

    None where no group has an exponent.
    """
    names = list(dict.fromkeys(group.name for groups in columns.values() for group in groups if group.verdict.exponent))
    if not names:
        return None
    figure = Figure(figsize=(4.0 + 2.6 * len(columns), 1.3 + 0.3 * len(names)), layout="constrained")
    grid = figure.subplots(1, len(columns), squeeze=False, sharey=True)[0]
    for axes, (title, groups) in zip(grid, columns.items(), strict=True):
        for law, p in EXPONENTS.items():
            axes.axvline(p, color=STYLES[law.name][0], linestyle=STYLES[law.name][1], label=f"{law.name} (p = {p:g})")
        for group in groups:
            exponent = group.verdict.exponent
            if exponent is not None:
                row = len(names) - 1 - names.index(group.name)
                axes.plot(np.clip([exponent.low, exponent.high], *SHOWN_EXPONENTS), [row, row], color=BLACK, linewidth=1.4)
                axes.plot(np.clip(exponent.value, *SHOWN_EXPONENTS), row, "o", color=BLACK, markersize=4)
        axes.set_title(title, fontsize=9)
        axes.set_xlim(*SHOWN_EXPONENTS)
        _finish(axes)
    grid[0].set_yticks(range(len(names)), names[::-1], fontsize=8)
    grid[0].set_ylim(-0.7, len(names) - 0.3)
    figure.supxlabel("exponent p of d log u/dt ∝ (1 + u)⁻ᵖ, with bootstrap interval", fontsize=9)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    return figure


def proximity_figure(group: Group, fraction: float) -> Figure:
    """L_perp / L_LS of every run over epochs, with the entry to the central path."""
    figure, axes = _single_axes()
    ratios = [np.where(np.isfinite(comparison.window.ratio), comparison.window.ratio, np.nan) for comparison in group.comparisons]
    if all(np.isnan(ratio).all() or not (ratio > 0).any() for ratio in ratios):
        known = not any(np.isnan(ratio).all() for ratio in ratios)
        text = "simulated: on the central path from the start" if known else "L_perp is not known: no classifier, or no lambda"
        axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return figure
    for k, (comparison, ratio) in enumerate(zip(group.comparisons, ratios, strict=True)):
        label = "measured" if k == 0 else None
        axes.semilogy(comparison.window.epochs, ratio, color=BLACK, linewidth=1.0, alpha=0.7, label=label)
        if comparison.window.entry is not None:
            axes.axvline(comparison.window.entry, color=BLUE, linewidth=0.8, label="start of the comparison" if k == 0 else None)
    axes.axhline(fraction, color=RED, linestyle="--", linewidth=1.0, label=f"{fraction:g}")
    axes.set_ylabel("L⊥ / L(LS)")
    few_ticks(axes)
    axes.legend(frameon=False, fontsize=8)
    return figure


def drift_figure(comparison: Comparison) -> Figure:
    """The drift of every law's invariants, rms over pairs: measured, and as each law would show it."""
    run = comparison.window.compared
    assert run is not None
    figure, grid = panels(1, 3, 9.0, 3.0, 0.5, 0.2)
    for axes, (name, drift) in zip(grid[0], comparison.drifts.items(), strict=True):
        axes.plot(run.t, _rms(drift.measured), "o-", color=BLACK, markersize=2.5, linewidth=1.0, label="measured")
        for other, values in drift.expected.items():
            if other != name:
                color, dash = STYLES[other]
                axes.plot(run.t, _rms(values), dash, color=color, label=f"if {other}")
        axes.axhline(0, color=STYLES[name][0], linestyle=STYLES[name][1], label=f"if {name}")
        axes.set_title(f"{name}: Φ = {INVARIANTS[name]}", fontsize=9, y=1.0)
        axes.set_xlabel("epoch" if run.V_t is not None else "time of the run", fontsize=8)
        _finish(axes)
    handles = [figure.axes[0].get_legend_handles_labels(), figure.axes[1].get_legend_handles_labels()]
    entries = {label: artist for artists, labels in handles for artist, label in zip(artists, labels, strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="upper center", ncols=4, frameon=False, fontsize=8)
    figure.supylabel("drift of Φ(uⱼ) − Φ(uₖ), rms", fontsize=9)
    return figure


def clock_figure(group: Group, member: int = 0) -> Figure:
    """Singular values with the laws at their best clocks, the clocks, and the error that remains, of one run."""
    comparison, observed = group.comparisons[member], group.runs[member]
    run = comparison.window.compared
    assert run is not None
    figure, ((left, middle, right),) = panels(1, 3, 9.0, 3.2, 0.1)
    left.semilogy(run.t, run.omega, "o", color=BLACK, markersize=2)
    for name, pair in comparison.pairs.items():
        color, dash = STYLES[name]
        clock = pair.clock
        outer = np.exp(clock.predicted[:, [0, -1]])  # the largest and the smallest at the entry: more lines hide the dots
        left.semilogy(run.t, outer, dash, color=color, linewidth=1.4)
        middle.plot(run.t, clock.tau / max(clock.tau[-1], 1e-300), dash, color=color, label=name)
        right.plot(run.t, np.sqrt((clock.error**2).mean(1)), dash, color=color, label=name)
    if observed.rates is not None:
        rates = observed.rates[np.searchsorted(observed.trajectory.t, run.t)]
        for k in np.flatnonzero(np.diff(rates)):
            middle.axvline((run.t[k] + run.t[k + 1]) / 2, color="0.6", linewidth=0.8, linestyle=":")
    left.set_ylabel("ωⱼ (dots); laws: first and last", fontsize=8)
    middle.set_ylabel("flow time / its last value", fontsize=8)
    right.set_ylabel("rms error of log ω", fontsize=8)
    middle.legend(frameon=False, fontsize=8)
    for axes in (left, middle, right):
        axes.set_xlabel("epoch" if run.V_t is not None else "time of the run", fontsize=8)
        _finish(axes)
    return figure


def vectors_figure(group: Group) -> Figure | None:
    """Angles of the singular vectors with those at the entry, and the rotated share, of every run. None where unmeasured."""
    shown = [comparison for comparison in group.comparisons if comparison.frozen is not None]
    if not shown:
        return None
    figure, ((left, middle, right),) = panels(1, 3, 9.0, 3.0)
    for comparison in shown:
        frozen, run = comparison.frozen, comparison.window.compared
        assert frozen is not None
        assert run is not None
        for axes, angle in ((left, frozen.angle_u), (middle, frozen.angle_v)):
            if angle is not None:
                axes.plot(run.t, np.degrees(angle), color=BLACK, linewidth=0.5, alpha=0.4)
        if frozen.subspace_u is not None:
            left.plot(run.t, np.degrees(frozen.subspace_u), color=BLUE, linewidth=1.5)
        if frozen.rotated is not None:
            right.plot(run.t, frozen.rotated, color=BLACK, linewidth=1.0)
    left.set_title("uⱼ (black), largest principal angle of their span (blue)", fontsize=8, y=1.0)
    middle.set_title("vⱼ", fontsize=8, y=1.0)
    right.set_title("share of ‖SNR‖² off the frozen diagonal", fontsize=8, y=1.0)
    left.set_ylabel("angle with the entry, degrees", fontsize=8)
    right.set_ylim(0, 1)
    for axes in (left, middle, right):
        axes.set_xlabel("epoch", fontsize=8)
        _finish(axes)
    return figure


def spectra_figure(group: Group, member: int = 0) -> Figure:
    """Spread, loss, NC1-NC4 of one run: measured from omega and V, and as the laws have them at their best clocks."""
    comparison, observed = group.comparisons[member], group.runs[member]
    run = comparison.window.compared
    assert run is not None
    sources = spectra_of(observed, comparison)
    figure, grid = panels(3, 3, 9.0, 7.0)
    for axes, (name, label, log) in zip(grid.flat, SPECTRA, strict=True):
        draw = axes.semilogy if log else axes.plot
        if name == "nc4":
            if "nc4" in sources.get("network", {}):
                draw(run.t, sources["network"]["nc4"], "o", color=BLACK, markersize=2.5, label="measured")
        else:
            draw(run.t, sources["measured"][name], "o", color=BLACK, markersize=2.5, label="measured")
        for law in comparison.pairs:
            if name in sources[law]:
                draw(run.t, sources[law][name], STYLES[law][1], color=STYLES[law][0], linewidth=1.2, label=law)
        axes.set_ylabel(label, fontsize=8)
        axes.set_xlabel("epoch" if run.V_t is not None else "time of the run", fontsize=8)
        _finish(axes)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="upper center", ncols=5, frameon=False, fontsize=8)
    return figure


def write_pdf(figures: Sequence[Figure], file: BinaryIO) -> None:
    """The figures of a report, a page each."""
    with rc_context({"pdf.fonttype": 42}), PdfPages(file, metadata={"CreationDate": None}) as pdf:
        for figure in figures:
            pdf.savefig(figure)


def _single_axes() -> tuple[Figure, Axes]:
    figure, ((axes,),) = panels(1, 1, 4.6, 3.0, 0.1)
    axes.set_xlabel("epoch", fontsize=8)
    _finish(axes)
    return figure, axes


def _finish(axes: Axes) -> None:
    axes.grid(which="major", color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", labelsize=7)
    few_ticks(axes)


def _rms(drift: np.ndarray) -> np.ndarray:
    return np.sqrt((drift**2).mean(1)) if drift.shape[1] else np.full(len(drift), np.nan)
