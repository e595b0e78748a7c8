"""What `sims.compare` reads: folders of `sims.train` or of features-EPOCH.npz, .npz of `ufm.flow` and `sims.measure`."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from sims.comparison.entries import entry_of_features, entry_of_simulation, entry_of_statistics
from ufm.compare.coordinates import Entry
from ufm.compare.spectra import nc4_along
from ufm.files.json_objects import JsonObject
from ufm.files.store import load_arrays, load_features
from ufm.laws.trajectory import LOSS_PARTS, Trajectory
from ufm.monitor.epoch_statistics import statistics_files
from ufm.monitor.logged import load_log
from ufm.monitor.record import RUN, Record

STAND_IN = 1e-12  # of the loss: an L_perp below it at every epoch is that of a least-squares stand-in for the classifier
UNKNOWN_LAMBDA = "lambda is not known: L_perp is undefined, joint not judged, and the other models are those of lambda = 0"
WITHOUT_LAMBDA = (
    "stores a classifier and no lambda, without which L_perp is measured against the wrong loss: give lambda, C wd / 2 for "
    "MSELoss with weight decay wd, 0 without decay; of cross-entropy or AdamW there is none: choose from_epoch"
)
FOLLOWED = ("epoch", "omega", "V", "U", "counts")  # arrays that a trajectory is followed from
MEASURED_LOSSES = ("loss", "loss_perp")  # that tell whether a classifier was measured
LOST = 0.01  # share of the class means' squared length outside the range of Sigma_W worth a note


@dataclass(frozen=True, eq=False)
class Observed:
    """One run: its trajectory, its `group` (the same configuration up to the seed), its learning rates (T,) where known.

    kind is "trained", "simulated" or "features"; `config` is what was stored with it.
    """

    name: str
    path: Path
    kind: str
    group: str
    trajectory: Trajectory
    config: JsonObject
    rates: np.ndarray | None = None
    notes: tuple[str, ...] = field(default=())
    files: dict[Path, float] = field(default_factory=dict)
    lam: float = 0.0

    def entry(self, epoch: float) -> Entry | None:
        """The class statistics of an epoch where they were stored: they or its features, or the start of a simulation.

        Raises ValueError where nothing of them is left, or where lambda of the loss, which they need, is not known.
        """
        if self.kind == "simulated":
            return entry_of_simulation(self.trajectory, self.config, self.path) if epoch == self.trajectory.t[0] else None
        path = next((file for file, known in self.files.items() if known == epoch), None)
        if path is None:
            return None
        if path.name.startswith("statistics-"):
            return entry_of_statistics(path, self.lam)
        # 1/2 Ave ||W h + b - y||^2 is C / 2 times torch's loss, and so are its decays
        decay = float(self.config.get("feature_decay", 0.0)) * self.trajectory.C / 2
        return entry_of_features(path, self.lam, self.lam if self.kind == "trained" else 0.0, decay)

    def nc4(self, entry: float, omega: dict[str, np.ndarray], V: np.ndarray) -> dict[str, np.ndarray]:
        """NC4 along simulated omega (T, K) by name, from the features stored at the entry; empty where there are none."""
        path = self.path / f"features-{int(entry):04d}.npz"
        if not path.exists():
            return {}
        deviations, labels, U = _whitened_file(path)
        if U.shape[1] != V.shape[1]:
            return {}
        turn = _aligned(U, V)
        return {name: nc4_along(turn @ deviations, labels, values, V) for name, values in omega.items()}


def load_observed(path: Path, lam: float | None = None, central_path: bool = True) -> Observed:
    """The run of a folder or file. lam: lambda of the loss, for runs that do not say it (one that says another is kept).

    Raises ValueError for anything else, and for a classifier without lambda where L_perp is to tell the central path.
    """
    if path.is_dir():
        if (path / "config.json").exists():
            return _saying_lambda(_trained(path), lam)
        if (path / RUN).exists():
            return _saying_lambda(_logged(path, lam, central_path), lam)
        if next(path.glob("features-*.npz"), None) is not None:
            return _observed_features(path, lam, central_path)
        raise ValueError(f"{path} is no run: it has neither config.json, nor {RUN} of a log, nor files features-EPOCH.npz")
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if path.suffix == ".csv":
        raise ValueError(f"{path} is a table, without the singular vectors that are compared: give the folder of RunLog")
    arrays = load_arrays(path)
    if {"t", "omega", "config"} <= arrays.keys():
        return _simulated(path)
    if set(FOLLOWED) <= arrays.keys():
        return _of_record(path.stem, path, "features", str(path.resolve()), Record.load(path, (*FOLLOWED, *MEASURED_LOSSES)), {})
    raise ValueError(f"{path} is no run: its arrays are {', '.join(sorted(arrays)) or 'none'}")


def _trained(path: Path) -> Observed:
    from sims.training.folder import load_run

    config, record = load_run(path)
    stored = asdict(config)
    group = _group_id(stored, ("seed", "save_features", "velocity", "data_dir"))
    observed = _of_record(path.resolve().name, path, "trained", group, record, stored, classifier=True)
    rates = np.array([config.rate_at(max(int(epoch), 1)) for epoch in observed.trajectory.t])
    saved = {path / f"features-{epoch:04d}.npz": float(epoch) for epoch in config.save_features}
    files = statistics_files(path) | {file: epoch for file, epoch in saved.items() if file.exists()}
    return replace(observed, rates=rates, files=files, lam=float(record.arrays.get("lambda", 0.0)))


def _logged(path: Path, given: float | None, central_path: bool) -> Observed:
    facts, record = load_log(path, given)
    lam = float(record.arrays.get("lambda", np.nan))
    classified = bool(np.isfinite(record.arrays.get("nc3", np.array(np.nan))).any())
    if np.isnan(lam):
        lam = _known_lambda(lam, given, path, central_path) if classified else given or 0.0
    notes = (UNKNOWN_LAMBDA,) if np.isnan(lam) else ()
    observed = _of_record(path.resolve().name, path, "trained", _group_id(facts, ("seed",)), record, facts, classified, notes)
    rates = observed.trajectory.observed.get("learning_rate")
    return replace(observed, rates=rates, files=statistics_files(path), lam=lam)


def _saying_lambda(observed: Observed, given: float | None) -> Observed:
    """The run with a note where another lambda is given than the one that it was measured at."""
    if given is None or given == observed.lam:
        return observed
    note = (
        f"it was measured at lambda = {observed.lam:g}, which is kept; the lambda = {given:g} given does not apply to it: "
        "leave it out, or measure the run again"
    )
    return replace(observed, notes=(*observed.notes, note))


def _known_lambda(stored: float, given: float | None, path: Path, central_path: bool) -> float:
    """lambda as stored, else as given, else NaN. Raises ValueError for NaN where the central path is looked for."""
    lam = given if np.isnan(stored) else stored
    if lam is None and central_path:
        raise ValueError(f"{path} {WITHOUT_LAMBDA}")
    return np.nan if lam is None else lam


def _observed_features(path: Path, given: float | None, central_path: bool) -> Observed:
    from sims.measure import lambda_of_file, measure_file
    from ufm.files.features import load_feature_file

    record, whole, sizes, notes = Record.empty(), True, (0, 0), JsonObject()
    files: dict[Path, float] = {}
    lam = 0.0 if given is None else given
    for position, file in enumerate(sorted(path.glob("features-*.npz"))):
        stored = load_feature_file(file)
        if given is None and "W" in stored:
            lam = _known_lambda(lambda_of_file(stored, file), given, file, central_path)
        epoch, measurement = measure_file(file, lam)
        before, sizes = sizes, (len(measurement.snr.U), len(measurement.snr.V))
        if position and sizes != before:
            raise ValueError(f"{file} has P, C = {sizes[0]}, {sizes[1]}, the files before it {before[0]}, {before[1]}")
        whole = whole and "W" in stored
        if "W" in stored and np.isnan(lam):
            notes["lambda"] = UNKNOWN_LAMBDA
        elif "W" in stored:
            notes["lambda"] = f"L_perp is that of lambda = {lam:g} (C wd / 2 for MSELoss and weight decay wd)"
        if "W" in stored and "lambda" in stored and (own := lambda_of_file(stored, file)) != lam and not np.isnan(lam):
            other = f"{file.name} stores lambda = {own:g}, and L_perp is that of the lambda = {lam:g} given"
            notes["stored lambda"] = f"{other}: leave it out for the file's own"
        if "W" in stored and "b" not in stored:
            notes["b"] = "files have W and no b: taken for a layer without bias"
        if epoch is None:
            notes["epoch"] = "files have no array `epoch`: counted 0, 1, ... in the order of their names"
        files[file] = float(position if epoch is None else epoch)
        record = record.with_epoch(position if epoch is None else epoch, measurement, lam)
    config = {"lambda": lam}
    observed = _of_record(
        path.resolve().name, path, "features", str(path.resolve()), record, config, classifier=whole, notes=tuple(notes.values())
    )
    return replace(observed, files=files, lam=lam)


def _simulated(path: Path) -> Observed:
    from ufm.flow.result import load_flow

    flow, _ = load_flow(path)
    config = json.loads(str(load_arrays(path, ("config",))["config"]))
    named = {key: value for key, value in config.items() if key not in ("notes", "warnings", "provenance")}
    return Observed(path.stem, path, "simulated", _group_id(named, ("seed",)), flow, named)


def _of_record(
    name: str,
    path: Path,
    kind: str,
    group: str,
    record: Record,
    config: JsonObject,
    classifier: bool | None = None,
    notes: tuple[str, ...] = (),
) -> Observed:
    """The run of a record; classifier: whether one was measured, None where that can only be told from L_perp."""
    order = np.argsort(record.epochs, kind="stable")
    if len(np.unique(record.epochs)) < len(order):
        raise ValueError(f"{path} measures an epoch twice: every file needs its own `epoch`")
    length = len(order)
    record = Record({k: v[order] if v.ndim and len(v) == length and k != "counts" else v for k, v in record.arrays.items()})
    try:
        trajectory = record.trajectory()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    observed = dict(trajectory.observed)
    if classifier is None:
        classifier = bool((abs(observed["loss_perp"]) > STAND_IN * observed["loss"]).any())
    if not classifier:
        observed = {name: values for name, values in observed.items() if name not in ("loss_perp", "train_error", "nc3", "nc4")}
    if np.isnan(record.arrays.get("lambda", np.array(0.0))):
        observed = {name: values for name, values in observed.items() if name not in LOSS_PARTS}
    if len(trajectory.t) < length:
        notes += (f"{length - len(trajectory.t)} of {length} epochs left out: Sigma_W lost rank or is undefined there",)
    lost = observed.get("lost_signal", np.zeros(1)).max()
    if lost > LOST:
        outside = "lies outside the range of Sigma_W, with infinite SNR that omega leaves out"
        notes += (f"up to {lost:.1%} of the class means {outside}",)
    return Observed(name, path, kind, group, replace(trajectory, observed=observed), config, notes=notes)


def _group_id(config: JsonObject, ignored: tuple[str, ...]) -> str:
    return json.dumps({key: value for key, value in config.items() if key not in ignored}, sort_keys=True)


def _whitened_file(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U^T D (K, n) of the whitened deviations, labels (n,) and V (C, K) of a file of features, on the range of Sigma_W."""
    from ufm.features.labels import class_blocks
    from ufm.features.ranges import reduce_to_range
    from ufm.features.snr import renormalized_features

    H, layout = class_blocks(*load_features(path))
    X, snr = renormalized_features(reduce_to_range(H, layout)[0], layout)
    return snr.left_vectors.T @ layout.deviations(X), layout.labels, snr.V


def _aligned(own: np.ndarray, V: np.ndarray) -> np.ndarray:
    """The signed permutation that takes the singular vectors of the file to those of the trajectory. (K, K)"""
    from scipy.optimize import linear_sum_assignment

    overlap = V.T @ own
    rows, columns = linear_sum_assignment(-abs(overlap))
    turn = np.zeros_like(overlap)
    turn[rows, columns] = np.where(overlap[rows, columns] < 0, -1.0, 1.0)
    return turn
