"""`python -m sims.ladder --out DIR`: from free features to a network, one more ingredient per experiment (rung).

Every run is a folder under DIR/runs, and is skipped if it is finished; the comparison and the report are computed anew.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sims.command import Parser, json_line, run_command
from sims.page import check_jinja2
from ufm.files.json_objects import JsonObject
from ufm.output import output_errors_last, say, show

if TYPE_CHECKING:
    from sims.rungs.rung import Rung
    from sims.training.readers import DataChoice


def parser() -> Parser:
    """The command line."""
    p = Parser(prog="python -m sims.ladder", description=__doc__, shared=("seed", "json", "quiet"))
    p.add_argument("--out", required=True, metavar="DIR", help="folder of the runs and the report; resumes an interrupted study")
    p.add_argument("--seeds", type=int, default=5, help="runs of every kind, from --seed and the seeds that follow it")
    p.add_argument("--rungs", nargs="+", metavar="NAME", help="rungs to run and report (default: all)")
    p.add_argument("--train-only", action="store_true", help="train only, without comparison and report")
    p.add_argument("--dataset", default="digits", help="digits, fashionmnist, mnist, ...")
    p.add_shared("data-dir", "none")
    p.add_shared("per-class", "50")
    p.add_shared("test-per-class", "20")
    p.add_shared("threads", default=1)
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit codes as in `sims.command`."""
    return run_command(parser(), climb, argv, "repeat the command to go on")


def climb(args: argparse.Namespace) -> None:
    """Train what is missing, every rung of a seed before the next seed, and report."""
    if args.seeds < 1 or args.threads < 1:
        raise ValueError(f"--seeds {args.seeds} --threads {args.threads}: at least 1 of each is needed")
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: it cannot be negative")
    if not args.train_only:
        check_jinja2()
    import numpy as np  # noqa: F401 - before torch, whose own import of it would swallow an interrupt
    import torch

    from sims.rungs.run import run_rung
    from sims.rungs.rung import BY_NAME, RUNGS, rung_data

    unknown = [name for name in args.rungs or () if name not in BY_NAME]
    if unknown:
        raise ValueError(f"no rung is called {unknown[0]!r}; there are {', '.join(BY_NAME)}")
    torch.set_num_threads(args.threads)
    chosen = [rung for rung in RUNGS if not args.rungs or rung.name in args.rungs]
    data = choice_of_data(args)
    rung_data(args.seed, data)  # wrong files are refused before anything is written
    for seed in range(args.seed, args.seed + args.seeds):
        for rung in chosen:
            began = time.monotonic()
            run_rung(rung, seed, Path(args.out) / "runs" / f"{rung.name}-seed{seed}", data)
            if not args.quiet and time.monotonic() - began > 1:
                say(f"{rung.name}, seed {seed}: {time.monotonic() - began:.0f} s")
    if not args.train_only:
        report_ladder(chosen, args)


def choice_of_data(args: argparse.Namespace) -> "DataChoice":
    """The data that the options name, whose embedded default are the digits."""
    from dataclasses import replace

    from sims.rungs.rung import DIGITS_DATA

    counts = {"per_class": args.per_class, "test_per_class": args.test_per_class}
    given = {name: count for name, count in counts.items() if count is not None}
    return replace(DIGITS_DATA, dataset=args.dataset, folder=args.data_dir, **given)


def report_ladder(chosen: "list[Rung]", args: argparse.Namespace) -> None:
    """Compare the runs of every rung with the models, write the report and print it."""
    from sims.rungs.report import judged_rung, markdown, not_judged, write_ladder

    out, rungs = Path(args.out), list[JsonObject]()
    with output_errors_last(written=True) as tell:
        for rung in chosen:
            paths = [out / "runs" / f"{rung.name}-seed{seed}" for seed in range(args.seed, args.seed + args.seeds)]
            try:
                rungs.append(judged_rung(rung, paths, out))
            except (ValueError, ArithmeticError, OSError) as error:  # the other rungs are reported all the same
                rungs.append(not_judged(rung, len(paths), f"cannot be judged: {error}"))
            if args.json:
                tell(json_line(rungs[-1]))
            elif not args.quiet:
                say(f"{rung.name}: {rungs[-1]['outcome']}, {rungs[-1]['reason']}")
        data = choice_of_data(args)
        write_ladder(rungs, out, f"{data.dataset}, {data.per_class} examples per class")
    if not args.json and not args.quiet:
        show(markdown(rungs))


if __name__ == "__main__":
    sys.exit(main())
