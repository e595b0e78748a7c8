"""Processes that share one data set: the few reductions they need, over torch.distributed; one process alone needs no torch.

`torchrun --nproc_per_node K -m ufm.flow ...` starts them; arrays are numpy, float64 or int64, and come back equal in every bit.
"""

import os
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ufm.arrays import as_numpy


class Processes(Protocol):
    """`size` processes, this one of number `rank`."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum over all processes, entry by entry."""
        ...

    def smallest(self, values: np.ndarray) -> np.ndarray:
        """The smallest over all processes, entry by entry."""
        ...

    def combined(self, values: np.ndarray, combine: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        """`combine` applied pairwise up a tree, in the order of the ranks; values and result have one shape."""
        ...


class OneProcess:
    """A process on its own."""

    rank, size = 0, 1

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The values."""
        return values

    def smallest(self, values: np.ndarray) -> np.ndarray:
        """The values."""
        return values

    def combined(self, values: np.ndarray, combine: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        """The values."""
        del combine
        return values


class TorchProcesses:
    """The processes of torch's default group; raises RuntimeError where one of them is lost."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self._dist: Any = dist
        if not dist.is_initialized():
            dist.init_process_group("gloo")
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum over all processes, entry by entry."""
        return self._reduced(values, self._dist.ReduceOp.SUM)

    def smallest(self, values: np.ndarray) -> np.ndarray:
        """The smallest over all processes, entry by entry."""
        return self._reduced(values, self._dist.ReduceOp.MIN)

    def combined(self, values: np.ndarray, combine: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        """`combine` applied pairwise up a tree, in the order of the ranks: log2(size) messages, then one to all."""
        import torch

        values = np.ascontiguousarray(values)
        distance = 1
        while distance < self.size and self.rank % distance == 0:
            if self.rank % (2 * distance):
                self._dist.send(torch.from_numpy(values), self.rank - distance)
                break
            if self.rank + distance < self.size:
                other = torch.empty(values.shape, dtype=torch.from_numpy(values).dtype)
                self._dist.recv(other, self.rank + distance)
                values = np.ascontiguousarray(combine(values, as_numpy(other)))
            distance *= 2
        whole = torch.from_numpy(values.copy())
        self._dist.broadcast(whole, 0)
        return as_numpy(whole)

    def _reduced(self, values: np.ndarray, operation: Any) -> np.ndarray:
        import torch

        tensor = torch.from_numpy(np.array(values))
        self._dist.all_reduce(tensor, operation)
        return as_numpy(tensor)


def processes() -> Processes:
    """Those that torchrun, or whoever sets WORLD_SIZE, has started; this one alone without."""
    return TorchProcesses() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else OneProcess()
