"""Rows that wait on their device until there are enough of them for one matrix product, and a copy of all rows on disk."""

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from ufm.arrays import as_numpy
from ufm.files.spool import FeatureSpool

LEAST, MOST = 4096, 16384  # rows that wait for one product
READ_AT_A_TIME = 2048  # rows
IN_MEMORY = 2**26  # bytes of rows


class WaitingRows:
    """A buffer of so many rows (m, P) and their labels; the device is asked for nothing when rows come in.

    The rows wait as they are. `deviations` (m, P) is a float64 buffer, kept, since fresh memory costs more than the work.
    """

    def __init__(self, capacity: int, like: Tensor, labels: Tensor) -> None:
        self._rows = torch.empty(capacity, like.shape[1], dtype=like.dtype, device=like.device)
        self._labels = torch.empty(capacity, *labels.shape[1:], dtype=labels.dtype, device=like.device)
        self.deviations = torch.empty_like(self._rows, dtype=torch.float64)
        self._count = 0

    @property
    def dtype(self) -> torch.dtype:
        """That of the rows."""
        return self._rows.dtype

    @property
    def P(self) -> int:
        """Number of features."""
        return self._rows.shape[1]

    def add(self, rows: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Take rows in; yields whatever became full, to be used before the next one is asked for."""
        taken, capacity = 0, len(self._rows)
        while taken < len(rows):
            step = min(len(rows) - taken, capacity - self._count)
            into, out_of = slice(self._count, self._count + step), slice(taken, taken + step)
            self._rows[into], self._labels[into] = rows[out_of], labels[out_of]
            taken, self._count = taken + step, self._count + step
            if self._count == capacity:
                yield from self.rest()

    def rest(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What waits, which waits no longer."""
        count, self._count = self._count, 0
        if count:
            yield self._rows[:count], self._labels[:count]


class StoredRows:
    """The rows as they came, for the measures that need the class means first: 64 MB in memory, what is more on disk.

    Rows of float64 are kept so, all others in float32, whatever came before them.
    """

    def __init__(self, scratch: Path | None) -> None:
        self._scratch = scratch
        self._spools: dict[torch.dtype, FeatureSpool] = {}
        self._first: list[tuple[Tensor, Tensor]] = []
        self._size = 0  # bytes
        self.count = 0

    def add(self, rows: Tensor, labels: Tensor) -> None:
        """Store rows (n, P) with labels (n,)."""
        dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
        self.count, self._size = self.count + len(rows), self._size + rows.numel() * dtype.itemsize
        if self._size <= IN_MEMORY:
            self._first.append((rows.to("cpu", dtype, copy=True), labels.to("cpu", copy=True)))
            return
        if dtype not in self._spools:
            self._spools[dtype] = FeatureSpool(self._scratch)
            weakref.finalize(self, self._spools[dtype].__exit__, None, None, None)
        self._spools[dtype].append(as_numpy(rows.to(dtype)), as_numpy(labels))

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Everything stored, two thousand rows at a time: rows (n, P) and labels (n,), on the CPU."""
        for rows, labels in self._first:
            yield from zip(rows.split(READ_AT_A_TIME), labels.split(READ_AT_A_TIME), strict=True)
        for spool in self._spools.values():
            start = 0
            for chunk in spool.chunks(READ_AT_A_TIME):
                yield torch.from_numpy(chunk), torch.from_numpy(spool.labels[start : start + len(chunk)].copy())
                start += len(chunk)

    def extend(self, other: "StoredRows") -> None:
        """Store what the other has stored."""
        for rows, labels in other.chunks():
            self.add(rows, labels)

    def sum_of(self, summand: Callable[[Tensor, Tensor], Tensor], start: Tensor) -> Tensor:
        """Start plus the summand of all chunks of rows and labels, on the device of start."""
        for rows, labels in self.chunks():
            start = start + summand(rows.to(start.device), labels.to(start.device))
        return start
