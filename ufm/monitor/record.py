"""What a run stores, one entry a measured epoch: `trajectory.npz`, and its view as the Trajectory type of a simulation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from manifolds.representation import short_repr
from ufm.files.store import load_arrays, save_arrays

if TYPE_CHECKING:  # reading a record needs neither torch nor the laws
    from ufm.features.ranges import RangeSnr
    from ufm.laws.trajectory import Trajectory
    from ufm.monitor.measurement import Measurement

ZERO_ERROR = 1e-3  # "effectively zero" training error: 99.9 % (Papyan, Han & Donoho 2020)
TRAJECTORY, RUN = "trajectory.npz", "run.json"  # the measures of a folder, and what `RunLog` writes about the training
# a run begun before these were stored goes on without
LATER = (
    *("test_V", "test_U", "test_dropped", "test_lost_signal", "test_nc1_train_means"),
    *("nc0", "ncc_accuracy", "effective_rank", "omega_geometric_mean", "omega_rounding", "gain"),  # of a layer too, as "fc/gain"
)
REQUIRED = ("epoch", "omega", "V", "U", "counts", "train_error", "nc1", "loss")


@dataclass(frozen=True, eq=False, repr=False)
class Record:
    """Arrays by name with the measured epochs along their first axis, beside `counts` (C,) and `lambda` ().

    Scalars are (T,); omega (T, K) descending, V (T, C, K), U (T, P, K); `dropped` and `lost_signal` (T,) tell what the reduction
    of the features to the range of Sigma_W left out of omega, V and U. The same with the prefix `test_` are the test set's.
    """

    arrays: dict[str, np.ndarray]
    __repr__ = short_repr

    @classmethod
    def empty(cls) -> "Record":
        """Nothing measured yet."""
        return cls({})

    @property
    def epochs(self) -> np.ndarray:
        """The measured epochs. (T,)"""
        return self.arrays.get("epoch", np.zeros(0, dtype=np.int64))

    def with_epoch(self, epoch: int, measurement: "Measurement", lam: float) -> "Record":
        """The record with one more measured epoch. Raises ValueError where another quantity is measured than before."""
        row: dict[str, np.ndarray] = {name: np.asarray(value) for name, value in sorted(measurement.scalars.items())}
        row |= {"epoch": np.asarray(epoch)} | _snr_arrays(measurement.snr, "")
        if measurement.test_snr is not None:
            row |= _snr_arrays(measurement.test_snr, "test_")
        if self.arrays:
            row = {name: value for name, value in row.items() if name in self.arrays or name.split("/")[-1] not in LATER}
        fixed = {"counts": measurement.counts, "lambda": np.asarray(lam)}
        if not self.arrays:
            return Record({name: value[None] for name, value in row.items()} | fixed)
        if (row.keys() | fixed.keys()) != self.arrays.keys():
            different = sorted((row.keys() | fixed.keys()) ^ self.arrays.keys())
            raise ValueError(f"epoch {epoch} measures something else than the epochs before it: {different[0]}")
        for name, value in row.items():
            if value.shape != self.arrays[name].shape[1:]:
                raise ValueError(f"epoch {epoch}: {name} is {value.shape}, {self.arrays[name].shape[1:]} at the epochs before it")
        return Record({name: np.concatenate([self.arrays[name], value[None]]) for name, value in row.items()} | fixed)

    def before(self, epoch: int) -> "Record":
        """The record without this epoch and those after it, which a training that goes on from a checkpoint repeats."""
        kept = self.epochs < epoch
        if not kept.any():
            return Record.empty()
        fixed = ("counts", "lambda")
        return Record({name: value if name in fixed else value[kept] for name, value in self.arrays.items()})

    def save(self, path: Path, complete: bool | None = None) -> None:
        """Write the arrays, atomically; with `complete` whether they are all that will be measured, which `load` leaves out."""
        save_arrays(path, self.arrays if complete is None else {**self.arrays, "complete": np.asarray(complete)})

    @classmethod
    def load(cls, path: Path, required: Sequence[str] = REQUIRED) -> "Record":
        """The record of a file. Raises ValueError for one that is unreadable or has no such arrays."""
        arrays = load_arrays(path)
        arrays.pop("complete", None)
        missing = [name for name in required if name not in arrays]
        if missing:
            raise ValueError(f"{path} is not a measured trajectory: it has no array {missing[0]!r}")
        if arrays["epoch"].ndim != 1 or not len(arrays["epoch"]):
            raise ValueError(f"{path} has no measured epoch: epoch is {arrays['epoch'].shape}")
        _check_arrays(arrays, path)
        return cls(arrays)

    @property
    def zero_error_epoch(self) -> int | None:
        """The first measured epoch with a training error of at most 0.1 %, None where there is none."""
        reached = np.flatnonzero(self.arrays["train_error"] <= ZERO_ERROR)
        return int(self.epochs[reached[0]]) if len(reached) else None

    def trajectory(self) -> "Trajectory":
        """The singular values followed in time by their right vectors, the epoch as clock; any class sizes.

        Epochs without variability (omega undefined), and those with fewer positive values than others, are left out.
        """
        from ufm.laws.trajectory import Trajectory, followed

        counts = tuple(int(count) for count in self.arrays["counts"])
        defined = np.isfinite(self.arrays["omega"]).all(1)
        if not defined.any():
            raise ValueError("the SNR is undefined at every measured epoch")
        positive = (self.arrays["omega"] > 0).sum(1)
        whole = defined & (positive == positive[defined].max())
        omega, V, U = followed(*(self.arrays[name][whole] for name in ("omega", "V", "U")))
        by_epoch = {name: value for name, value in self.arrays.items() if value.shape == defined.shape and name != "counts"}
        scalars = {name: value[whole].astype(np.float64) for name, value in by_epoch.items()}
        t = self.epochs[whole].astype(np.float64)
        scalars = of_unequal(scalars) if min(counts) < max(counts) else scalars
        N = sum(counts) // len(counts)
        return Trajectory(t, omega, V[0], len(counts), N, None if U is None else U[0], V, U, scalars, counts)


def of_unequal(scalars: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The measured scalars with L_LS and its parts, which omega alone does not decide for unequal classes.

    Raises ValueError where the parts are not among them.
    """
    missing = [name for name in ("loss_nc1", "loss_nc23") if name not in scalars]
    if missing:
        raise ValueError(f"its classes have unequal sizes, and it has no array {missing[0]!r}, which omega alone does not decide")
    nc1, nc23 = scalars["loss_nc1"], scalars["loss_nc23"]
    return {**scalars, "ls_loss": nc1 + nc23, "ls_loss_nc1": nc1, "ls_loss_nc23": nc23}


