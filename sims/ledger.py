"""`python -m sims.ledger`: where in a network collapse is made, operation by operation, as a table, a page and a PDF.

A SOURCE is the folder of a `sims.train` run, or MODULE:FUNCTION, a function of yours that returns (model, loader) or (model,
loader, test loader). Several .npz files of features (n, P) and labels (n,) are the operations of one network, in order.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REDUCTIONS = ("sketch", "channels")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m sims.ledger", description=__doc__, allow_abbrev=False)
    p.add_argument("sources", nargs="+", metavar="SOURCE", help="run folders, MODULE:FUNCTION, or features FILE.npz FILE.npz ...")
    p.add_argument("--out", metavar="DIR", help="write report.json, report.html and report.pdf there")
    p.add_argument("--epochs", type=int, nargs="+", default=[], help="epochs of a run; it is trained again to reach them")
    p.add_argument("--per-class", type=int, help="examples a class that are measured (default all)")
    p.add_argument("--limit", type=int, default=512, help="features above which a state is reduced (default 512)")
    p.add_argument("--reduction", choices=REDUCTIONS, default="sketch", help="random sums of features, or means of channels")
    p.add_argument("--forces", action="store_true", help="forces of class means and deviations on the parameters of a run")
    p.add_argument("--seed", type=int, default=0, help="of the bootstrap, the subsample and the sketch")
    p.add_argument("--quiet", action="store_true", help="no tables")
    return p


def requested_ledgers(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The ledgers asked for, one after another."""
    from sims.ledgers.sources import Wanted, of_features, of_function, of_run
    from ufm.ledger import ChannelMeans, Sketch

    kind = Sketch if args.reduction == "sketch" else ChannelMeans
    wanted = Wanted(kind(args.limit, args.seed), args.per_class, args.forces, args.seed)
    files = [Path(source) for source in args.sources if source.endswith(".npz")]
    if files:
        if len(files) < len(args.sources) or len(files) < 2:
            raise ValueError("features of one network are at least two .npz files, an input and an operation, and nothing else")
        yield of_features(files, wanted)
        return
    for source in args.sources:
        if Path(source).is_dir():
            yield from of_run(Path(source), wanted, tuple(sorted(set(args.epochs))))
        elif ":" in source:
            yield from of_function(source, wanted)
        else:
            raise ValueError(f"{source} is no folder of a run, no .npz and not MODULE:FUNCTION")


def ledger_table(found: dict[str, Any]) -> str:
    """A stored ledger as text."""
    from sims.ledgers.report import table_lines

    epoch = "" if found["epoch"] is None else f", epoch {found['epoch']}"
    return "\n".join([f"{found['source']}{epoch}, {found['split']}, {found['examples']} examples", *table_lines(found)])


def main(argv: list[str] | None = None) -> int:
    """Run the command: 0 done, 2 bad input with one line on standard error."""
    args = parser().parse_args(argv)
    entries: list[dict[str, Any]] = []
    try:
        if args.out is not None and Path(args.out).is_file():
            raise ValueError(f"--out {args.out} is a file: a folder is needed")
        for found in requested_ledgers(args):
            entries.append(found)
            if not args.quiet:
                print(ledger_table(found) + "\n", flush=True)
        if args.out is not None:
            from sims.ledgers.report import write_ledger_report

            write_ledger_report(entries, Path(args.out))
    except (ValueError, OSError) as error:
        print(f"sims.ledger: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sims.ledger: stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
