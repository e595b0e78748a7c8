"""`python -m sims.ledger_study`: the SNR ledgers of many small networks and their summary; resumes.

Every network is a file of --out, written when it is done and skipped when it is there, so that a killed run resumes.
A network is trained from several seeds: --seed and those that follow it. One that fails is reported, the others go on.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sims.command import Failure, Parser, print_json, run_command
from sims.sweeps import ENGINES, PROCESSES
from ufm.files.json_objects import JsonObject
from ufm.options import device_of
from ufm.output import say, show

if TYPE_CHECKING:
    from sims.ledgers.convs import ConvCell
    from sims.ledgers.gaussians import GaussianCell
    from sims.ledgers.nets import Cell
    from sims.ledgers.tasks import NetworkTask

GAUSSIANS = "gaussians"
SIZES = ("tiny", "small", "full", "conv", GAUSSIANS)
SEEDS = {"tiny": 3, "small": 3, "full": 5, "conv": 5, GAUSSIANS: 5}
PADDED = {"mnist": 32, "fashionmnist": 32}  # sides of images for convolutional networks, which halve them three times


def study_cells(size: str, seed: int = 0, seeds: int | None = None) -> "Iterator[Cell | ConvCell | GaussianCell]":
    """The networks of a size: perceptrons `tiny` (seconds each), `small` (all variants), `full` (longer), or another kind.

    The seeds are `seed`, `seed` + 1, ..., `seeds` of them (default: 3, or 5 from `full` on), each with every network.
    """
    if size not in SIZES:
        raise ValueError(f"size = {size!r}: it is one of {', '.join(SIZES)}")
    chosen = {"conv": _convolutional, GAUSSIANS: _gaussian}.get(size, partial(_perceptrons, size))()
    for k in range(SEEDS[size] if seeds is None else seeds):
        for cell in chosen:
            yield replace(cell, seed=seed + k)


def _perceptrons(size: str) -> "list[Cell]":
    from sims.ledgers.nets import Cell

    epochs = {"tiny": 100, "small": 150, "full": 400}[size]
    both = [Cell(loss=loss, epochs=epochs) for loss in ("mse", "ce")]
    chosen = [*both, *(replace(cell, norm="none", rate=0.02) for cell in both)]
    changes: list[dict[str, Any]] = [{"activation": "identity"}, {"random_labels": True}]
    if size != "tiny":
        changes += [
            {"decay": 0.0}, {"norm": "layer"}, {"activation": "gelu"}, {"activation": "tanh"}, {"residual": True},
            {"fixed_etf": True}, {"width": 32}, {"width": 128}, {"depth": 2}, {"depth": 6}, {"depth": 12},
            {"depth": 12, "residual": True, "rate": 0.005},  # at 0.02 it diverges under MSE
        ]  # fmt: skip
    return chosen + [replace(cell, **change) for cell in both for change in changes]


def _convolutional() -> "list[ConvCell]":
    from sims.ledgers.convs import ConvCell

    rates = {"mse": 0.1, "ce": 0.02}  # without a norm: that of the one leaves the other untrained, or kills it
    plain = [ConvCell(loss=loss) for loss in rates]
    plain += [ConvCell(loss=loss, norm="none", rate=rate) for loss, rate in rates.items()]
    changes: list[dict[str, Any]] = [{"residual": True}, {"random_labels": True}]
    return plain + [ConvCell(loss=loss, **change) for change in changes for loss in rates]


def _gaussian() -> "list[GaussianCell]":
    from sims.ledgers.gaussians import GaussianCell

    activations = ("relu", "identity")
    return [GaussianCell(m, depth, activation=a) for m in (0.5, 1.0, 2.0) for depth in (1, 2) for a in activations]


def parser() -> Parser:
    """The command line."""
    p = Parser(prog="python -m sims.ledger_study", description=__doc__, shared=("seed", "json", "quiet"))
    counts = "tiny 8, small 32, full 32 perceptrons, conv 8 convolutional networks, gaussians 12 on two Gaussian classes"
    p.add_argument("--size", choices=SIZES, default="tiny", help=f"which networks, of each seed: {counts}")
    seeds = "networks of every kind, from --seed and the seeds that follow it (default: 3; 5 for full, conv and gaussians)"
    p.add_argument("--seeds", type=int, help=seeds)
    p.add_argument("--out", default="runs/ledger-study", metavar="DIR", help="folder of one file a network and summary.json")
    p.add_argument("--dataset", default="digits", help="digits, fashionmnist, cifar10-jpeg, ...; not with --size gaussians")
    p.add_shared("data-dir", "none")
    p.add_shared("hub", "none")
    p.add_shared("per-class", "all")
    p.add_shared("test-per-class", "all")
    p.add_argument("--only", metavar="TEXT", help="only networks whose name contains it (default: all)")
    p.add_shared("device")
    p.add_argument("--engine", default=PROCESSES, help=f"what computes the networks: {ENGINES}")
    p.add_argument("--jobs", type=int, default=1, help="networks at a time")
    p.add_shared("threads", default=1)
    return p


def ledger_study(args: argparse.Namespace) -> tuple[list[JsonObject], dict[str, str]]:
    """Run what is missing, with a line of progress each; every stored network, in order, and why others are missing, by name.

    Raises ValueError for a folder of other data or another version.
    """
    from sims.ledgers.tasks import run_task
    from sims.sweeps import sweep
    from ufm.files.json_objects import errors_as_damage

    tasks = _tasks(args)
    stored = {name: task.stored() for name, task in tasks.items()}
    missing = {name: task for name, task in tasks.items() if stored[name] is None}
    outcomes = sweep(run_task, missing, args.engine, args.jobs, partial(say, quiet=args.quiet))
    failed = {name: outcome.error for name, outcome in outcomes.items() if outcome.error is not None}
    networks = []
    for name, task in tasks.items():
        if name in failed:
            continue
        network = stored[name] or task.stored()
        if network is None:
            raise ValueError(f"{task.path} is gone: do the workers write on this machine's disk?")
        networks.append(network)
        with errors_as_damage(task.path):
            errors = {e["split"]: e["error"] for e in network["ledgers"]}
            told = ", ".join(f"{error:.2%} {split}" for split, error in errors.items())
        say(f"{name}: error {told}", args.quiet)
    return networks, failed


def _tasks(args: argparse.Namespace) -> "dict[str, NetworkTask]":
    """What is to be computed or read, by name."""
    from sims.ledgers.tasks import NetworkTask
    from sims.training.data import DataChoice, load

    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: it cannot be negative")
    for option in ("seeds", "jobs", "threads"):
        if getattr(args, option) is not None and getattr(args, option) < 1:
            raise ValueError(f"--{option} {getattr(args, option)}: at least 1 is needed")
    out, choice, fingerprint = Path(args.out), None, None
    device = "cpu" if args.size == GAUSSIANS else device_of(args.device)
    if args.size != GAUSSIANS:
        pad_to = PADDED.get(args.dataset) if args.size == "conv" else None
        choice = DataChoice(args.dataset, args.data_dir, args.hub, args.per_class, args.test_per_class, pad_to)
        fingerprint = load(choice, args.quiet).fingerprint
    out.mkdir(parents=True, exist_ok=True)
    tasks = {}
    for cell in study_cells(args.size, args.seed, args.seeds):
        if args.only and args.only not in cell.name:
            continue
        file = f"{cell.name.replace(' ', '_').replace('=', '-')}_epochs-{cell.epochs}_seed-{cell.seed}.json"
        tasks[f"{cell.name}, seed {cell.seed}"] = NetworkTask(cell, choice, fingerprint, out / file, device, args.threads)
    return tasks


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit codes as in `sims.command`."""
    return run_command(parser(), run_study, argv, "the networks that are done are kept")


def run_study(args: argparse.Namespace) -> None:
    """Run what is missing, write the summary of all, and print it. Raises Failure where networks failed, after all that."""
    from sims.ledgers.gaussians import gaussian_summary, gaussian_text
    from sims.ledgers.summary import summary, summary_text
    from ufm.files.json_objects import errors_as_damage
    from ufm.files.store import write_text

    networks, failed = ledger_study(args)
    if not networks and not failed:
        names = ", ".join(dict.fromkeys(cell.name for cell in study_cells(args.size)))
        raise ValueError(f"no network of size {args.size} has {args.only!r} in its name: {names}")
    if networks:
        with errors_as_damage(Path(args.out)):
            answers = gaussian_summary(networks) if args.size == GAUSSIANS else summary(networks)
        write_text(Path(args.out) / "summary.json", json.dumps(answers, indent=1, allow_nan=False) + "\n")
        if args.json:
            print_json(answers)
        elif not args.quiet:
            show(gaussian_text(answers) if args.size == GAUSSIANS else summary_text(answers))
    if failed:
        name, reason = next(iter(failed.items()))
        raise Failure(f"{len(failed)} of {len(failed) + len(networks)} networks failed; {name}: {reason}")


if __name__ == "__main__":
    sys.exit(main())
