"""`python -m sims.ledger`: which operations of a network cause its collapse, as a table, an HTML page and a PDF.

A SOURCE is the folder of a `sims.train` run, a log of `ufm.monitor` (the folder of a `RunLog`, or a .csv), or MODULE:FUNCTION, a
function of yours without arguments that returns (model, loader) or (model, loader, test loader). Several .npz files of features
(n, P) and labels (n,) are the operations of one network, in order.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from sims.command import Parser, json_line, run_command
from sims.page import check_jinja2
from ufm.files.json_objects import JsonObject
from ufm.files.store import check_folder_writable
from ufm.output import output_errors_last, printable

REDUCTIONS = ("sketch", "channels")
FEATURE_FILE, LOG, FUNCTION = "a file of features", "a log", "a function"  # kinds of sources beside the folder of a run
RUNS = "folders of sims.train runs"
ONLY_FOR: dict[str, tuple[tuple[str, ...], str]] = {  # kinds beside a run for which an option says something, and all of them
    "measured": ((LOG,), f"{RUNS} and logs"),
    "per_class": ((), RUNS),
    "forces": ((), f"{RUNS}, which have a loss"),
    "limit": ((FEATURE_FILE, FUNCTION), "networks and features"),
    "reduction": ((FEATURE_FILE, FUNCTION), "networks and features"),
}


def parser() -> Parser:
    """The command line."""
    p = Parser(prog="python -m sims.ledger", description=__doc__, shared=("seed", "json", "quiet"))
    p.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="run folders, logs, MODULE:FUNCTION, or features FILE.npz FILE.npz ..."
    )
    p.add_argument(
        "--out", metavar="DIR", help="write report.json, report.html and report.pdf there (default: nothing is written)"
    )
    measured = p.add_shared("measured", "the last epoch; others of a run train it again", default=[])
    p.add_former("--epochs", measured)
    p.add_shared("per-class", "all")
    p.add_argument("--limit", type=int, default=512, help="states with more features than this are reduced")
    p.add_argument(
        "--reduction", choices=REDUCTIONS, default="sketch", help="random linear map of the features, or means of channels"
    )
    p.add_argument(
        "--forces",
        action="store_true",
        help="also compute the gradients of the parameters that belong to class means and to deviations (forces), for a run",
    )
    return p


def check_options_used(args: argparse.Namespace, kind: str, source: str) -> None:
    """Raise ValueError for an option that would change nothing about a source of this kind."""
    for name, (kinds, where) in ONLY_FOR.items():
        if kind not in kinds and getattr(args, name) != parser().get_default(name):
            raise ValueError(f"--{name.replace('_', '-')} is for {where}: {source} is {kind}")


def requested_ledgers(args: argparse.Namespace) -> Iterator[JsonObject]:
    """The ledgers asked for, one after another."""
    from sims.ledgers.logs import is_log, of_log
    from sims.ledgers.sources import Wanted, of_features, of_function, of_run
    from ufm.ledger import ChannelMeans, Sketch

    kind = Sketch if args.reduction == "sketch" else ChannelMeans
    wanted = Wanted(kind(args.limit, args.seed), args.per_class, args.forces, args.seed)
    files = [Path(source) for source in args.sources if source.endswith(".npz")]
    if files:
        if len(files) < len(args.sources) or len(files) < 2:
            raise ValueError("features of one network are at least two .npz files, an input and an operation, and nothing else")
        check_options_used(args, FEATURE_FILE, args.sources[0])
        yield of_features(files, wanted)
        return
    for source in args.sources:
        if is_log(Path(source)):
            check_options_used(args, LOG, source)
            yield from of_log(Path(source), tuple(sorted(set(args.measured))))
        elif Path(source).is_dir():
            yield from of_run(Path(source), wanted, tuple(sorted(set(args.measured))))
        elif ":" in source:
            check_options_used(args, FUNCTION, source)
            yield from of_function(source, wanted)
        else:
            raise ValueError(f"{source} is no folder of a run, no log, no .npz and not MODULE:FUNCTION")


def ledger_table(entry: JsonObject) -> str:
    """A stored ledger as text."""
    from ufm.ledger.result import table_lines

    epoch = "" if entry["epoch"] is None else f", epoch {entry['epoch']}"
    head = f"{entry['source']}{epoch}, {entry['split']}, {entry['examples']} examples"
    return "\n".join(map(printable, [head, *table_lines(entry["rows"], entry["note"]), *force_lines(entry["forces"] or [])]))


def force_lines(forces: list[JsonObject]) -> list[str]:
    """The balance of the forces as text, a line a parameter."""
    from sims.ledgers.report import FORCES, short

    if not forces:
        return []
    names = ("means", "deviations", "sum / means", "cosine", "cos decay", "sum / decay", "cos momentum")
    lines = [f"{'forces on the parameter':<24} " + " ".join(f"{name:>12}" for name in names)]
    for row in forces:
        lines.append(f"{row['parameter'][-24:]:<24} " + " ".join(f"{short(row[name]):>12}" for name in FORCES))
    return lines


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit codes as in `sims.command`."""
    return run_command(parser(), show_ledgers, argv, "files of the report already written are kept", only_with_out=True)


def show_ledgers(args: argparse.Namespace) -> None:
    """Print every ledger asked for as soon as it is known, as a table or with `--json` as a line, and write the report."""
    if args.out is not None and Path(args.out).is_file():
        raise ValueError(f"--out {args.out} is a file: a folder is needed")
    if args.out is not None:
        check_folder_writable(Path(args.out))
        check_jinja2()
    with output_errors_last(written=args.out is not None) as tell:
        entries = []
        for entry in requested_ledgers(args):
            entries.append(entry)
            if args.json or not args.quiet:
                tell(json_line(entry) if args.json else ledger_table(entry) + "\n")
        if args.out is not None:
            from sims.ledgers.report import write_ledger_report

            write_ledger_report(entries, Path(args.out))


if __name__ == "__main__":
    sys.exit(main())
