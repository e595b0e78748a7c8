"""The ledger that a log of `ufm.monitor` holds: its layers in order, the classifier's features, and the logits W h + b.

A log has no examples, so that omega is in sample. Of inner layers it has the geometric mean alone; of the features every omega_j,
and where class statistics and the classifier were kept (`ufm.monitor.epoch_statistics`) those of the logits follow from them:
class means W mu_c and within-class covariance W Sigma_W W^T.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from sims.ledgers.entry import ARRAYS, plain
from sims.training.log_figures import CLASSIFIER_INPUT, by_numbers, load_logged
from ufm.features.statistics import ClassStatistics
from ufm.files.json_objects import JsonObject
from ufm.ledger.discrimination import Discrimination, discrimination
from ufm.monitor.epoch_statistics import load_statistics, statistics_file
from ufm.monitor.record import RUN

GEOMETRIC_MEAN = "omega_geometric_mean"
LOGITS = "logits"
NOTE = (
    "From a log of the monitor: in sample; operations between two of its layers are counted together, and a layer that was "
    "measured by random projections has a lower bound of omega."
)
SAME = 1e-9  # difference of two numbers that are one: log omega of a layer, and that of the next less its gain


def is_log(path: Path) -> bool:
    """Whether this is a log of the monitor: a folder of `RunLog`, or a table of `CsvLog`."""
    return path.suffix == ".csv" or (path / RUN).is_file()


def of_log(path: Path, epochs: Sequence[int] = ()) -> Iterator[JsonObject]:
    """The ledger of every chosen epoch of a log, of the last one by default.

    Raises ValueError for an epoch that was not logged, and for a log with fewer than two states.
    """
    columns = load_logged(path).columns
    if GEOMETRIC_MEAN not in columns:
        raise ValueError(f"{path} has no column {GEOMETRIC_MEAN}: it is no log of the monitor, or one of a version before layers")
    logged = columns["epoch"].astype(int).tolist()
    for epoch in epochs or logged[-1:]:
        if epoch not in logged:
            raise ValueError(f"epoch {epoch} is not in {path}, which has {', '.join(map(str, logged))}")
    order = layers_in_order(columns)
    for epoch in epochs or logged[-1:]:
        yield _entry(path, columns, order, epoch)


def layers_in_order(columns: dict[str, np.ndarray]) -> list[str]:
    """The inner layers of a log in the order in which they were watched, which its arrays, sorted by name, have lost.

    From the classifier's features back: log omega of the layer before is that of the layer less its gain. By the numbers in the
    names where gains are undefined.
    """
    inner = sorted((name.rpartition("/")[0] for name in columns if name.endswith(f"/{GEOMETRIC_MEAN}")), key=by_numbers)
    with np.errstate(divide="ignore"):
        logs = {name: np.log(columns[f"{name}/{GEOMETRIC_MEAN}"]) for name in inner}
        now, gain, order = np.log(columns[GEOMETRIC_MEAN]), columns.get("gain"), list[str]()
    while len(order) < len(inner) and gain is not None:
        before = now - gain
        known = np.isfinite(before)
        fits = [k for k in inner if k not in order and known.any() and (abs(logs[k] - before)[known] <= SAME).all()]
        if not fits:
            break
        order.insert(0, fits[-1])
        now, gain = logs[fits[-1]], columns.get(f"{fits[-1]}/gain")
    return order if len(order) == len(inner) else inner


def _entry(path: Path, columns: dict[str, np.ndarray], order: list[str], epoch: int) -> JsonObject:
    at = {name: value[columns["epoch"] == epoch][0] for name, value in columns.items() if name not in ("counts", "lambda")}
    rows = [_logged_state(at, f"{name}/", name) for name in order] + [_logged_state(at, "", CLASSIFIER_INPUT)]
    forms = _features_and_logits(statistics_file(path, epoch))
    if forms:
        rows[-1] |= _of_form(forms[0])
        rows += [_state_row(LOGITS, "Linear", True) | _of_form(form) for form in forms[1:]]
    if len(rows) < 2:
        raise ValueError(f"{path} has one state at epoch {epoch}: watch inner layers, or log to a folder, which keeps W")
    for before, now in pairwise(rows):
        now["omega_gain"] = _logarithm(now["omega"]) - _logarithm(before["omega"])
    own = [form.omega for form in forms] or [at["omega"]] if "omega" in at or forms else []
    unknown = np.full(len(own[0]) if own else 1, np.nan)
    omega = np.stack([*[unknown] * (len(rows) - len(own)), *own])
    return _as_stored(path, epoch, rows, omega, columns.get("counts"), at)


def _logged_state(at: JsonObject, prefix: str, name: str) -> JsonObject:
    level = float(at[f"{prefix}{GEOMETRIC_MEAN}"])
    reason = "" if math.isfinite(level) else f"omega of {name} is undefined at this epoch"
    return _state_row(name, "", None) | {"omega": level, "dropped": at.get(f"{prefix}dropped"), "reason": reason}


def _state_row(operation: str, kind: str, affine: bool | None) -> JsonObject:
    unknown = dict.fromkeys(("corrected", "held_out", "omega_gain", "corrected_gain", "held_out_gain"), math.nan)
    counts = {"features": None, "rank": None, "unresolved": 0, "set_aside": 0, "reduced": False}
    return (
        {"operation": operation, "kind": kind, "affine": affine, "reason": "", "gain_interval": [math.nan] * 2} | unknown | counts
    )


def _of_form(form: Discrimination) -> JsonObject:
    with np.errstate(divide="ignore"):
        level = float(np.exp(np.log(form.omega).mean()))
    sizes = {"features": len(form.whitener), "rank": form.rank, "dropped": form.dropped, "unresolved": form.unresolved}
    return sizes | {"omega": level, "reason": ""}


def _features_and_logits(kept: Path) -> list[Discrimination]:
    """What the features tell of their classes, and the logits where the classifier was kept; empty without statistics."""
    arrays = load_statistics(kept) if kept.exists() else {}
    if not arrays:
        return []
    counts, means, sigma_w, precision = (arrays[name] for name in ("counts", "class_means", "sigma_w", "precision"))
    own = ClassStatistics(counts, means, sigma_w, np.zeros(counts.size))  # variances of single classes are not asked for
    features = discrimination(own, float(precision))
    if "W" not in arrays:
        return [features]
    W = arrays["W"]
    logits = ClassStatistics(counts, W @ means, W @ sigma_w @ W.T, np.zeros(counts.size))
    return [features, discrimination(logits, float(precision), features.largest, features.unbounded)]


def _logarithm(value: float) -> float:
    return math.log(value) if value > 0 else math.nan


def _as_stored(
    path: Path, epoch: int, rows: list[JsonObject], omega: np.ndarray, counts: np.ndarray | None, at: JsonObject
) -> JsonObject:
    """As `sims.ledgers.entry.entry` has it; what needs the examples is unknown."""
    shapes = {name: (*omega.shape, 2) if name.endswith("interval") else omega.shape for name in ARRAYS}
    arrays = {name: np.full(shape, math.nan) for name, shape in (shapes | {"shortfall": omega.shape[:1]}).items()}
    return plain(
        {
            "source": str(path),
            "split": "log",
            "epoch": epoch,
            "examples": int(at["examples"]) if counts is None else int(counts.sum()),
            "classes": list(range(int(at.get("classes_seen", 0)) if counts is None else counts.size)),
            "seen": "the monitor",
            "note": NOTE,
            "rows": rows,
            **{name: value.tolist() for name, value in (arrays | {"omega": omega}).items()},
            "forces": None,
        }
    )
