"""Rows that wait on their device until there are enough of them for one matrix product, and a copy of all rows on disk."""

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from ufm.arrays import as_numpy
from ufm.files.spool import FeatureSpool

LEAST, MOST = 2048, 16384  # rows at a time


class WaitingRows:
    """Room for so many rows (m, P) in float64 and their labels; the device is asked for nothing when rows come in."""

    def __init__(self, room: int, like: Tensor, labels: Tensor) -> None:
        self._rows = torch.empty(room, like.shape[1], dtype=torch.float64, device=like.device)
        self._labels = torch.empty(room, *labels.shape[1:], dtype=labels.dtype, device=like.device)
        self.dtype, self._count = like.dtype, 0

    @property
    def P(self) -> int:
        """Number of features."""
        return self._rows.shape[1]

    def add(self, rows: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Take rows in; yields whatever became full, to be used before the next one is asked for."""
        taken, room = 0, len(self._rows)
        while taken < len(rows):
            step = min(len(rows) - taken, room - self._count)
            into, out_of = slice(self._count, self._count + step), slice(taken, taken + step)
            self._rows[into], self._labels[into] = rows[out_of], labels[out_of]
            taken, self._count = taken + step, self._count + step
            if self._count == room:
                yield from self.rest()

    def rest(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What waits, which waits no longer."""
        count, self._count = self._count, 0
        if count:
            yield self._rows[:count], self._labels[:count]


class StoredRows:
    """The rows on disk in the precision in which they came, for the measures that need the class means first."""

    def __init__(self, scratch: Path | None, dtype: torch.dtype) -> None:
        self._spool = FeatureSpool(scratch)
        weakref.finalize(self, self._spool.__exit__, None, None, None)
        self.dtype = dtype if dtype in (torch.float32, torch.float64) else torch.float32
        self.count = 0

    def add(self, rows: Tensor, labels: Tensor) -> None:
        """Store rows (n, P) with labels (n,)."""
        self._spool.append(as_numpy(rows.to(self.dtype)), as_numpy(labels))
        self.count += len(rows)

    def chunks(self, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Everything stored, so many rows at a time: float64 rows (n, P) and labels (n,), on the CPU."""
        start = 0
        for chunk in self._spool.chunks(rows):
            yield torch.from_numpy(chunk).double(), torch.from_numpy(self._spool.labels[start : start + len(chunk)].copy())
            start += len(chunk)

    def extend(self, other: "StoredRows") -> None:
        """Store what the other has stored."""
        for rows, labels in other.chunks(LEAST):
            self.add(rows, labels)

    def sum_of(self, summand: Callable[[Tensor, Tensor], Tensor], start: Tensor) -> Tensor:
        """Start plus the summand of all chunks of rows and labels, on the device of start."""
        for rows, labels in self.chunks(LEAST):
            start = start + summand(rows.to(start.device), labels.to(start.device))
        return start
