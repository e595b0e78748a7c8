"""`python -m sims.measure`: every measure of collapse of features in .npz files.

A file holds `features` (n, P) and `labels` (n,), and the classifier `W` (C, P), `b` (C,) and `epoch` where they are known.
For a network in memory call `measure_network`, for features in memory `measure_features`.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from sims.command import Parser, run_command, say
from ufm.features.least_squares import ls_classifier
from ufm.features.statistics import statistics_of
from ufm.files.store import check_writable, load_arrays, load_features
from ufm.monitor.measurement import Measurement, measure_features
from ufm.monitor.network import measure_network
from ufm.monitor.record import Record, table

__all__ = ["Measurement", "Record", "main", "measure_features", "measure_file", "measure_network", "parser"]
FLOATS = (np.float16, np.float32, np.float64)  # what torch takes from numpy, in the byte order of the machine
SHOWN = ("train_error", "nc1", "nc2_equinorm", "nc2_equiangular", "nc2_maxangle", "nc3", "nc4", "loss", "loss_perp", "dropped")


def measure_file(path: Path, lam: float) -> tuple[int | None, Measurement]:
    """Epoch (None if unknown) and measures of a file; without W, the least-squares classifier at lambda stands in: L_perp = 0."""
    features, labels = load_features(path)
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{path}: labels are {labels.dtype}, integers are needed")
    if features.dtype not in FLOATS or features.ndim != 2 or not features.shape[1] or labels.shape != features.shape[:1]:
        raise ValueError(f"{path}: features are {features.dtype} {features.shape} with labels {labels.shape}")
    if not len(labels):
        raise ValueError(f"{path} has no examples")
    arrays = load_arrays(path)
    epoch = _epoch(arrays["epoch"], path) if "epoch" in arrays else None
    if "W" in arrays:
        W = arrays["W"]
        b = arrays.get("b", np.zeros(W.shape[:1]))
        _check_weights(W, b, path)
    else:
        if labels.max() >= len(labels):  # some class is empty then, and the classes need not fit into memory
            raise ValueError(f"{path}: labels run up to {labels.max()} with {len(labels)} examples: a class has no example")
        try:
            W, b = ls_classifier(statistics_of(features, labels, int(labels.max()) + 1), lam)
        except ValueError as error:
            raise ValueError(f"{path} has no classifier W, and: {error}") from error
    return epoch, measure_features(features, labels, W, b, lam)


def _epoch(found: np.ndarray, path: Path) -> int:
    if found.ndim or not np.issubdtype(found.dtype, np.integer):
        raise ValueError(f"{path}: epoch is {found.dtype} {found.shape}, one integer is needed")
    return int(found)


def _check_weights(W: np.ndarray, b: np.ndarray, path: Path) -> None:
    for name, weights, axes in (("W", W, 2), ("b", b, 1)):
        if weights.dtype not in FLOATS or weights.ndim != axes:
            raise ValueError(f"{path}: {name} is {weights.dtype} {weights.shape}; W (C, P) and b (C,) of floats are needed")
        if not np.isfinite(weights).all():
            raise ValueError(f"{path}: {name} has NaN or infinite entries")


def parser() -> Parser:
    """The command line."""
    p = Parser(prog="python -m sims.measure", description="Measure collapse of features.", shared=("json", "quiet"))
    p.add_argument("files", nargs="+", metavar="FILE.npz", help="features (n, P), labels (n,); W (C, P), b (C,), epoch")
    p.add_argument("--lambda", dest="lam", type=float, default=0.0, help="weight decay of the loss (Eq. 2); C wd / 2 for MSELoss")
    p.add_argument("--out", metavar="FILE.npz", help="write all quantities, one entry a file, as a trajectory")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit codes as in `sims.command`."""
    return run_command(parser(), measure, argv, "the files measured so far are in --out")


def measure(args: argparse.Namespace) -> None:
    """Measure every file, print and write what was asked for."""
    record = Record.empty()
    if not 0 <= args.lam < float("inf"):
        raise ValueError(f"--lambda {args.lam}: it must be finite and not negative")
    if args.out is not None:
        check_writable(Path(args.out))
    for k, name in enumerate(args.files):
        known, found = measure_file(Path(name), args.lam)
        epoch = k if known is None else known
        record = record.with_epoch(epoch, found, args.lam)
        if args.out is not None:
            record.save(Path(args.out))
        for reason in found.undefined:
            say(f"{name}: undefined: {reason}")
        if args.json:
            # JSON has no NaN: what is undefined is null
            scalars = {key: None if np.isnan(value) else value for key, value in found.scalars.items()}
            omega = [None if np.isnan(value) else float(value) for value in found.snr.omega]
            print(json.dumps({"file": name, "epoch": epoch, **scalars, "omega": omega, "dropped": found.snr.dropped}))
    if not args.json and not args.quiet:
        print(table(record, SHOWN))


if __name__ == "__main__":
    sys.exit(main())
