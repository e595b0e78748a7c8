"""`python -m sims.figures RUNS... --out DIR`: Figures 2-12 and Table 1 of the paper from stored runs."""

import argparse
import sys
from pathlib import Path

from sims.command import Parser, run_command, say
from sims.training.folder import load_run
from sims.training.paper_figures import (
    ABOUT_TRAIN_MEANS,
    OVERLAYS,
    PLOTS,
    Run,
    check_distinct,
    overlay_figure,
    plot_figure,
    table_one,
)
from ufm.files.plot import save_figure
from ufm.files.store import write_text

FORMATS = ("png", "pdf", "svg")


def parser() -> Parser:
    """The command line."""
    p = Parser(prog="python -m sims.figures", description=__doc__, shared=("quiet",))
    p.add_argument("runs", nargs="+", metavar="RUN", help="folders of sims.train, one a dataset, kind of network and loss")
    p.add_argument("--out", required=True, metavar="DIR", help="folder of the figures")
    p.add_argument("--loss", choices=("mse", "ce"), default="mse", help="runs that Figures 2-9 show")
    p.add_argument("--test-means", choices=("own", "train"), default="own", help="class means of Figure 12")
    p.add_argument("--format", choices=FORMATS, default="png", help="of the figures")
    return p


def draw(runs: list[Run], out: Path, loss: str, suffix: str, test_means: str = "own") -> list[Path]:
    """Write every figure that the runs have the measures for, and the table. Returns what was written.

    `test_means` "own" or "train": whose class means the test examples of Figure 12 are measured about.
    """
    check_distinct(runs)
    single = [run for run in runs if run.config.loss == loss]
    figures = {plot.number: plot_figure(plot, single) for plot in PLOTS}
    figures |= {overlay.number: overlay_figure(overlay, runs) for overlay in OVERLAYS}
    if test_means == "train":
        figures[ABOUT_TRAIN_MEANS.number] = overlay_figure(ABOUT_TRAIN_MEANS, runs)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {out}: {error.strerror}") from error
    written = []
    for number, figure in figures.items():
        if figure is not None:
            written.append(out / f"figure-{number:02d}.{suffix}")
            save_figure(figure, written[-1])
    written.append(out / "table-1.md")
    write_text(written[-1], table_one(runs))
    return written


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit codes as in `sims.command`."""
    return run_command(parser(), draw_runs, argv, "figures already written stay")


def draw_runs(args: argparse.Namespace) -> None:
    """Draw the runs asked for, and print the table."""
    runs = [Run(*load_run(Path(name))) for name in args.runs]
    written = draw(runs, Path(args.out), args.loss, args.format, args.test_means)
    missing = [n for n in range(2, 13) if not any(path.stem == f"figure-{n:02d}" for path in written)]
    if missing:
        say(f"not measured by these runs: Figure {', '.join(map(str, missing))}")
    if not args.quiet:
        print(table_one(runs))


if __name__ == "__main__":
    sys.exit(main())
