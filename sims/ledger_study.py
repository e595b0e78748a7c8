"""`python -m sims.ledger_study`: the ledgers of many small networks and what they say, resumable.

Every network is a file of --out, written when it is done and skipped when it is there, so that a killed run resumes.
A network is trained from several seeds: --seed and those that follow it.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sims.command import Parser, print_json, run_command
from ufm.output import say, show

SIZES = ("tiny", "small", "full")


def study_cells(size: str, seed: int = 0) -> Iterator[Any]:
    """The networks of a size: `tiny` (seconds each, 3 seeds), `small` (all variants, 3 seeds), `full` (5 seeds, depths to 12).

    The seeds are `seed`, `seed` + 1, ...
    """
    from sims.ledgers.nets import Cell

    if size not in SIZES:
        raise ValueError(f"size = {size!r}: it is one of {', '.join(SIZES)}")
    both = [Cell(loss=loss) for loss in ("mse", "ce")]
    chosen = [*both, *(replace(cell, norm="none", rate=0.02) for cell in both)]
    changes: list[dict[str, Any]] = [{"activation": "identity"}, {"random_labels": True}]
    if size != "tiny":
        changes += [
            {"decay": 0.0}, {"norm": "layer"}, {"activation": "gelu"}, {"activation": "tanh"}, {"residual": True},
            {"fixed_etf": True}, {"width": 32}, {"width": 128}, {"depth": 2}, {"depth": 6},
        ]  # fmt: skip
        changes += [{"depth": 12}, {"depth": 12, "residual": True}] if size == "full" else []
    chosen += [replace(cell, **change) for cell in both for change in changes]
    epochs = {"tiny": 100, "small": 150, "full": 400}[size]
    for k in range(5 if size == "full" else 3):
        for cell in chosen:
            yield replace(cell, seed=seed + k, epochs=epochs)


def parser() -> Parser:
    """The command line."""
    p = Parser(prog="python -m sims.ledger_study", description=__doc__, shared=("seed", "json", "quiet"))
    p.add_argument("--size", choices=SIZES, default="tiny", help="how many networks: tiny 24, small 84, full 160")
    p.add_argument("--out", default="runs/ledger-study", metavar="DIR", help="folder of one file a network and summary.json")
    p.add_argument("--dataset", default="digits", help="digits, fashionmnist, cifar10-jpeg, ...")
    p.add_shared("data-dir", "none")
    p.add_shared("hub", "none")
    p.add_shared("per-class", "all")
    p.add_shared("test-per-class", "all")
    p.add_argument("--only", metavar="TEXT", help="only networks whose name contains it (default: all)")
    return p


def ledger_study(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run what is missing, with a line of progress each; every stored network, in order.

    Raises ValueError for a folder of other data or another version.
    """
    from sims.ledgers.nets import run_cell
    from sims.training.data import DataChoice, load
    from ufm.files.json_objects import read_json, told_as_damaged
    from ufm.files.store import provenance, write_text

    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: it cannot be negative")
    out = Path(args.out)
    choice = DataChoice(args.dataset, args.data_dir, args.hub, args.per_class, args.test_per_class)
    data = load(choice)
    out.mkdir(parents=True, exist_ok=True)
    networks = []
    for cell in study_cells(args.size, args.seed):
        if args.only and args.only not in cell.name:
            continue
        path = out / f"{cell.name.replace(' ', '_').replace('=', '-')}_epochs-{cell.epochs}_seed-{cell.seed}.json"
        identity = {"cell": asdict(cell), "data": data.fingerprint}
        if path.exists():
            stored = read_json(path)
            differing = [key for key in identity if stored.get(key) != identity[key]]
            if differing:
                raise ValueError(f"{path} was made with another {differing[0]}: choose another --out")
        else:
            stored: dict[str, Any] = identity | {"dataset": args.dataset, "provenance": provenance()}
            stored["ledgers"] = list(run_cell(cell, data))
            write_text(path, json.dumps(stored, allow_nan=False) + "\n")
        networks.append(stored)
        with told_as_damaged(path):
            errors = {e["split"]: e["error"] for e in stored["ledgers"]}
            told = f"{cell.name}, seed {cell.seed}: error {errors['train']:.2%} train, {errors['test']:.2%} test"
        say(told, args.quiet)
    return networks


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit codes as in `sims.command`."""
    return run_command(parser(), run_study, argv, "the networks that are done are kept")


def run_study(args: argparse.Namespace) -> None:
    """Run what is missing, write the summary of all, and print it."""
    from sims.ledgers.summary import summary, summary_text
    from ufm.files.json_objects import told_as_damaged
    from ufm.files.store import write_text

    networks = ledger_study(args)
    if not networks:
        raise ValueError(f"no network of size {args.size} has {args.only!r} in its name")
    with told_as_damaged(Path(args.out)):
        answers = summary(networks)
    write_text(Path(args.out) / "summary.json", json.dumps(answers, indent=1, allow_nan=False) + "\n")
    if args.json:
        print_json(answers)
    elif not args.quiet:
        show(summary_text(answers))


if __name__ == "__main__":
    sys.exit(main())
