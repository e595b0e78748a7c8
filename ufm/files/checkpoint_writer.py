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

from ufm.arrays import as_numpy, check_unmasked, namespace
from ufm.distributed import OneProcess, Processes, TorchProcesses, broadcast_text, raised_in_all
from ufm.files.archive import reason_of
from ufm.files.one_folder import check_seen
from ufm.files.rows import BLOCK_NUMBERS
from ufm.files.store import check_folder_writable, remove_stale, temporary_name
from ufm.lost_process import others_needed

DTYPE_NAMES = ("float16", "float32", "float64")
LARGEST_LABEL = 2**63 - 1


def save_rows(
    folder: Path | str, features: np.ndarray | Tensor, labels: np.ndarray | Tensor, group: Processes | None = None
) -> None:
    """Write the features (n_k, P) and labels (n_k,) of every process as the rows of one checkpoint, in the order of the ranks.

    Each process writes its own rows; n_k may differ and be 0. Descriptions of the pieces, of 16 MB, are all that is sent. The
    folder gets its name when everything is written. Raises ValueError, in every process, where the folder is there already or
    cannot be written, where a process is given another one or does not see it, for features that are not float16, 32 or 64 or
    of another P or dtype than those of the others, and where no process has an example; RuntimeError where a process is lost.
    """
    folder, group = Path(folder), group or OneProcess()
    with raised_in_all(group):
        kind = _kind_of(features, labels)
    counts = _counts(features.shape[1], kind, len(labels), group)
    name, of_first = _shared_names(folder, group)
    temporary = folder.parent / name
    try:
        with raised_in_all(group):
            _check_shared(temporary, folder, of_first)
        planner = _RowsPlanner(features, labels, int(counts[: group.rank].sum()), int(counts.sum()))
        _write_folder(temporary, planner, group)
        with raised_in_all(group):
            if group.rank == 0:
                _check_free(folder)
                temporary.rename(folder)
    except CheckpointException as error:
        raise _failure(error, folder, group.rank) from error
    except OSError as error:
        raise ValueError(f"cannot write {folder}: {reason_of(error)}") from error
    finally:
        if group.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)


def _kind_of(features: Any, labels: Any) -> int:
    """The number of the dtype. Raises ValueError for what are no rows of features and labels."""
    for name, x in (("features", features), ("labels", labels)):
        _check_rows(x, name)
    if features.ndim != 2 or tuple(labels.shape) != (len(features),) or not features.shape[1]:
        shapes = f"{tuple(features.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"features must be (n, P) and labels (n,), got {shapes}; without an example (0, P) and (0,)")
    kind, of_labels = (
        x.dtype.name if isinstance(x, np.ndarray) else str(x.dtype).removeprefix("torch.") for x in (features, labels)
    )
    if kind not in DTYPE_NAMES:
        raise ValueError(
            f"features are {kind}, one of {', '.join(DTYPE_NAMES)} is needed: bfloat16 becomes float32 without a loss"
        )
    if not (labels.dtype.kind in "iu" if isinstance(labels, np.ndarray) else "int" in of_labels):
        raise ValueError(f"labels are {of_labels}, integers are needed")
    if of_labels == "uint64" and np.max(as_numpy(labels), initial=0) > LARGEST_LABEL:
        raise ValueError("a label is 2**63 or more: labels are kept as int64, number the classes from 0")
    return DTYPE_NAMES.index(kind)


def _check_rows(x: Any, name: str) -> None:
    """Raise ValueError for what does not lie as rows in the memory of this process, TypeError for what is no array."""
    namespace(x)
    check_unmasked(x, name)
    if hasattr(x, "to_local"):
        raise ValueError(f"{name} are a DTensor, of the rows of all processes: give {name}.to_local(), sharded by Shard(0)")
    if isinstance(x, Tensor) and x.layout is not torch.strided:
        raise ValueError(f"{name} are {x.layout}: a dense tensor is needed, which to_dense() makes")


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


def _shared_names(folder: Path, group: Processes) -> tuple[str, str]:
    """The names of the folder that process 0 has just made beside its own, and of its own. Raises ValueError where it cannot."""
    with raised_in_all(group):
        name = "" if group.rank else _made_beside(folder)
    name, of_first = broadcast_text(group, f"{name}/{folder.name}").split("/")
    return name, of_first


def _made_beside(folder: Path) -> str:
    """The name of a folder beside `folder`, just made. Raises ValueError where there can be none."""
    _check_free(folder)
    if not folder.parent.is_dir():
        raise ValueError(f"cannot write {folder}: there is no folder {folder.parent}; make it first (only a shell expands ~)")
    check_folder_writable(folder)
    remove_stale(folder.parent)
    name = temporary_name()
    try:
        folder.with_name(name).mkdir()
    except OSError as error:
        raise ValueError(f"cannot write {folder}: {reason_of(error)}") from error
    return name


def _check_shared(temporary: Path, folder: Path, of_first: str) -> None:
    """Raise ValueError where this process writes another folder than process 0, or the same path on a disk of its own."""
    if folder.name != of_first:
        raise ValueError(f"it is given {folder}, process 0 a folder called {of_first}: give all processes the same")
    check_seen(temporary)


def _check_free(folder: Path) -> None:
    if os.path.lexists(folder):
        raise ValueError(f"{folder} is there already: choose another name, or move it away")


def _write_folder(folder: Path, planner: "_RowsPlanner", group: Processes) -> None:
    writer = FileSystemWriter(folder, overwrite=False)
    if isinstance(group, TorchProcesses):
        with others_needed():
            save({}, storage_writer=writer, planner=planner, process_group=group.carrier)
    else:
        with warnings.catch_warnings():  # that one process alone writes, which is what was asked for
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            save({}, storage_writer=writer, planner=planner, no_dist=True)


def _failure(error: CheckpointException, folder: Path, rank: int) -> BaseException:
    """What to raise where torch has caught errors: Ctrl-C as it was in the process that got it, or ValueError with the first."""
    mine, _ = error.failures.get(rank, (None, None))
    if mine is not None and not isinstance(mine, Exception):
        return mine
    first, (reason, _) = min(error.failures.items())
    said = reason_of(reason) if isinstance(reason, Exception) else type(reason).__name__
    if "unexpected pos" in said:  # what torch makes of a write that took fewer bytes
        said = "the disk took less than was written; is it full?"
    return ValueError(f"cannot write {folder}: process {first} failed: {said}")


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
