"""The folder of a run: config.json, provenance.json, trajectory.npz, statistics-EPOCH.npz and checkpoint.pt.

Where they are asked for, features-EPOCH.npz and velocity-EPOCH.json too. Every write is atomic.
"""

import hashlib
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sims.training.protocol import TrainConfig, from_mapping, load_config, rate_source
from ufm.arrays import as_numpy
from ufm.files.json_objects import JsonObject, read_limited_text
from ufm.files.store import provenance, remove_stale, save_arrays, write_atomically, write_text
from ufm.monitor.record import REQUIRED, RUN, TRAJECTORY
from ufm.output import json_values

if TYPE_CHECKING:  # both with torch, which a finished run is told without
    from ufm.monitor.record import Record

CONFIG, PROVENANCE, CHECKPOINT = "config.json", "provenance.json", "checkpoint.pt"
FILES_OF_A_RUN = ("*.json", "*.pt", TRAJECTORY, "statistics-*.npz", "features-*.npz")  # patterns of all that a run consists of
SEARCH = "search.json"  # the table of a learning-rate search for this run
DAMAGED = (RuntimeError, KeyError, AttributeError, TypeError, ValueError)  # what taking something else for a run raises


class RunFolder:
    """Where one run lives. Raises ValueError for a folder that cannot be made or that belongs to another configuration."""

    def __init__(self, path: Path, config: TrainConfig) -> None:
        self.path, self.config = path, config
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cannot make the folder {path}: {error.strerror}") from error
        if (path / CONFIG).exists():
            self._check_same(load_config(path / CONFIG))

    def begin(self, processes: int = 1) -> None:
        """Write the configuration, and one more entry of provenance; remove what a killed process left half written."""
        remove_stale(self.path, other_hosts=True)
        path = self.path / PROVENANCE
        try:
            sessions = [*json.loads(read_limited_text(path))] if path.exists() else []
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"cannot read {path}: {error}; move it away to go on without it") from error
        if not (self.path / CONFIG).exists() or load_config(self.path / CONFIG) != self.config:
            write_text(self.path / CONFIG, self.config.to_json())
        rate = SEARCH if (self.path / SEARCH).exists() else rate_source(self.config)
        session = provenance() | _torch_facts() | {"processes": processes, "learning_rate_source": rate}
        write_text(path, json.dumps([*sessions, session], indent=2) + "\n")

    def finish(self) -> None:
        """Note in the last session what the whole run consists of, for `finished`."""
        sessions = json.loads(read_limited_text(self.path / PROVENANCE))
        sessions[-1]["finished"] = self._digests()
        write_text(self.path / PROVENANCE, json.dumps(sessions, indent=2) + "\n")

    def finished(self) -> "Record | None":
        """The record, where the folder holds this run whole, bit for bit, on data in the same place; else None."""
        from ufm.monitor.record import Record

        try:
            sessions = json.loads(read_limited_text(self.path / PROVENANCE))
            same = load_config(self.path / CONFIG) == self.config and sessions[-1]["finished"] == self._digests()
            return Record.load(self.path / TRAJECTORY) if same else None
        except (OSError, RecursionError, LookupError, TypeError, ValueError):
            return None  # who goes on from here meets the same file and says what is wrong with it

    def _digests(self) -> dict[str, str]:
        """SHA-256 of what is needed to go on, and of the record."""
        digests = {}
        for name in (CHECKPOINT, TRAJECTORY):
            with (self.path / name).open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        return digests

    def save_checkpoint(self, epoch: int, state: Mapping[str, object], record: "Record") -> None:
        """Write the measured trajectory, then everything that the run needs to go on after this epoch."""
        import torch

        record.save(self.path / TRAJECTORY)
        arrays = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in record.arrays.items()}
        whole = {**state, "epoch": epoch, "record": arrays, "config": self.config.to_json()}
        try:
            write_atomically(self.path / CHECKPOINT, lambda file: torch.save(whole, file))
        except RuntimeError as error:  # torch's writer hides the reason of a failed write, a full disk as a rule
            first = str(error).splitlines()[0]
            raise ValueError(
                f"cannot write {self.path / CHECKPOINT}: is the disk full? ({first}); the last one is kept"
            ) from error

    def load_checkpoint(self) -> "tuple[int, dict[str, Any], Record] | None":
        """Epoch, state (on the CPU) and record of the last checkpoint, or None. ValueError for a damaged or foreign one."""
        import torch

        from ufm.monitor.record import Record

        path = self.path / CHECKPOINT
        if not path.exists():
            return None
        try:
            _check_sums(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
            epoch, arrays, text = int(state.pop("epoch")), state.pop("record"), state.pop("config")
            record = Record({name: as_numpy(value) for name, value in arrays.items()})
            config = from_mapping(json.loads(text), str(path))
        except (pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, *DAMAGED) as error:
            raise self.damaged(error) from error
        if identity_of(config) != identity_of(self.config):
            raise ValueError(f"{path} belongs to another configuration than {CONFIG} beside it")
        try:
            _check_state(epoch, state, record, config)
        except DAMAGED as error:
            raise self.damaged(error) from error
        return epoch, state, record

    def check_data(self, trained_on: str, now: str) -> None:
        """Raise ValueError where the fingerprint of the data is not that of the checkpoint."""
        if trained_on != now:
            raise ValueError(
                f"{self.path / CHECKPOINT} was trained on other data (fingerprint {trained_on[:12]}, now {now[:12]}): give the "
                "same files, wherever they are now, or choose another folder for the run"
            )

    def damaged(self, error: Exception) -> ValueError:
        """What to raise where the checkpoint holds something else than a run of this configuration."""
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        return ValueError(
            f"cannot read the checkpoint {self.path / CHECKPOINT}: {type(error).__name__}: {first}; delete it to start again "
            f"(the measured epochs stay in {TRAJECTORY} until then)"
        )

    def save_features(self, epoch: int, features: np.ndarray, labels: np.ndarray, W: np.ndarray, b: np.ndarray) -> None:
        """Write the training features of an epoch, as `ufm.flow --features` and `sims.measure` read them."""
        arrays = {"features": features, "labels": labels, "W": W, "b": b, "epoch": np.asarray(epoch)}
        save_arrays(self.path / f"features-{epoch:04d}.npz", arrays)

    def save_velocity(self, epoch: int, velocity: JsonObject) -> None:
        """Write what `sims.training.velocity` measured at an epoch."""
        text = json.dumps({"epoch": epoch, **json_values(velocity)}, indent=1, allow_nan=False)
        write_text(velocity_file(self.path, epoch), text + "\n")

    def _check_same(self, saved: TrainConfig) -> None:
        old, new = identity_of(saved), identity_of(self.config)
        differing = [key for key in new if old[key] != new[key]]
        if differing:
            key = differing[0]
            raise ValueError(
                f"{self.path} belongs to another run ({key} = {old[key]!r}, now {new[key]!r}): repeat its options to resume it, "
                "or choose another folder"
            )


def velocity_file(folder: Path, epoch: int) -> Path:
    """Where the velocities of an epoch lie."""
    return folder / f"velocity-{epoch:04d}.json"


def identity_of(config: TrainConfig) -> dict[str, object]:
    """What makes a run this one: everything but where its data lies, which may move; its fingerprint is compared instead."""
    return {name: value for name, value in asdict(config).items() if name not in ("data_dir", "hub")}


def _check_sums(path: Path) -> None:
    """Raise ValueError where a record of a file of torch's does not have its checksum, which torch writes but does not read."""
    with zipfile.ZipFile(path) as archive:
        packed = next((member.filename for member in archive.infolist() if member.compress_type != zipfile.ZIP_STORED), None)
        if packed is not None:  # it may be a thousand times as large in memory
            raise ValueError(f"its record {packed} is compressed, which torch never writes")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of its record {damaged} is wrong")


def _check_state(epoch: int, state: dict[str, Any], record: "Record", config: TrainConfig) -> None:
    """Raise ValueError for an epoch that is not the last one recorded, and for weights that are not finite."""
    import torch

    epochs = record.arrays["epoch"].tolist()
    if epoch not in config.measured or epochs != [measured for measured in config.measured if measured <= epoch]:
        raise ValueError(f"it stands after epoch {epoch} of {config.epochs}, and epochs {epochs[-3:]} are the last recorded")
    for name, weights in state["model"].items():
        if not bool(torch.isfinite(weights).all()):
            raise ValueError(f"{name} is not finite")


def load_run(path: Path) -> "tuple[TrainConfig, Record]":
    """Configuration and record of a stored run. Raises ValueError for a folder that holds none."""
    from ufm.monitor.record import Record

    if not (path / CONFIG).exists():
        raise ValueError(f"{path} is not the folder of a run: it has no {CONFIG}{_what_it_is(path)}")
    return load_config(path / CONFIG), Record.load(path / TRAJECTORY, (*REQUIRED, "test_error"))


def _what_it_is(path: Path) -> str:
    """What else a folder is, and who reads it; "" where that is not known."""
    if (path / RUN).exists():
        return "; it is a log of RunLog, which sims.measure, sims.figures, sims.ledger and sims.compare read"
    features = path / "features.npy"
    return f"; for the features in it give {features}" if features.exists() else ""


def _torch_facts() -> JsonObject:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"threads": torch.get_num_threads(), "gpu": gpu}
