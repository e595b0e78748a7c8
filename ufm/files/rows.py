"""Rows of features on disk that processes read a share of each, in blocks: what shards and checkpoints have in common."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ufm.arrays import NUMBERED

BLOCK_NUMBERS = 1 << 21  # numbers in a block of features: 16 MB of float64


class SharedRows(Protocol):
    """n examples of P features and their labels; only blocks of them are in memory."""

    @property
    def n(self) -> int:
        """Number of examples."""
        ...

    @property
    def P(self) -> int:
        """Number of features."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """What all features fit in."""
        ...

    @property
    def where(self) -> str:
        """What they lie in, in words."""
        ...

    @property
    def described(self) -> str:
        """What is alike wherever the same rows are read: names without folders, rows, dtype."""
        ...

    def files(self) -> tuple[str, ...]:
        """The files that are read."""
        ...

    def place(self, row: int) -> str:
        """Where a row lies, in words."""
        ...

    def share(self, rank: int, size: int) -> range:
        """The rows of one of `size` processes."""
        ...

    def labels(self, part: range) -> Iterator[np.ndarray]:
        """The labels of rows `part` as int64, in blocks (b,)."""
        ...

    def blocks(self, part: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Features (b, P) and labels (b,) of rows `part`, in blocks."""
        ...


def share_of(n: int, rank: int, size: int) -> range:
    """The rows of one of `size` processes that share n: as many as those of any other, to one."""
    return range(n * rank // size, n * (rank + 1) // size)


def check_kinds(path: Path, of_features: np.dtype[np.generic], of_labels: np.dtype[np.generic]) -> None:
    """Raise ValueError unless features are floats and labels integers, with what makes them so."""
    if of_features.kind == "f" and of_labels.kind in "iu":
        return
    if of_features.kind == "V":  # how numpy stores the bfloat16 of others
        way_out = "save bfloat16 as float32, which loses nothing"
    elif of_features.kind != "f":
        way_out = "save features.astype('float64')"
    else:
        way_out = "save labels.astype('int64')" if of_labels.kind in "fb" else NUMBERED
    raise ValueError(f"{path}: features are {of_features}, labels {of_labels}; floats and integers are needed: {way_out}")
