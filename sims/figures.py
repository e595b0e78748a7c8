"""`python -m sims.figures RUNS... --out DIR`: Figures 2-12 and Table 1 of the paper from stored runs, measures of any log.

Runs of `sims.train` give the paper's figures. Where any other log is among them (a folder of `RunLog`, a trajectory.npz, a CSV),
every measure is drawn against the epoch, all runs overlaid: measures, one panel a measure, and measure-NAME one by one; of a run
with inner layers these too, one line a layer: layers, or layers-RUN.
"""

import argparse
import sys
from pathlib import Path

from sims.command import Parser, print_json, run_command
from sims.training.folder import CONFIG, load_run
from sims.training.log_figures import LoggedRun, layers_overview, load_all_logged, measures_of, overview
from sims.training.paper_figures import (
    ABOUT_TRAIN_MEANS,
    OVERLAYS,
    PLOTS,
    StoredRun,
    check_distinct,
    overlay_figure,
    plot_figure,
    table_one,
)
from ufm.files.plot import save_figure
from ufm.files.store import write_text
from ufm.output import printable, say, show

FORMATS = ("png", "pdf", "svg")


def parser() -> Parser:
    """The command line."""
    p = Parser(prog="python -m sims.figures", description=__doc__.splitlines()[0], shared=("json", "quiet"))
    p.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folders of sims.train, one for each dataset, network and loss; or logs of any training",
    )
    p.add_argument("--out", required=True, metavar="DIR", help="folder of the figures")
    p.add_argument("--loss", choices=("mse", "ce"), default="mse", help="loss of the runs in Figures 2-9")
    p.add_argument(
        "--test-means",
        choices=("own", "train"),
        default="own",
        help="class means in Figure 12, of the test set (own) or of the training set",
    )
    p.add_argument("--format", choices=FORMATS, default="png", help="of the figures")
    return p


def draw(runs: list[StoredRun], out: Path, loss: str, suffix: str, test_means: str = "own") -> list[Path]:
    """Write every figure that the runs have the measures for, and the table. Returns what was written.

    `test_means` "own" or "train": whose class means the test examples of Figure 12 are measured about.
    """
    check_distinct(runs)
    single = [run for run in runs if run.config.loss == loss]
    figures = {plot.number: plot_figure(plot, single) for plot in PLOTS}
    figures |= {overlay.number: overlay_figure(overlay, runs) for overlay in OVERLAYS}
    if test_means == "train":
        figures[ABOUT_TRAIN_MEANS.number] = overlay_figure(ABOUT_TRAIN_MEANS, runs)
    make_folder(out)
    written = []
    for number, figure in figures.items():
        if figure is not None:
            written.append(out / f"figure-{number:02d}.{suffix}")
            save_figure(figure, written[-1])
    written.append(out / "table-1.md")
    write_text(written[-1], table_one(runs))
    return written


def draw_logs(runs: list[LoggedRun], out: Path, suffix: str) -> list[Path]:
    """Draw every measure of any logs: all in one figure, one by one, and by layers. Returns what was written."""
    names = measures_of(runs)
    figures = {"measures": overview(runs)} | {f"measure-{name}": overview(runs, [name]) for name in names}
    of_layers = {run.name.replace("/", "-"): figure for run in runs if (figure := layers_overview(run)) is not None}
    figures |= {"layers" if len(runs) == 1 else f"layers-{name}": figure for name, figure in of_layers.items()}
    make_folder(out)
    written = [out / f"{name}.{suffix}" for name in figures]
    for path, figure in zip(written, figures.values(), strict=True):
        save_figure(figure, path)
    return written


def make_folder(out: Path) -> None:
    """Make the folder of the figures. Raises ValueError where that cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {out}: {error.strerror}") from error


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit codes as in `sims.command`."""
    return run_command(parser(), draw_runs, argv, "figures already written are kept")


def draw_runs(args: argparse.Namespace) -> None:
    """Draw the runs asked for, and print the table, or with `--json` what was written."""
    if any(not (Path(name) / CONFIG).exists() for name in args.runs):
        written = draw_logs(load_all_logged([Path(name) for name in args.runs]), Path(args.out), args.format)
        shown = ""
    else:
        runs = [StoredRun(*load_run(Path(name))) for name in args.runs]
        written = draw(runs, Path(args.out), args.loss, args.format, args.test_means)
        missing = [n for n in range(2, 13) if not any(path.stem == f"figure-{n:02d}" for path in written)]
        if missing:
            say(f"not measured by these runs: Figure {', '.join(map(str, missing))}")
        shown = f"{table_one(runs)}\n"
    if args.json:
        print_json({"runs": args.runs, "written": [str(path) for path in written]})
    elif not args.quiet:
        show(f"{shown}wrote to {printable(args.out)}: {', '.join(path.name for path in written)}")


if __name__ == "__main__":
    sys.exit(main())
