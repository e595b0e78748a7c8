"""Draws the figures of the documentation: `python docs/make_figures.py`, from the repository root."""

from pathlib import Path

import numpy as np

from manifolds.layout import ClassLayout
from ufm.features.snr import snr
from ufm.files.plot import erratum_figure, save_figure, trajectory_figure
from ufm.flow.config import FlowConfig
from ufm.flow.report import title
from ufm.flow.run import run_flow
from ufm.flow.start import prepare

FIGURES = Path(__file__).parent / "figures"


def main() -> None:
    """Every figure that a page shows and no command of that page draws."""
    config = FlowConfig()
    found = run_flow(config, prepare(config))
    save_figure(trajectory_figure(found.flow, found.scheme, title(found)), FIGURES / "flow.png")
    C, N, P = 4, 12, 6
    layout = ClassLayout.equal(C, N)
    rng = np.random.default_rng(2)
    H = rng.standard_normal((P, layout.n)) + layout.spread(rng.standard_normal((P, C)))
    save_figure(erratum_figure(snr(H, layout).omega, C, N, eta=50.0, steps=200), FIGURES / "erratum.png")


if __name__ == "__main__":
    main()