def _snr_arrays(snr: "RangeSnr", prefix: str) -> dict[str, np.ndarray]:
    arrays = {"omega": snr.omega, "V": snr.V, "U": snr.U, "dropped": snr.dropped, "lost_signal": snr.lost_signal}
    return {f"{prefix}{name}": np.asarray(value) for name, value in arrays.items()}


def table(record: Record, names: Sequence[str]) -> str:
    """Some scalars of every measured epoch as aligned text."""
    names = [name for name in names if name in record.arrays]
    rows = [["epoch", *names]]
    rows += [[str(e), *(f"{record.arrays[name][k]:.4g}" for name in names)] for k, e in enumerate(record.epochs)]
    widths = [max(len(row[j]) for row in rows) for j in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _check_arrays(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Raise ValueError for arrays of a record that are no numbers, or whose shapes do not go together."""
    T, C, omega, U = len(arrays["epoch"]), arrays["counts"].size, arrays["omega"], arrays["U"]
    K, P = omega.shape[-1] if omega.ndim else 0, U.shape[1] if U.ndim == 3 else 0
    shapes = {"omega": (T, K), "V": (T, C, K), "U": (T, P, K), "counts": (C,), "lambda": ()}
    shapes |= {name: (T,) for name in REQUIRED if name not in shapes}
    for name, value in arrays.items():
        shape = shapes.get(name, (T, *value.shape[1:]))
        if value.shape != shape or value.dtype.kind not in ("iu" if name in ("epoch", "counts") else "iuf"):
            raise ValueError(f"{path} is damaged: {name} is {value.dtype} {value.shape}, numbers of shape {shape} are needed")
    if not arrays["counts"].size or arrays["counts"].min() < 1:
        raise ValueError(f"{path} is damaged: counts are {arrays['counts'].tolist()}, every class has examples")
