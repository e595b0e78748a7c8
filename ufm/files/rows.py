"""Rows of features on disk that processes read a share of each, in blocks: what shards and checkpoints have in common."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

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

    def files(self) -> tuple[str, ...]:
        """The files that are read."""
        ...

    def share(self, rank: int, size: int) -> range:
        """The rows of one of `size` processes."""
        ...

    def labels(self, part: range) -> Iterator[np.ndarray]:
        """The labels of rows `part`, in blocks (b,)."""
        ...

    def blocks(self, part: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Features (b, P) and labels (b,) of rows `part`, in blocks."""
        ...


def share_of(n: int, rank: int, size: int) -> range:
    """The rows of one of `size` processes that share n: as many as those of any other, to one."""
    return range(n * rank // size, n * (rank + 1) // size)
