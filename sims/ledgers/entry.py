"""One ledger as JSON has it: what the report shows and the study stores; null for what is not finite."""

from typing import Any

import numpy as np

from ufm.files.json_objects import JsonObject
from ufm.ledger import Ledger
from ufm.ledger.force_balance import ForceBalance
from ufm.output import stored_number

ARRAYS = ("omega", "corrected", "corrected_interval", "held_out", "held_out_interval", "shortfall")


def entry(measured: Ledger, source: str, split: str, epoch: int | None, forces: ForceBalance | None = None) -> JsonObject:
    """Everything of a ledger but the influence of every example, with where it comes from."""
    interval = measured.mean_gain_interval()
    rows = measured.rows()
    for k, row in enumerate(rows):
        low, high = interval[k - 1] if k else (np.nan, np.nan)
        row["gain_interval"] = [float(low), float(high)]
    return plain(
        {
            "source": source,
            "split": split,
            "epoch": epoch,
            "examples": measured.n,
            "classes": measured.classes.tolist(),
            "seen": measured.seen,
            "note": measured.note,
            "rows": rows,
            **{name: getattr(measured, name).tolist() for name in ARRAYS},
            "forces": None if forces is None else force_rows(forces),
        }
    )


def force_rows(balance: ForceBalance) -> list[JsonObject]:
    """A dictionary a parameter, and the last one for all of them."""
    columns = ("means", "deviations", "total", "cosine", "ratio", "decay_cosine", "decay_ratio", "momentum_cosine")
    names = (*balance.names, "all")
    return [{"parameter": name, **{c: float(getattr(balance, c)[k]) for c in columns}} for k, name in enumerate(names)]


def plain(value: object) -> Any:
    """The same with null for every number that is not finite, as JSON needs it; +inf stays as the string 'inf'."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, float) and not np.isfinite(value):
        return "inf" if value == np.inf else None
    return value


def column(stored: JsonObject, name: str) -> np.ndarray:
    """A column of the rows of a stored ledger. (L + 1,)"""
    return np.array([stored_number(row[name]) for row in stored["rows"]])
