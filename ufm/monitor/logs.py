"""Where measures go, epoch by epoch: CSV, TensorBoard, Weights & Biases, trackio, and the run folder of `sims.compare`.

A log is called with (epoch, values, measurement). A run that was killed and goes on calls it again for epochs that it repeats: in
files what lies from there on is replaced, what lies before stays; other tools have both. A training that begins anew finds the
old log kept beside its own.
"""

import csv
import io
import json
import math
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ufm.files.json_objects import read_json
from ufm.files.store import write_text
from ufm.monitor.earlier import OwnEpochs, begins_anew, keep_file, keep_folder
from ufm.monitor.epoch_statistics import save_statistics, statistics_files, stored_facts
from ufm.monitor.measurement import Measurement
from ufm.monitor.record import RUN, TRAJECTORY, Record
from ufm.monitor.tables import cells_of, logged_rows


class Log(Protocol):
    """What takes the measures of an epoch."""

    def __call__(self, epoch: int, values: Mapping[str, float], measurement: Measurement | None = None) -> None:
        """Log one epoch."""


class OwnFile:
    """A file as one log left it: another log that writes to it would lose what this one wrote, and the other way round."""

    def __init__(self, path: Path) -> None:
        self._path, self._left = path, self._now(path)

    def check(self) -> None:
        """Raise ValueError where the file is another one now."""
        if self._now(self._path) != self._left:
            raise ValueError(
                f"{self._path} was written by another log in the meantime: give every log a file or folder of its own"
            )

    @staticmethod
    def _now(path: Path) -> tuple[int, int] | None:
        return (state.st_ino, state.st_size) if path.exists() and (state := path.stat()) else None


def whole(epoch: int) -> int:
    """An epoch as it is counted. Raises ValueError for anything but 0, 1, 2, ..."""
    if isinstance(epoch, bool) or not hasattr(epoch, "__index__") or epoch < 0:
        raise ValueError(f"epoch = {epoch}: epochs are counted by whole numbers, 0, 1, 2, ...")
    return operator.index(epoch)


