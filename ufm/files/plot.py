"""All figures of the package: each function takes results and returns a matplotlib Figure; `save_figure` writes it atomically."""

from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator, StrMethodFormatter

from ufm.files.store import write_atomically
from ufm.laws import singular_value_dynamics as laws
from ufm.laws.discrete_singular_values import DiscreteRun, run_discrete
from ufm.laws.trajectory import Trajectory

BLUE, ORANGE, GREEN, RED, BLACK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#000000"  # Okabe & Ito, colour-blind safe
OMEGA = "SNR singular values $\\omega_j$"
STYLE = {"linewidth": 1.6}
FEW_DECADES = 1e3  # of an axis whose numbers are written out
SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure in the format of the suffix, atomically."""
    with rc_context({"pdf.fonttype": 42}):  # TrueType: conference systems refuse Type 3
        write_atomically(path, lambda file: figure.savefig(file, format=path.suffix[1:], dpi=160))


def trajectory_figure(flow: Trajectory, scheme: DiscreteRun, title: str = "") -> Figure:
    """The singular values of flow and scheme, and the loss with its parts, against flow time.

    `ufm.flow.result.load_flow` gives both from a stored run.
    """
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    visible = slice(1, None)
    lines = left.loglog(flow.t[visible], flow.omega[visible], color=BLUE, **STYLE)
    picked = _log_spaced(scheme.t, flow.t[min(1, len(flow.t) - 1)])
    marks = left.loglog(scheme.t[picked], scheme.omega[picked], "o", color=ORANGE, markersize=3.5, markerfacecolor="none")
    left.legend([lines[0], marks[0]], ["flow", "renormalize-after-step scheme"], frameon=False)
    _label(left, OMEGA)
    plain_numbers(left)
    for values, label, color, dash in (
        (flow.loss, "$L_{LS}$", BLACK, "-"),
        (flow.loss_nc1, "$L_{NC1}$", BLUE, "--"),
        (flow.loss_nc23, "$L_{NC2/3}$", RED, ":"),
    ):
        right.loglog(flow.t[visible], values[visible], dash, color=color, label=label, **STYLE)
    right.legend(frameon=False)
    _label(right, "loss on the central path")
    if title:
        figure.suptitle(title)
    return figure


def erratum_figure(omega0: np.ndarray, C: int, N: int, eta: float, steps: int) -> Figure:
    """The discrete scheme, law (a) and the printed Proposition 2 (law (b)) from one start, on one clock."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    scheme = run_discrete(omega0, eta, steps, C, N)
    t = np.geomspace(eta / 4, eta * steps, 400)
    a = axes.loglog(t, laws.RENORMALIZED.omega(t, omega0, C, N), color=BLUE, **STYLE)
    b = axes.loglog(t, laws.EMBEDDED.omega(t, omega0, C, N), "--", color=RED, **STYLE)
    picked = _log_spaced(scheme.t, eta)
    d = axes.loglog(scheme.t[picked], scheme.omega[picked], "o", color=ORANGE, markersize=4, markerfacecolor="none")
    axes.legend(
        [d[0], a[0], b[0]],
        ["discrete scheme (D.1)", "law (a): Equation 5 with Proposition 4", "printed Proposition 2 = law (b)"],
        frameon=False,
    )
    axes.set_title(f"C = {C}, N = {N}, {steps} steps of $\\eta$ = {eta:g}", fontsize=10)
    _label(axes, OMEGA)
    plain_numbers(axes)
    return figure


def _label(axes: Axes, quantity: str) -> None:
    axes.set_xlabel("flow time $t$ (step size $\\times$ number of steps)")
    axes.set_ylabel(quantity)
    axes.grid(which="major", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


def plain_numbers(axes: Axes) -> None:
    """Write 10 and 20 rather than 10^1 and 2 x 10^1, on a logarithmic axis of a few decades at most."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def few_ticks(axes: Axes) -> None:
    """On a logarithmic y axis powers of ten alone, without mathtext, or plain numbers where it spans few decades.

    Most of the time of a small panel is its ticks'. To be called after everything is drawn, as the span decides.
    """
    if axes.get_yscale() != "log":
        return
    low, high = axes.get_ylim()
    if high < FEW_DECADES * low:
        plain_numbers(axes)
    else:
        axes.yaxis.set_major_locator(LogLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(_decade_text))
    axes.yaxis.set_minor_locator(NullLocator())


def _decade_text(x: float, position: int | None = None) -> str:
    if not 0 < x < np.inf:  # a tick beyond the ends of float64
        return ""
    return "10" + str(round(np.log10(x))).translate(SUPERSCRIPTS)


def panels(
    rows: int, columns: int, width: float, height: float, above: float = 0.3, left: float = 0.0
) -> tuple[Figure, np.ndarray]:
    """A figure of equal panels (rows, columns), inches wide and high, with as many left free above and on the left of all.

    Margins and labels leave room for tick labels of four digits: to measure the text of every panel takes as long as to draw it.
    """
    figure = Figure(figsize=(width, height))
    beside, below, last = 0.62, 0.46, 0.1  # inches, on the left of and below every panel, on the right of the last
    wide, high = (width - left - last) / columns - beside, (height - above) / rows - below - 0.08
    margins = {"left": (left + beside) / width, "right": 1 - last / width}
    margins |= {"bottom": below / height, "top": 1 - (above + 0.08) / height}
    spaces = {"wspace": beside / wide, "hspace": (below + 0.08) / high}
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw=margins | spaces)
    for axes in grid.flat:
        axes.xaxis.set_label_coords(0.5, -0.22 / high)
        axes.yaxis.set_label_coords(-0.46 / wide, 0.5)
    return figure, grid


def _log_spaced(t: np.ndarray, first: float, count: int = 24) -> np.ndarray:
    """Indices of about `count` log-spaced positive times."""
    if len(t) < 2:
        return np.arange(0)
    wanted = np.geomspace(max(first, t[1]), t[-1], count)
    return np.unique(np.clip(np.searchsorted(t, wanted), 1, len(t) - 1))
