"""`python -m ufm.flow`: exact trajectories of neural collapse from random or your own features, in one command."""

import argparse
import os
import sys
import time
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from manifolds.linalg import RankDeficient
from ufm.distributed import Processes, processes, raised_in_all, wait_for_all
from ufm.flow.config import FlowConfig
from ufm.flow.progress import StageLine
from ufm.flow.report import run_summary, text
from ufm.flow.result import FlowRun
from ufm.flow.run import check, run_flow
from ufm.flow.source import check_options_alike, check_shared, started
from ufm.flow.start import Start
from ufm.interrupt import Interrupted
from ufm.laws.singular_value_dynamics import LAWS
from ufm.options import refuse_lost_values, shared_option
from ufm.output import INTERRUPTED, REFUSED, exit_code, one_line, output_errors_last, printable, say, show
from ufm.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

PLOT_SUFFIXES = (".png", ".svg", ".pdf")


class FlowParser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """One line on standard error, exit code 2."""
        lost, _, rest = message.partition("unrecognized arguments: ")
        if not lost and not rest.startswith("-"):  # the shell took apart what belongs together
            message += "; put quotes around a pattern of files, and write --sizes 50,20,5 without spaces"
        self.exit(REFUSED, f"ufm.flow: error: {printable(message)}\n")


def parser() -> FlowParser:
    """The command line."""
    p = FlowParser(
        prog="python -m ufm.flow",
        description="Whiten features, compute an exact flow of their SNR singular values and the discrete scheme for comparison.",
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=120),  # asking the terminal would import shutil
    )
    p.add_argument("--version", action="version", version=f"ufm.flow {__version__}", help="print the version and exit")
    start = p.add_argument_group("start")
    start.add_argument("--C", type=int, help="classes of random features (default 10)")
    start.add_argument("--N", type=int, help="examples per class (default 500)")
    start.add_argument("--sizes", metavar="N,N,...", help="examples of each class (default: N of all C)")
    start.add_argument("--P", type=int, help="features (default 512)")
    start.add_argument("--seed", **shared_option("seed", "0"))
    start.add_argument(
        "--features",
        metavar="FILE.npz",
        help="arrays 'features' (n, P), 'labels' (n,); a quoted pattern 'DIR/*.npz' or a checkpoint (default: random)",
    )
    start.add_argument("--balance", action="store_true", help="subsample every class to the size of the smallest")
    start.add_argument("--reduce", action="store_true", help="drop the directions in which Sigma_W is zero, and say how many")
    start.add_argument(
        "--start",
        choices=("whitened", "raw"),
        default="whitened",
        help="whitened: Sigma_W = I, or total covariance I for the unnormalized flow (default); raw: not whitened",
    )
    clock = p.add_argument_group("flow and time")
    clock.add_argument("--flow", choices=(*LAWS, "all"), default="renormalized", help="law (a), (b), (c), or all (default: (a))")
    ridge = "weight decay of the classifier, as --lambda of sims.measure (default 0)"
    clock.add_argument("--ridge", type=float, default=0.0, metavar="LAMBDA", help=ridge)
    clock.add_argument(
        "--kernel-ratio", type=float, default=1.0, metavar="R", help="speed of class means over that of deviations (default 1)"
    )
    clock.add_argument(
        "--feature-decay", type=float, default=0.0, metavar="LAMBDA", help="weight decay of unnormalized features (default 0)"
    )
    end = clock.add_mutually_exclusive_group()
    end.add_argument(
        "--growth", type=float, default=10.0, help="end when the smallest omega has grown by this factor (default 10)"
    )
    end.add_argument("--t-end", type=float, help="end at this flow time (default: by growth)")
    clock.add_argument("--points", type=int, help="output times, log-spaced (default 1000, fewer for many unequal classes)")
    step = clock.add_mutually_exclusive_group()
    step.add_argument("--eta", type=float, help="step size of the discrete scheme (default: by steps)")
    step.add_argument(
        "--steps", type=int, help="number of steps of the scheme (default 1000, more if the safe step size is smaller)"
    )
    how = p.add_argument_group("computation")
    how.add_argument(
        "--full",
        action="store_true",
        help="check: integrate the full X by the flow and the scheme; with --out a stopped run resumes",
    )
    how.add_argument("--device", **shared_option("device", "none, numpy computes", default=None))
    how.add_argument(
        "--dtype",
        choices=("float64", "float32"),
        default="float64",
        help="of the features and of X; float32 halves the memory of --full and keeps 3 to 4 digits (default float64)",
    )
    out = p.add_argument_group("output")
    out.add_argument(
        "--out", metavar="FILE.npz", help="arrays of the run; with --flow all one FILE.NAME.npz each (default: none)"
    )
    out.add_argument(
        "--plot", metavar="FILE", help="figure, .png, .svg or .pdf; with --flow all one for each flow (default: none)"
    )
    out.add_argument("--json", **shared_option("json"))
    out.add_argument("--quiet", **shared_option("quiet"))
    return p


def flow_config(args: argparse.Namespace) -> FlowConfig:
    """The configuration of the (first) run. Raises ValueError for options that exclude each other or make no sense."""
    sizes = {name: value for name in "CNP" if (value := getattr(args, name)) is not None}
    if args.features is not None and sizes:
        raise ValueError(f"--features decides C, N and P: leave out {', '.join('--' + name for name in sizes)}")
    if args.sizes is not None and (args.features is not None or {"C", "N"} & sizes.keys()):
        raise ValueError(f"--sizes {args.sizes} decides C and N: leave out --C, --N and --features")
    if args.plot is not None and os.path.splitext(args.plot)[1] not in PLOT_SUFFIXES:
        raise ValueError(f"--plot {args.plot}: the name must end in {', '.join(PLOT_SUFFIXES)}")
    if args.out is not None and os.path.splitext(args.out)[1] != ".npz":
        raise ValueError(f"--out {args.out}: the name must end in .npz")
    names = FlowConfig.__dataclass_fields__.keys() - {"C", "N", "P", "sizes", "flow"}
    first = next(iter(LAWS)) if args.flow == "all" else args.flow
    return FlowConfig(**sizes, sizes=sizes_of(args.sizes), flow=first, **{name: getattr(args, name) for name in names})


