"""Rows of a data set on disk that a process holds as columns in class blocks: which they are, and the way between both orders."""

import hashlib
from dataclasses import dataclass

import numpy as np

from manifolds.representation import short_repr
from ufm.distributed import Processes
from ufm.files.rows import BLOCK_NUMBERS, SharedRows

HALF = 1 << 32


@dataclass(frozen=True, eq=False, repr=False)
class HeldRows:
    """The rows `part` of all, and the number among all rows of every column (columns,)."""

    part: range
    numbers: np.ndarray
    __repr__ = short_repr

    def as_rows(self, columns: np.ndarray) -> np.ndarray:
        """What belongs to every column (columns, ...), in the order of the rows."""
        rows = np.empty_like(columns, order="C")
        rows[self.numbers - self.part.start] = columns
        return rows


def columns_of(rows: SharedRows, part: range, C: int) -> tuple[np.ndarray, np.ndarray, HeldRows]:
    """The features of rows `part` in class blocks (P, columns), their classes (columns,), and which row every column is."""
    held = np.zeros(C, dtype=np.int64)
    for labels in rows.labels(part):
        held += np.bincount(labels.astype(np.int64), minlength=C)
    H, numbers = np.empty((rows.P, len(part)), dtype=rows.dtype), np.empty(len(part), dtype=np.int64)
    classes, place, first = np.repeat(np.arange(C), held), np.cumsum(held) - held, part.start
    for features, labels in rows.blocks(part):
        order = np.argsort(labels, kind="stable")
        counts = np.bincount(labels.astype(np.int64), minlength=C)
        before = np.repeat(np.cumsum(counts) - counts, counts)  # of the block, in classes of smaller number
        where = place[labels[order]] + np.arange(len(labels)) - before
        H[:, where], numbers[where] = features[order].T, first + order
        place += counts
        first += len(labels)
    return H, classes, HeldRows(part, numbers)


def digest_of(H: np.ndarray, labels: np.ndarray, numbers: np.ndarray, group: Processes) -> str:
    """A digest of the rows of all processes, whichever of them holds which.

    The sum mod 2^64 of the SHA-256 of every row's number, label and features; H (P, columns), labels and numbers (columns,).
    Incremental hashing: Bellare and Micciancio (1997).
    """
    total, step = 0, max(1, BLOCK_NUMBERS // max(len(H), 1))
    for first in range(0, len(labels), step):
        block = slice(first, first + step)
        rows = np.ascontiguousarray(H[:, block].T)
        for row, label, number in zip(rows, labels[block].tolist(), numbers[block].tolist(), strict=True):
            total += int.from_bytes(hashlib.sha256(f"{number} {label} ".encode() + row.tobytes()).digest()[:8], "little")
    halves = group.sum(np.array([total % HALF, total // HALF % HALF], dtype=np.int64)).tolist()
    return f"{(halves[0] + HALF * halves[1]) % HALF**2:016x}"
