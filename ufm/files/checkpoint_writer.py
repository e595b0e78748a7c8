"""Writes the features of several processes as one folder of torch.distributed.checkpoint, whole or not at all."""

import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException, DefaultSavePlanner, FileSystemWriter, SavePlan, WriteItem, save
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItemType

from ufm.distributed import OneProcess, Processes, TorchProcesses, raised_in_all
from ufm.files.archive import reason_of
from ufm.files.rows import BLOCK_NUMBERS
from ufm.files.store import check_folder_writable, remove_stale, temporary_name

DTYPE_NAMES = ("float16", "float32", "float64")
NAME_LENGTH = 256


def save_rows(
    folder: Path | str, features: np.ndarray | Tensor, labels: np.ndarray | Tensor, group: Processes | None = None
) -> None:
    """Write the features (n_k, P) and labels (n_k,) of every process as the rows of one checkpoint, in the order of the ranks.

    Each process writes its own rows; n_k may differ and be 0. Descriptions of the pieces, of 16 MB, are all that is sent. The
    folder gets its name when everything is written. Raises ValueError, in every process, where the folder is there already or
    cannot be written, for features that are not float16, 32 or 64 or of another P or dtype than those of the others, and where
    no process has an example; RuntimeError where a process is lost.
    """
    folder, group = Path(folder), group or OneProcess()
    with raised_in_all(group):
        kind = _kind_of(features, labels)
    counts = _counts(features.shape[1], kind, len(labels), group)
    temporary = folder.with_name(_shared_name(folder, group))
    planner = _RowsPlanner(features, labels, int(counts[: group.rank].sum()), int(counts.sum()))
    try:
        _write_folder(temporary, planner, group)
        with raised_in_all(group):
            if group.rank == 0:
                _check_free(folder)
                temporary.rename(folder)
    except CheckpointException as error:
        raise ValueError(f"cannot write {folder}: {_first_failure(error)}") from error
    except OSError as error:
        raise ValueError(f"cannot write {folder}: {reason_of(error)}") from error
    finally:
        if group.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)


def _kind_of(features: Any, labels: Any) -> int:
    """The number of the dtype. Raises ValueError for what are no rows of features and labels."""
    if features.ndim != 2 or tuple(labels.shape) != (len(features),) or not features.shape[1]:
        shapes = f"{tuple(features.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"features must be (n, P) and labels (n,), got {shapes}; without an example (0, P) and (0,)")
    kind, of_labels = (str(x.dtype).removeprefix("torch.").lstrip("<>=") for x in (features, labels))
    kind = features.dtype.name if isinstance(features, np.ndarray) else kind
    if kind not in DTYPE_NAMES:
        raise ValueError(
            f"features are {kind}, one of {', '.join(DTYPE_NAMES)} is needed: bfloat16 becomes float32 without a loss"
        )
    if not (labels.dtype.kind in "iu" if isinstance(labels, np.ndarray) else "int" in of_labels):
        raise ValueError(f"labels are {of_labels}, integers are needed")
    return DTYPE_NAMES.index(kind)


def _counts(P: int, kind: int, count: int, group: Processes) -> np.ndarray:
    """The rows of every process. Raises ValueError, in all, where P or dtypes differ or nobody has a row."""
    least, greatest = (sign * group.smallest(sign * np.array([P, kind])) for sign in (1, -1))
    if (least != greatest).any():
        kinds = (
            f"{DTYPE_NAMES[least[1]]} and {DTYPE_NAMES[greatest[1]]}"
            if least[1] != greatest[1]
            else f"P = {least[0]} and {greatest[0]}"
        )
        raise ValueError(f"the processes have features of {kinds}: one dtype and one P are needed, of empty ones too")
    counts = np.zeros(group.size, dtype=np.int64)
    counts[group.rank] = count
    counts = group.sum(counts)
    if not counts.any():
        raise ValueError("no process has an example: there is nothing to write")
    return counts


def _shared_name(folder: Path, group: Processes) -> str:
    """A name beside the folder that process 0 makes up. Raises ValueError, in all, where no folder can be made there."""
    letters = np.zeros(NAME_LENGTH, dtype=np.int64)
    with raised_in_all(group):
        if group.rank == 0:
            _check_free(folder)
            check_folder_writable(folder)
            remove_stale(folder.parent)
            name = temporary_name().encode()
            letters[: len(name)] = list(name)
    letters = group.broadcast(letters, 0)
    return bytes(letters[letters > 0].tolist()).decode()


def _check_free(folder: Path) -> None:
    if os.path.lexists(folder):
        raise ValueError(f"{folder} is there already: choose another name, or move it away")


def _write_folder(folder: Path, planner: "_RowsPlanner", group: Processes) -> None:
    writer = FileSystemWriter(folder, overwrite=False)
    if isinstance(group, TorchProcesses):
        save({}, storage_writer=writer, planner=planner, process_group=group.carrier)
    else:
        with warnings.catch_warnings():  # that one process alone writes, which is what was asked for
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            save({}, storage_writer=writer, planner=planner, no_dist=True)


def _first_failure(error: CheckpointException) -> str:
    rank, (reason, _) = min(error.failures.items())
    return f"process {rank} failed: {reason}"


class _RowsPlanner(DefaultSavePlanner):
    """Cuts the rows of a process, which begin at row `start` of n, into pieces that are read one at a time."""

    def __init__(self, features: Any, labels: Any, start: int, n: int) -> None:
        super().__init__(flatten_state_dict=False)
        self.rows, self.start, self.n = {"features": features, "labels": labels}, start, n

    def create_local_plan(self) -> SavePlan:
        """A piece of features and one of labels for every block of rows."""
        self.plan = SavePlan(list(self._items()))
        return self.plan

    def _items(self) -> Iterator[WriteItem]:
        P = self.rows["features"].shape[1]
        step = max(1, BLOCK_NUMBERS // P)
        for first in range(0, len(self.rows["labels"]), step):
            for name, columns in (("features", (P,)), ("labels", ())):
                tensor = self._piece(name, first, 0)
                offsets = torch.Size([self.start + first, *[0] * len(columns)])
                sizes = torch.Size([min(step, len(self.rows["labels"]) - first), *columns])
                data = TensorWriteData(
                    ChunkStorageMetadata(offsets, sizes),
                    TensorProperties.create_from_tensor(tensor),
                    torch.Size([self.n, *columns]),
                )
                yield WriteItem(MetadataIndex(name, offsets), WriteItemType.SHARD, tensor_data=data)

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        """The rows of a piece, in memory of their own."""
        assert write_item.tensor_data is not None
        assert write_item.index.offset is not None
        return self._piece(write_item.index.fqn, write_item.index.offset[0] - self.start, write_item.tensor_data.chunk.sizes[0])

    def _piece(self, name: str, first: int, count: int) -> Tensor:
        rows = self.rows[name][first : first + count]
        if isinstance(rows, Tensor):
            return rows.detach().cpu().to(rows.dtype if name == "features" else torch.int64)
        return torch.from_numpy(np.array(rows, dtype=rows.dtype.newbyteorder("=") if name == "features" else np.int64))
