"""Features of several processes as a folder of torch.distributed.checkpoint: written by some, read by any number of others.

The folder holds two tensors, `features` (n, P) and `labels` (n,), in pieces of whole rows; `torch.distributed.checkpoint.load`
reads it into tensors and DTensors of these names.
"""

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, LoadPlan, ReadItem
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadItemType

from ufm.arrays import as_numpy
from ufm.distributed import OneProcess, Processes, raised_in_all
from ufm.files.archive import check_memory, reason_of
from ufm.files.checkpoint_description import METADATA, DescriptionReader, whole_rows
from ufm.files.rows import share_of

NUMPY_DTYPES = {torch.float16: np.float16, torch.float32: np.float32, torch.float64: np.float64}
LABEL_DTYPES = (torch.uint8, torch.uint16, torch.uint32, torch.int8, torch.int16, torch.int32, torch.int64)
RowPieces = list[tuple[int, int]]  # first row and number of rows, in order


@dataclass(frozen=True, eq=False)
class CheckpointRows:
    """The rows of a checkpoint, whichever number of processes wrote it: n of P features, in the folder `path`."""

    path: Path
    n: int
    P: int
    dtype: np.dtype[Any]
    reader: DescriptionReader
    pieces: dict[str, RowPieces]

    @classmethod
    def of(cls, folder: Path | str) -> "CheckpointRows":
        """The rows of a folder. Only what describes its tensors is read.

        Raises ValueError where it is no checkpoint, was not written to its end, or lacks features (n, P) or labels (n,).
        """
        path = Path(folder)
        reader = DescriptionReader(path)
        metadata = reader.read_metadata()
        reader.set_up_storage_reader(metadata, True)
        try:
            return cls._described(path, reader, metadata)
        except ValueError:
            raise
        except Exception as error:  # what is damaged raises anything
            raise ValueError(f"cannot read {path / METADATA}: {reason_of(error)}") from error

    @classmethod
    def _described(cls, path: Path, reader: DescriptionReader, metadata: Metadata) -> "CheckpointRows":
        """The rows that a description tells of."""
        tensors: dict[str, TensorStorageMetadata] = {}
        pieces: dict[str, RowPieces] = {}
        for name in ("features", "labels"):
            tensors[name], pieces[name] = whole_rows(metadata, name, path)
        shape, of_labels = (tuple(tensor.size) for tensor in tensors.values())
        if len(shape) != 2 or of_labels != shape[:1] or not shape[1]:
            raise ValueError(f"{path}: features must be (n, P) and labels (n,), got {shape} and {of_labels}")
        kind, of_labels = (tensor.properties.dtype for tensor in tensors.values())
        if kind not in NUMPY_DTYPES or of_labels not in LABEL_DTYPES:
            raise ValueError(
                f"{path}: features are {kind}, labels {of_labels}; {', '.join(map(str, NUMPY_DTYPES))} and integers of at most "
                "63 bits are read: save bfloat16 as float32, which loses nothing, and classes as int64"
            )
        return cls(path, *shape, np.dtype(NUMPY_DTYPES[kind]), reader, pieces)

    @property
    def where(self) -> str:
        """What they lie in, in words."""
        return "a checkpoint"

    @property
    def described(self) -> str:
        """What is alike wherever the same rows are read."""
        names = sorted({place.relative_path for place in self.reader.storage_data.values()})
        return f"{names} {self.pieces} {self.dtype.name}"

    def files(self) -> tuple[str, ...]:
        """The files that are read."""
        stored = {place.relative_path for place in self.reader.storage_data.values()}
        return tuple(str(self.path / name) for name in sorted({METADATA, *stored}))

    def place(self, row: int) -> str:
        """Where a row lies, in words."""
        return f"row {row} of {self.path}"

    def share(self, rank: int, size: int) -> range:
        """The rows of one of `size` processes: as many as those of any other, to one."""
        return share_of(self.n, rank, size)

    def labels(self, part: range) -> Iterator[np.ndarray]:
        """The labels of rows `part`, piece by piece. (b,)"""
        for _, rows in self._inside("labels", part):
            yield self._read("labels", rows)

    def blocks(self, part: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Features (b, P) and labels (b,) of rows `part`, piece by piece. Raises ValueError for a damaged file."""
        for _, rows in self._inside("features", part):
            yield self._read("features", rows), self._read("labels", rows)

    def _inside(self, name: str, part: range) -> Iterator[tuple[int, range]]:
        """The first row of every piece that has some of rows `part`, and which."""
        pieces = self.pieces[name]
        begin = bisect.bisect_right(pieces, part.start, key=lambda piece: piece[0]) - 1
        for first, count in pieces[max(begin, 0) :]:
            if first >= part.stop:
                return
            yield first, range(max(first, part.start), min(first + count, part.stop))

    def _read(self, name: str, part: range) -> np.ndarray:
        """Rows `part` of a tensor, labels as int64."""
        columns = [self.P] if name == "features" else []
        zeros = [0] * len(columns)
        items = [
            ReadItem(
                LoadItemType.TENSOR,
                MetadataIndex(name),
                dest_offsets=torch.Size([rows.start - part.start, *zeros]),
                storage_index=MetadataIndex(name, torch.Size([first, *zeros])),
                storage_offsets=torch.Size([rows.start - first, *zeros]),
                lengths=torch.Size([len(rows), *columns]),
            )
            for first, rows in self._inside(name, part)
        ]
        try:
            target = torch.from_numpy(np.empty([len(part), *columns], self.dtype if columns else np.int64))
            self.reader.read_data(LoadPlan(items), _IntoRows(target)).wait()
        except Exception as error:  # what is damaged raises anything
            raise ValueError(f"cannot read the {name} of {self.path}: {reason_of(error)}") from error
        return as_numpy(target)


def load_rows(folder: Path | str, group: Processes | None = None) -> tuple[np.ndarray, np.ndarray]:
    """This process's share of a checkpoint: features (m, P) and labels (m,) as int64, every byte as it was saved.

    The n rows are shared among any number of processes, in their order, to one as many each. Raises ValueError, in every
    process, for what `CheckpointRows.of` refuses, and where one of them cannot read its share.
    """
    group = group or OneProcess()
    with raised_in_all(group):
        rows = CheckpointRows.of(folder)
        mine = rows.share(group.rank, group.size)
        _check_fits(rows, len(mine))
        features, labels, filled = np.empty((len(mine), rows.P), rows.dtype), np.empty(len(mine), np.int64), 0
        for block, of_block in rows.blocks(mine):
            features[filled : filled + len(block)], labels[filled : filled + len(block)] = block, of_block
            filled += len(block)
    return features, labels


def _check_fits(rows: CheckpointRows, count: int) -> None:
    """Raise ValueError where so many rows do not fit into memory."""
    try:
        check_memory({"features": count * rows.P * rows.dtype.itemsize, "labels": count * 8})
    except ValueError as error:
        raise ValueError(f"{rows.path}: {error}; read blocks of it (CheckpointRows.blocks), or start more processes") from error


class _IntoRows(DefaultLoadPlanner):
    """Reads into the rows of one tensor."""

    def __init__(self, target: torch.Tensor) -> None:
        super().__init__()
        self.target = target

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        """The rows that an item fills."""
        first = read_item.dest_offsets[0]
        return self.target[first : first + read_item.lengths[0]]
