"""Draws the figures of the documentation: `python docs/make_figures.py`, from the repository root."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from manifolds.class_centering import ClassLayout
from ufm.features.snr import snr
from ufm.files.plot import BLACK, BLUE, GREEN, ORANGE, RED, erratum_figure, save_figure, trajectory_figure
from ufm.flow.config import FlowConfig
from ufm.flow.report import title
from ufm.flow.run import run_flow
from ufm.flow.start import prepare
from ufm.laws.general import GeneralLaw
from ufm.laws.general_run import run_general
from ufm.laws.kernel_ratio import RenormalizedKernelRatio
from ufm.laws.singular_value_dynamics import EMBEDDED, RENORMALIZED

FIGURES = Path(__file__).parent / "figures"


def main() -> None:
    """Every figure that a page shows and no command of that page draws."""
    config = FlowConfig()
    result = run_flow(config, prepare(config))
    save_figure(trajectory_figure(result.flow, result.scheme, title(result)), FIGURES / "flow.png")
    C, N, P = 4, 12, 6
    layout = ClassLayout.equal(C, N)
    rng = np.random.default_rng(2)
    H = rng.standard_normal((P, layout.n)) + layout.spread(rng.standard_normal((P, C)))
    save_figure(erratum_figure(snr(H, layout).omega, C, N, eta=50.0, steps=200), FIGURES / "erratum.png")
    save_figure(between_laws(), FIGURES / "between-laws.png")
    save_figure(unbalanced_limit(), FIGURES / "unbalanced-limit.png")


def between_laws() -> Figure:
    """Laws (a) and (b), and the laws of kernel ratios between them, from one start: omega, and its local exponent."""
    C, N, omega0 = 10, 500, np.array([1.0])
    t = np.geomspace(1e2, 1e10, 300)
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    lines = [(1.0, RENORMALIZED, "r = 1: law (a)", BLUE, "-")]
    lines += [
        (r, RenormalizedKernelRatio(r), f"r = {r:g}", color, dash)
        for r, color, dash in ((10.0, GREEN, "--"), (100.0, ORANGE, "-."), (1e4, RED, (0, (5, 1, 1, 1, 1, 1))))
    ]
    lines += [(1.0, EMBEDDED, "r = infinity: law (b)", BLACK, ":")]
    for r, law, label, color, dash in lines:
        omega = law.omega(t / r, omega0, C, N)[:, 0]
        left.loglog(t, omega, linestyle=dash, color=color, label=label, linewidth=1.6)
        right.semilogx(t, np.gradient(np.log(omega), np.log(t)), linestyle=dash, color=color, linewidth=1.6)
    left.set_ylabel("SNR singular value $\\omega$")
    left.legend(frameon=False)
    right.set_ylabel("$d \\log \\omega \\, / \\, d \\log t$")
    right.set_yticks([0, 0.25, 0.5])
    for axes in (left, right):
        axes.set_xlabel("flow time times kernel ratio, $r\\,t$")
        axes.grid(which="major", color="0.9", linewidth=0.6)
    figure.suptitle(f"C = {C}, N = {N}: from law (a) to law (b)", fontsize=10)
    return figure


def unbalanced_limit() -> Figure:
    """Where the class means of three equal and of three unequal classes end, in units of their growth."""
    figure = Figure(figsize=(9.0, 4.4), layout="constrained")
    for axes, counts in zip(figure.subplots(1, 2), ((50, 50, 50), (100, 40, 10)), strict=True):
        law = GeneralLaw(counts)
        S = law.scaled_means(np.array([[0.9, -0.7, -0.2], [0.3, 0.6, -0.8]]))
        end = 1e9 * law.n
        times = np.concatenate([[0.0], np.geomspace(1e-2 * law.n, end, 200)])
        run = run_general(law, S, times)
        paths = np.stack([run.class_means(k) / np.sqrt(1 + 2 * t / law.n) for k, t in enumerate(times)])
        corners = paths[-1]
        axes.fill(*corners, facecolor="none", edgecolor="0.6", linewidth=1.2)
        for c, (color, marker) in enumerate(((BLUE, "o"), (RED, "s"), (GREEN, "^"))):
            axes.plot(*paths[:, :, c].T, color=color, linewidth=1.4)
            axes.plot(*corners[:, c], marker, color=color, markersize=8, label=f"class of {counts[c]} examples")
        axes.plot(0, 0, "+", color=BLACK, markersize=11, markeredgewidth=1.6, label="mean over examples $\\mu_G$")
        axes.plot(*corners.mean(1), "x", color=ORANGE, markersize=9, markeredgewidth=2, label="mean of the class means")
        axes.set_aspect("equal")
        axes.set_xlim(-1.25, 1.25)
        axes.set_ylim(-1.15, 1.5)
        axes.legend(frameon=False, fontsize=8, loc="upper right")
        axes.set_title(
            "equal classes: a simplex ETF" if law.balanced else "unequal classes: a regular simplex, off centre", fontsize=10
        )
        axes.set_ylabel("second coordinate")
        axes.set_xlabel("first coordinate of $M_t / \\sqrt{1 + 2t/n}$")
    return figure


if __name__ == "__main__":
    main()