class CsvLog:
    """A table with one row an epoch, written whole and atomically; a column that appears later is empty before."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._rows: list[dict[str, str]] = []
        if self.path.exists():
            self._rows = logged_rows(self.path)
        self._file = OwnFile(self.path)
        self.own = OwnEpochs(self.path)
        self._of_earlier = [int(row["epoch"]) for row in self._rows]  # until the first epoch is logged

    def __call__(self, epoch: int, values: Mapping[str, float], measurement: Measurement | None = None) -> None:
        """Write the row of an epoch; rows of this and of later epochs are replaced. Raises ValueError where another one wrote.

        A table that a training finds and begins anew is kept beside it, as NAME.earlier-1.csv, with a warning.
        """
        epoch, row = whole(epoch), cells_of(values)
        self._file.check()
        if begins_anew(self._of_earlier, epoch):
            keep_file(self.path, self._of_earlier)
        self._of_earlier = []
        self.own.add(epoch)
        self._rows = [past for past in self._rows if int(past["epoch"]) < epoch]
        self._rows.append({**row, "epoch": str(epoch)})
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in self._rows for name in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self.path, text.getvalue())
        self._file = OwnFile(self.path)


class ScalarWriter(Protocol):
    """What is asked of a `torch.utils.tensorboard.SummaryWriter`."""

    def add_scalar(self, name: str, value: float, step: int, /) -> object:
        """Record a value under a name at a step."""
        ...


class TensorBoardLog:
    """Scalars of a `torch.utils.tensorboard.SummaryWriter`, under `group`/NAME."""

    def __init__(self, writer: ScalarWriter, group: str = "collapse") -> None:
        self.writer, self.group = writer, group

    def __call__(self, epoch: int, values: Mapping[str, float], measurement: Measurement | None = None) -> None:
        """Add what is defined."""
        for name, value in values.items():
            if math.isfinite(value):
                self.writer.add_scalar(f"{self.group}/{name}", value, epoch)


class StepLog:
    """`wandb.log`, `run.log` or `trackio.log`: one call an epoch, names as `group`/NAME beside `epoch`.

    Their `step` counts calls of the whole training and must not fall, so the epoch is a value, not the step.
    """

    def __init__(self, log: Callable[[dict[str, float]], object], group: str = "collapse") -> None:
        self.log, self.group = log, group

    def __call__(self, epoch: int, values: Mapping[str, float], measurement: Measurement | None = None) -> None:
        """Send what is defined."""
        self.log({"epoch": epoch, **{f"{self.group}/{name}": v for name, v in values.items() if math.isfinite(v)}})


class RunLog:
    """A folder that `sims.compare` and `sims.figures` read: trajectory.npz, and run.json with what is known of the training.

    lam, lambda of the loss, without which the parts of the loss are undefined and a comparison with the laws has to be told it;
    and by keyword: optimizer, loss, weight_decay, learning_rate, batch_size, seed, anything that JSON can hold. The folder
    of a run with other facts is refused with ValueError; the same facts go on with it. With every epoch its class statistics
    are kept, as `ufm.monitor.epoch_statistics` has them; decay_w, decay_b (lam otherwise) and decay_h (0) are among the facts
    where the loss has others.
    """

    def __init__(self, folder: Path | str, lam: float | None = None, **facts: object) -> None:
        self.folder = Path(folder)
        self._lam = math.nan if lam is None else float(lam)
        if self._lam < 0:
            raise ValueError(f"lam = {self._lam!r}: lambda is at least 0; leave it out where the loss has none")
        self._facts = {name: _fact(name, value) for name, value in facts.items()}
        facts = {"lambda": None if math.isnan(self._lam) else self._lam, **self._facts}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cannot make the folder {self.folder}: {error.strerror}; choose another") from error
        path = self.folder / RUN
        saved = read_json(path) if path.exists() else facts
        if saved != facts:
            key = next(key for key in sorted(saved | facts) if saved.get(key) != facts.get(key))
            was, now = saved.get(key), facts.get(key)
            raise ValueError(
                f"{self.folder} is another run ({key} = {was!r}, now {now!r}): choose another folder, or give the same facts"
            )
        trajectory = self.folder / TRAJECTORY
        self.record = Record.load(trajectory) if trajectory.exists() else Record.empty()
        write_text(path, json.dumps(facts, indent=2) + "\n")
        self._file = OwnFile(trajectory)
        self.own = OwnEpochs(self.folder)
        self._of_earlier = self.record.epochs.tolist()  # until the first epoch is logged

    def __call__(self, epoch: int, values: Mapping[str, float], measurement: Measurement | None = None) -> None:
        """Write the epoch; this and later ones are replaced. A run that a training finds and begins anew is kept in earlier-1.

        Raises ValueError without a measurement of classes, and for one whose loss was split at another lambda than the folder's.
        """
        if measurement is None:
            raise ValueError("a run folder needs the measurement of classes: give watched.measurement or metric.measurement")
        epoch = whole(epoch)
        self._file.check()
        if measurement.lam is not None and measurement.lam != self._lam and not math.isnan(self._lam):
            raise ValueError(
                f"the loss was measured at lambda = {measurement.lam!r}, and {self.folder} is a run of lambda = {self._lam!r}: "
                "give the same lam to the metric (or watch) and to RunLog"
            )
        if begins_anew(self._of_earlier, epoch):
            of = statistics_files(self.folder)
            shared = [self.folder / RUN, self.folder / TRAJECTORY, *(path for path in of if of[path] < epoch)]
            keep_folder(self.folder, shared, [path for path in of if of[path] >= epoch], self._of_earlier)
        self._of_earlier = list[int]()
        self.own.add(epoch)
        kept, lam = self.record.before(epoch), self._lambda_of(measurement)
        extra = {
            name: float(value) for name, value in values.items() if name not in measurement.scalars and name not in RECORD_ARRAYS
        }
        self.record = kept.with_epoch(epoch, measurement.with_scalars(extra), lam)
        facts = {"decay_w": lam, "decay_b": lam, "decay_h": 0.0, **self._facts, "lambda": lam}
        save_statistics(self.folder, epoch, measurement, stored_facts(facts))
        self.record.save(self.folder / TRAJECTORY)
        self._file = OwnFile(self.folder / TRAJECTORY)

    def _lambda_of(self, measurement: Measurement) -> float:
        """lambda as the folder was told, else that at which the loss was measured."""
        return self._lam if measurement.lam is None or not math.isnan(self._lam) else measurement.lam


RECORD_ARRAYS = ("dropped", "lost_signal", "epoch", "omega", "V", "U", "counts", "lambda")  # stored by the record itself


def _fact(name: str, value: object) -> object:
    """What JSON gives back of a fact. Raises ValueError for what it cannot hold."""
    try:
        return json.loads(json.dumps(value, default=_as_python))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} = {value!r:.60}: a fact of a run is a number, a text, or what JSON can hold") from error


def _as_python(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        return value.tolist()
    raise TypeError
