"""Tables of measures in CSV: one row an epoch, a column `epoch` and one a measure, empty where it was not measured."""

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ufm.files.json_objects import read_limited_text


def _csv_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table. Raises ValueError where it is none."""
    try:
        return list(csv.DictReader(io.StringIO(read_limited_text(path, "utf-8-sig"))))
    except csv.Error as error:
        raise ValueError(f"cannot read {path}: it is no table: {error}") from error


def logged_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a log, blank ones left out. Raises ValueError where they are not those of one."""
    rows = []
    for number, row in enumerate(_csv_rows(path), 2):
        if None in row:
            raise ValueError(f"{path}: line {number} has more cells than there are columns: choose another file")
        if not any(row.values()):
            continue
        if "epoch" not in row:
            raise ValueError(f"{path} is no table with a column 'epoch': choose another file")
        epoch = row["epoch"] or ""
        try:
            counted = float(epoch)
        except ValueError:
            counted = math.nan
        if counted < 0 or counted != counted // 1:
            raise ValueError(f"{path}: line {number} has the epoch {epoch!r}, no whole number: choose another file")
        rows.append({name: value or "" for name, value in row.items()} | {"epoch": str(int(counted))})
    return rows


def cells_of(values: Mapping[str, float]) -> dict[str, str]:
    """Values as cells of a table. Raises ValueError for one that is no number."""
    cells = {}
    for name, value in values.items():
        try:
            cells[name] = repr(float(value))
        except (TypeError, ValueError) as error:
            raise ValueError(f"values[{name!r}] = {value!r:.60} is no number, and a log keeps numbers") from error
    return cells


def read_csv(path: Path) -> dict[str, np.ndarray]:
    """The columns of a table that has one named `epoch`, NaN where a cell is empty. Raises ValueError for anything else."""
    rows = _csv_rows(path)
    try:
        if not rows or "epoch" not in rows[0]:
            raise ValueError("it has no column 'epoch', or no row")
        return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