def sizes_of(text: str | None) -> tuple[int, ...] | None:
    """The class sizes of --sizes. Raises ValueError for what is no list of whole numbers."""
    try:
        return None if text is None else tuple(int(size) for size in text.split(","))
    except ValueError:
        raise ValueError(f"--sizes {text}: whole numbers with commas between them are needed, as in 50,20,5") from None


def run_and_write(
    config: FlowConfig,
    start: Start,
    paths: "tuple[Path | None, Path | None]",
    checkpoint: "Path | None",
    quiet: bool,
    group: Processes,
) -> FlowRun:
    """Run one flow, and write its arrays and its figure where asked for; where that fails all processes say so."""
    progress = StageLine(quiet)
    try:
        result = run_flow(config, start, progress, checkpoint)
    except Interrupted as stop:
        result = stop.partial
    finally:
        progress.close()
    with raised_in_all(group) if result.complete else nullcontext():  # the others need not be interrupted, too
        if any(paths):
            from ufm.flow.outputs import write_run

            write_run(result, *paths, checkpoint)
    return result


def paths_of(
    args: argparse.Namespace, configs: dict[str, FlowConfig], group: Processes, kept: "dict[str, Path]", locks: ExitStack
) -> "dict[str, tuple[Path | None, Path | None]]":
    """Where each flow writes its arrays and its figure, and into `kept` where all processes keep its state.

    The first process alone writes and prints, and has the `locks` of what --full writes. Raises ValueError, in every process, for
    what cannot be written, or is written by another command.
    """
    out, plot = args.out, args.plot
    if group.rank:
        args.out, args.plot, args.json, args.quiet = None, None, False, True
    if out is None and plot is None:
        return dict.fromkeys(configs, (None, None))
    from ufm.flow.outputs import locked_states, output_paths

    several = len(configs) > 1
    with raised_in_all(group):
        paths = {name: output_paths(config, args.out, args.plot, several) for name, config in configs.items()}
    if out is not None and args.full:
        kept |= locked_states(configs, out, group, locks)
    return paths


def run_flows(
    args: argparse.Namespace, began: float, runs: dict[str, FlowRun], kept: "dict[str, Path]", locks: ExitStack
) -> None:
    """Every flow, checked before the first is run, into `runs`, its checkpoint into `kept`. KeyboardInterrupt goes through."""
    group = processes()
    if group.size > 1:  # first of all: an option that is wrong in one of them alone is a differing one
        check_options_alike(vars(args), group)
        check_shared(args.features, group)
    first = flow_config(args)
    if args.flow == "all" and args.start == "raw":
        raise ValueError("--start raw goes with --flow unnormalized, not with all")
    names = tuple(LAWS) if args.flow == "all" else (args.flow,)
    configs = {name: replace(first, flow=name) for name in names}
    paths = paths_of(args, configs, group, kept, locks)
    start = started(first, group, left_vectors=args.out is not None)
    for config in configs.values():
        check(config, start)
    with output_errors_last(written=args.out is not None or args.plot is not None) as tell:
        for name, config in configs.items():
            runs[name] = result = run_and_write(config, start, paths[name], kept.get(name), args.quiet, group)
            for warning in result.warnings:
                say(f"warning: {warning}", quiet=group.rank > 0)
            if not (args.quiet or args.json):
                written = [f"wrote {printable(str(path))}" for path in paths[name] if path is not None]
                tell("\n".join([text(result, time.perf_counter() - began), *written]) + "\n" * (len(names) > 1))
            began = time.perf_counter()
            if not result.complete:
                raise KeyboardInterrupt
    wait_for_all(group)


def kept_state(kept: "dict[str, Path]") -> "Path | None":
    """The folder that several processes leave where they are stopped."""
    return next((path for path in kept.values() if path.is_dir()), None)


def main(argv: list[str] | None = None) -> int:
    """Run the command: 0 done, 1 failed or 2 bad input with one line on standard error, 130 interrupted (the rest is written)."""
    began = time.perf_counter()
    command_line = parser()
    refuse_lost_values(command_line.error, sys.argv[1:] if argv is None else argv)
    args = command_line.parse_args(argv)
    runs, kept, code = dict[str, FlowRun](), dict[str, "Path"](), 0
    try:
        with ExitStack() as locks:
            run_flows(args, began, runs, kept, locks)
    except (ValueError, OverflowError, RuntimeError, MemoryError) as error:
        advice = " (--reduce)" if isinstance(error, RankDeficient) else ""
        if isinstance(error, RuntimeError) and (state := kept_state(kept)):
            advice = f"; the same command goes on from {state}"
        say(f"ufm.flow: error: {one_line(error)}{advice}")
        return exit_code(error)
    except KeyboardInterrupt:
        state = kept_state(kept)
        resumes = f"the same command goes on from {state}" if state else "before anything was computed"
        say(f"ufm.flow: interrupted, {'what was computed is kept' if runs else resumes}")
        code = INTERRUPTED
    if args.json and runs:
        import json

        objects = {name: run_summary(result) for name, result in runs.items()}
        show(json.dumps({"flows": objects} if args.flow == "all" else objects[args.flow], allow_nan=False))
    return code
