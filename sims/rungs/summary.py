"""What a rung says: its runs compared with the models, and every measured quantity, median and range over the seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sims.comparison.analysis import Choice, Group, analyse
from sims.comparison.runs import load_observed
from sims.rungs.conservation import EpochMoments, plain_flow_share, sigma_t_change, signal_share
from sims.rungs.rung import Rung
from sims.training.velocity import PARTS
from ufm.compare.verdict import LawRule
from ufm.files.json_objects import JsonObject, errors_as_damage, read_json
from ufm.laws.trajectory import Trajectory
from ufm.monitor.epoch_statistics import statistics_files
from ufm.output import stored_number


@dataclass(frozen=True, eq=False)
class RungResult:
    """A rung, its runs judged together, and its quantities: name -> one value a seed, NaN where there is none."""

    rung: Rung
    group: Group
    values: dict[str, np.ndarray]

    def middle(self, name: str) -> tuple[float, float, float]:
        """Median, least and largest over the seeds; NaN where no seed has it."""
        known = self.values[name][np.isfinite(self.values[name])]
        return (float(np.median(known)), float(known.min()), float(known.max())) if len(known) else (float("nan"),) * 3


def choice_of(rung: Rung) -> Choice:
    """The epochs compared: all of a descent, which starts on the central path; of others those from zero training error on."""
    return Choice(from_epoch=0.0 if rung.train is None else "zero-error")


def result_of(rung: Rung, paths: Sequence[Path]) -> RungResult:
    """A rung from the folders of its runs. Raises ValueError for one that is no run."""
    runs = [load_observed(path) for path in paths]
    name = {rung.name: [str(path) for path in paths]}
    (group,) = analyse(runs, choice_of(rung), LawRule(), name)
    rows = [quantities(path, comparison.window.compared) for path, comparison in zip(paths, group.comparisons, strict=True)]
    names = list(dict.fromkeys(key for row in rows for key in row))
    values = {key: np.array([row.get(key, np.nan) for row in rows], dtype=float) for key in names}
    return RungResult(rung, replace(group, name=rung.name), values)


def quantities(path: Path, compared: Trajectory | None) -> dict[str, float]:
    """The numbers of one run over the epochs compared (a Trajectory, None where there are none)."""
    if compared is None:
        return {}
    moments = [EpochMoments.load(file) for file, epoch in statistics_files(path).items() if epoch in set(compared.t.tolist())]
    level = np.log(compared.omega).mean(1)
    growth = float(level[-1] - level[0])
    change, factor, left = sigma_t_change(moments[0], moments[-1])
    values = {"growth": float(np.exp(growth)), "sigma_t_change": change, "sigma_t_factor": factor, "sigma_t_left": left}
    values["signal_share"] = signal_share(moments)
    try:
        values["plain_share"] = plain_flow_share(moments[0], growth) if growth > 0 else float("nan")
    except ValueError:
        values["plain_share"] = float("nan")
    return values | velocities(path, float(compared.t[0]), float(compared.t[-1]))


def velocities(path: Path, first: float, last: float) -> dict[str, float]:
    """Medians over the epochs whose velocities were taken, and the gains of the last of them."""
    files = sorted(path.glob("velocity-*.json"))
    with errors_as_damage(path / "velocity-*.json"):
        return _medians([read_json(file) for file in files], first, last)


def _medians(rows: list[JsonObject], first: float, last: float) -> dict[str, float]:
    """`velocities` of rows that are read."""
    rows = sorted((row for row in rows if first <= row["epoch"] <= last), key=lambda row: row["epoch"])
    if not rows:
        return {}
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for part in PARTS:
            for name in ("gradient", "kernel"):
                columns.setdefault(f"cosine_{part}_{name}", []).append(row[part][name])
        for name in ("cosine", "ratio"):
            columns.setdefault(f"force_{name}", []).append(None if row["forces"] is None else row["forces"][name])
    values = {}
    for name, column in columns.items():
        known = [value for value in column if value is not None]
        values[name] = float(np.median(known)) if known else float("nan")
    gains = rows[-1]["gains"]
    if gains is not None and gains["linear"]:
        between = [value for value in gains["between"] if value is not None and abs(value) > 1e-9]
        values["last_linear"] = stored_number(gains["linear"][-1])
        values["last_nonlinear"] = between[-1] if between else 0.0
        values["input_level"], values["features_level"] = stored_number(gains["input"]), stored_number(gains["features"])
    return values
