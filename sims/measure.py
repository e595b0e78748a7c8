"""`python -m sims.measure`: every measure of collapse of features in files, or what a run has measured.

A file (.npz, .safetensors, or a .npy, read some rows at a time, with labels.npy beside it) holds `features` (n, P) and `labels`
(n,), and the classifier `W` (C, P), `b` (C,), `epoch`, `lambda` and more where they are known (`ufm.files.features`). A run is a
folder.
For a network in memory call `measure_network`, for features in memory `measure_features`.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from sims.command import Parser, json_line, print_json, run_command
from sims.page import check_jinja2
from ufm.arrays import NUMBERED
from ufm.features.least_squares import ls_classifier
from ufm.features.snr import informative_error
from ufm.features.statistics import CHUNK, ClassStatistics, StreamingStatistics
from ufm.files.features import FLOATS, classifier_of, epoch_of, files_of, load_feature_file, scalar
from ufm.files.json_objects import JsonObject
from ufm.files.store import check_writable, write_text
from ufm.monitor.measurement import NO_LAMBDA, Measurement, measure_features
from ufm.monitor.network import measure_network
from ufm.monitor.record import Record, table
from ufm.output import output_errors_last, printable, say, show

T = TypeVar("T")
__all__ = ["Measurement", "Record", "main", "measure_features", "measure_file", "measure_network", "parser"]
SHOWN = (
    *("train_error", "nc1", "nc2_equinorm", "nc2_equiangular", "nc2_maxangle", "nc3", "nc4", "loss", "loss_perp", "dropped"),
    *("nc0", "ncc_accuracy", "effective_rank", "omega_geometric_mean"),
)
STAND_IN_NOTE = "least squares at lambda = {:g}, since the file has no W; measures that need a classifier use this one"


def measure_file(path: Path, lam: float | None = None) -> tuple[int | None, Measurement]:
    """Epoch (None if unknown) and measures of a file; without W, the least-squares classifier at lambda stands in: L_perp = 0.

    Without lam, lambda is that of the file. Where that has none the parts of the loss are NaN, and the stand-in is that at 0.
    """
    arrays = load_feature_file(path)
    return _measured_arrays(path, arrays, lambda_of_file(arrays, path) if lam is None else lam)


def _measured_arrays(path: Path, arrays: dict[str, np.ndarray], lam: float) -> tuple[int | None, Measurement]:
    """Epoch and measures of the arrays of a file."""
    features, labels = arrays["features"], arrays["labels"]
    at = 0.0 if np.isnan(lam) else lam
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{path}: labels are {labels.dtype}, integers are needed; {NUMBERED}")
    if features.dtype not in FLOATS or features.ndim != 2 or not features.shape[1] or labels.shape != features.shape[:1]:
        given = f"features are {features.dtype} {features.shape} with labels {labels.shape}"
        raise ValueError(f"{path}: {given}; floats (n, P), an example a row, and labels (n,) are needed")
    if not len(labels):
        raise ValueError(f"{path} has no examples")
    epoch, classifier = epoch_of(arrays, path), classifier_of(arrays, path)
    if classifier is not None:
        W, b = classifier
    else:
        if labels.max() >= len(labels):  # some class is empty then, and the classes need not fit into memory
            raise ValueError(f"{path}: labels run up to {labels.max()} with {len(labels)} examples: a class has no example")
        _check_every_class(labels, path)
        statistics = _named_errors(path, lambda: _streamed_statistics(features, labels))
        stand_in = Path(f"{path}, at the least-squares classifier that stands in for W")
        W, b = _named_errors(stand_in, lambda: ls_classifier(statistics, at))
    measurement = _named_errors(path, lambda: measure_features(features, labels, W, b, lam))
    error = scalar(arrays, "train_error", path)
    return epoch, measurement if "W" in arrays or error is None else measurement.with_scalars({"train_error": error})


def _check_every_class(labels: np.ndarray, path: Path) -> None:
    """Raise ValueError unless the labels are 0..C-1, C the largest and 1, every one with an example."""
    known = np.unique(labels)
    if known[0] != 0 or len(known) != known[-1] + 1:
        missing = next((c for c, label in enumerate(known.tolist()) if label != c), 0)
        none = f"of class {missing} there is no example" if known[0] >= 0 else "none can be negative"
        raise ValueError(
            f"{path}: labels run from {known[0]} to {known[-1]}, and {none}: 0..C-1 are needed, with an example of every class"
        )


def _named_errors(path: Path, call: Callable[[], T]) -> T:
    """What a call returns; its ValueError names the file, unless it does already."""
    try:
        return call()
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error


def _streamed_statistics(features: np.ndarray, labels: np.ndarray) -> ClassStatistics[np.ndarray]:
    """The class statistics, of some rows at a time: those of a .npy need not fit into memory."""
    streaming = StreamingStatistics(int(labels.max()) + 1)
    for start in range(0, len(features), CHUNK):
        streaming.update(features[start : start + CHUNK], labels[start : start + CHUNK])
    return streaming.compute()


def lambda_of_file(arrays: dict[str, np.ndarray], path: Path) -> float:
    """The key `lambda` of a file, NaN without. Raises ValueError where it is no finite number that is not negative."""
    lam = scalar(arrays, "lambda", path)
    if lam is not None and lam < 0:
        raise ValueError(f"{path}: lambda = {lam}: the weight decay cannot be negative")
    return float("nan") if lam is None else lam


def parser() -> Parser:
    """The command line."""
    description = "Measure the neural collapse of features in a file, or of a run."
    p = Parser(prog="python -m sims.measure", description=description, shared=("json", "quiet"))
    p.add_argument(
        "files", nargs="+", metavar="FILE", help=".npz of features, labels and, if known, W, b, epoch, lambda; or one RUN"
    )
    p.add_shared("lambda", "the file's or the run's; the loss is undefined where it has none, and a stand-in for W is that at 0")
    p.add_argument("--out", metavar="FILE.npz", help="write all quantities, with one entry for each FILE (default: none)")
    p.add_argument("--report", metavar="FILE.html", help="write a self-contained page on the network (default: none)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit codes as in `sims.command`."""
    return run_command(parser(), measure, argv, "the files measured so far are in --out", only_with_out=True)


