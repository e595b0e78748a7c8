"""`python -m sims.ledger_study`: the ledgers of many small networks and what they say, resumable.

Every network is a file of --out, written when it is done and skipped when it is there, so that a killed run goes on where it was.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

SIZES = ("tiny", "small", "full")


def study_cells(size: str) -> Iterator[Any]:
    """The networks of a size: `tiny` (seconds each, 3 seeds), `small` (all variants, 3 seeds), `full` (5 seeds, depths to 12)."""
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
    for seed in range(5 if size == "full" else 3):
        for cell in chosen:
            yield replace(cell, seed=seed, epochs=epochs)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m sims.ledger_study", description=__doc__, allow_abbrev=False)
    p.add_argument("--size", choices=SIZES, default="tiny", help="how many networks: tiny 24, small 84, full 160")
    p.add_argument("--out", default="runs/ledger-study", help="folder of the results, one file a network, and summary.json")
    p.add_argument("--dataset", default="digits", help="digits (default), fashionmnist, cifar10-jpeg, ...")
    p.add_argument("--data-dir", help="folder with the official files")
    p.add_argument("--hub", help="Hugging Face dataset, or the folder of one, to take instead")
    p.add_argument("--per-class", type=int, help="training examples a class (default all)")
    p.add_argument("--test-per-class", type=int, help="test examples a class (default all)")
    p.add_argument("--only", help="only cells whose name contains this")
    p.add_argument("--quiet", action="store_true", help="no line a network")
    return p


def ledger_study(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run what is missing; every stored network, in order. Raises ValueError for a folder of other data or another version."""
    from sims.ledgers.nets import run_cell
    from sims.training.data import DataChoice, load
    from ufm.files.store import provenance, write_text

    out = Path(args.out)
    choice = DataChoice(args.dataset, args.data_dir, args.hub, args.per_class, args.test_per_class)
    data = load(choice)
    out.mkdir(parents=True, exist_ok=True)
    found = []
    for cell in study_cells(args.size):
        if args.only and args.only not in cell.name:
            continue
        path = out / f"{cell.name.replace(' ', '_').replace('=', '-')}_epochs-{cell.epochs}_seed-{cell.seed}.json"
        identity = {"cell": asdict(cell), "data": data.fingerprint}
        if path.exists():
            stored = json.loads(path.read_text())
            differing = [key for key in identity if stored.get(key) != identity[key]]
            if differing:
                raise ValueError(f"{path} was made with another {differing[0]}: choose another --out")
        else:
            stored: dict[str, Any] = identity | {"dataset": args.dataset, "provenance": provenance()}
            stored["ledgers"] = list(run_cell(cell, data))
            write_text(path, json.dumps(stored, allow_nan=False) + "\n")
        found.append(stored)
        if not args.quiet:
            errors = {e["split"]: e["error"] for e in stored["ledgers"]}
            print(f"{cell.name}, seed {cell.seed}: error {errors['train']:.2%} train, {errors['test']:.2%} test", flush=True)
    return found


def main(argv: list[str] | None = None) -> int:
    """Run the command: 0 done, 2 bad input with one line on standard error, 130 stopped."""
    args = parser().parse_args(argv)
    try:
        from sims.ledgers.summary import summary, summary_text
        from ufm.files.store import write_text

        found = ledger_study(args)
        if not found:
            raise ValueError(f"no cell of size {args.size} has {args.only!r} in its name")
        told = summary(found)
        write_text(Path(args.out) / "summary.json", json.dumps(told, indent=1, allow_nan=False) + "\n")
        print(summary_text(told))
    except (ValueError, OSError) as error:
        print(f"sims.ledger_study: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sims.ledger_study: stopped; the networks that are done are kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