def _check_arguments(args: argparse.Namespace) -> None:
    """Raise ValueError for what cannot be measured or written so, before anything is read."""
    if args.lam is not None and not 0 <= args.lam < float("inf"):
        raise ValueError(f"--lambda {args.lam}: it must be finite and not negative")
    for name in filter(None, (args.out, args.report)):
        check_writable(Path(name), *_read_for(args.files))
    if args.out is not None and args.report is not None and os.path.realpath(args.out) == os.path.realpath(args.report):
        raise ValueError(f"--out {args.out}, --report {args.report}: both would be one file, choose another name")
    if args.report is not None:
        check_jinja2()


def measure(args: argparse.Namespace) -> None:
    """Measure every file, print and write what was asked for."""
    record, measurement, notes = Record.empty(), None, dict[str, str]()
    _check_arguments(args)
    if len(args.files) == 1 and Path(args.files[0]).is_dir():
        show_run(Path(args.files[0]), args)
        return
    with output_errors_last(written=args.out is not None or args.report is not None) as tell:
        for k, name in enumerate(args.files):
            arrays = load_feature_file(Path(name))
            lam = lambda_of_file(arrays, Path(name)) if args.lam is None else args.lam
            known, measurement = _measured_arrays(Path(name), arrays, lam)
            epoch = k if known is None else known
            record = record.with_epoch(epoch, measurement, lam)
            if args.out is not None:
                record.save(Path(args.out), complete=k + 1 == len(args.files))
            _warn(name, measurement)
            if args.json:
                snr = {key: getattr(measurement.snr, key) for key in ("omega", "dropped", "rounding")}
                of = {"file": name, "epoch": epoch, "lambda": lam, "classifier": "file" if "W" in arrays else "least squares"}
                tell(json_line({**of, **measurement.scalars, **snr}))
            notes |= {f"{printable(name)}: {what}": why for what, why in _not_of_the_network(arrays, lam).items()}
        if args.report is not None:
            write_network_report(Path(args.report), ", ".join(args.files), record.arrays, notes, measurement)
    if not args.json and not args.quiet:
        show(table(record, SHOWN))
        for what, why in notes.items():
            show(f"{what}: {why}")
        _print_written(args)


def _not_of_the_network(arrays: dict[str, np.ndarray], lam: float) -> dict[str, str]:
    """What a file does not have of its network, W or the lambda of the loss, and what is measured in its place."""
    stand_in = {} if "W" in arrays else {"W": STAND_IN_NOTE.format(0.0 if np.isnan(lam) else lam)}
    return stand_in | ({"loss": _as_option(NO_LAMBDA)} if np.isnan(lam) else {})


def _as_option(reason: str) -> str:
    return reason.replace("give lam=", "give --lambda")


def _print_written(args: argparse.Namespace) -> None:
    for name in filter(None, (args.out, args.report)):
        show(f"wrote {printable(name)}")


def _read_for(names: list[str]) -> list[Path]:
    """The files that are read for files of features or folders of runs."""
    from sims.training.folder import FILES_OF_A_RUN

    files = [file for name in names for file in files_of(name)]
    return files + [file for folder in files if folder.is_dir() for kind in FILES_OF_A_RUN for file in folder.glob(kind)]


def _warn(file: str, measurement: Measurement) -> None:
    """Say what is undefined, and where digits are lost."""
    name = printable(file)
    for reason in measurement.undefined:
        if reason.endswith(NO_LAMBDA):
            continue  # which the user knows, and the table says
        say(f"{name}: undefined: {reason}")
    if measurement.snr.rounding > informative_error(measurement.precision):
        error = f"omega, and the loss at lambda = 0, are known to a relative {measurement.snr.rounding:.1e} only"
        reason = "the smallest within-class deviation is small beside the largest or the features"
        say(f"{name}: warning: {error}, {reason}; ufm.flow computes from the deviations and loses less")


def show_run(path: Path, args: argparse.Namespace) -> None:
    """The table of what a run has measured, and its page."""
    from sims.training.log_figures import load_logged
    from sims.training.network_report import known_facts, lambda_notes

    run = load_logged(path, args.lam)
    notes = {what: _as_option(why) for what, why in lambda_notes(run, args.lam).items()}
    if args.report is not None:
        write_network_report(Path(args.report), run.name, run.columns, known_facts(run) | notes)
    if args.out is not None:
        Record(run.columns).save(Path(args.out))
    if args.json:
        for k, epoch in enumerate(run.columns["epoch"]):
            print_json({"run": run.name, "epoch": int(epoch), **_epoch_row(run.columns, k)})
    elif not args.quiet:
        show(table(Record(run.columns), SHOWN))
        for what, why in notes.items():
            show(f"{what}: {why}")
        _print_written(args)


def _epoch_row(columns: dict[str, np.ndarray], k: int) -> JsonObject:
    """The scalars and omega of the k-th measured epoch."""
    length = len(columns["epoch"])
    names = (name for name in sorted(columns) if columns[name].shape == (length,) and name not in ("epoch", "counts"))
    return {name: columns[name][k] for name in (*names, *(["omega"] if "omega" in columns else []))}


def write_network_report(
    path: Path, title: str, columns: dict[str, np.ndarray], facts: JsonObject, last: Measurement | None = None
) -> None:
    """Write the page on a network, atomically."""
    from sims.training.log_figures import LoggedRun
    from sims.training.network_report import page

    write_text(path, page(title, LoggedRun(title, columns, facts), last))


if __name__ == "__main__":
    sys.exit(main())
