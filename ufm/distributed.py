"""Processes that share one data set: the few reductions they need, over torch.distributed; one process alone needs no torch.

`torchrun --nproc_per_node K -m ufm.flow ...` starts them; arrays are numpy, float64 or int64, and come back equal in every bit.
"""

import os
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Protocol

import numpy as np

from ufm.arrays import as_numpy
from ufm.lost_process import others_needed

MESSAGE = 1024  # bytes of a text that the other processes are told


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

    def broadcast(self, values: np.ndarray, source: int) -> np.ndarray:
        """The values of process `source`, in all; they have one shape and dtype everywhere."""
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

    def broadcast(self, values: np.ndarray, source: int) -> np.ndarray:
        """The values."""
        del source
        return values


class TorchProcesses:
    """The processes of torch's default group; raises LostProcess where one of them is lost, or keeps the others waiting.

    `waiting` is how long they wait for each other where the default group cannot carry arrays of a CPU (NCCL) and gloo does.
    A default group that is there stays as it is, and carries what lies on a GPU; one that is made here is gloo's. `carrier` is
    torch's group that carries the arrays, None for the default one.
    """

    def __init__(self, waiting: timedelta | None = None) -> None:
        import torch.distributed as dist

        self._dist: Any = dist
        if not dist.is_initialized():
            _check_environment()
            with others_needed():
                _join(dist)
        carries = "cpu:" in dist.get_backend_config()  # whatever the group is called: "nccl", "cuda:nccl", "undefined"
        self.carrier: Any = None if carries else dist.new_group(backend="gloo", timeout=waiting)
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
                with others_needed():
                    self._dist.send(torch.from_numpy(values), self.rank - distance, self.carrier)
                break
            if self.rank + distance < self.size:
                other = torch.empty(values.shape, dtype=torch.from_numpy(values).dtype)
                with others_needed():
                    self._dist.recv(other, self.rank + distance, self.carrier)
                values = np.ascontiguousarray(combine(values, as_numpy(other)))
            distance *= 2
        return self.broadcast(values, 0)

    def broadcast(self, values: np.ndarray, source: int) -> np.ndarray:
        """The values of process `source`, in all; they have one shape and dtype everywhere."""
        import torch

        tensor = torch.from_numpy(np.array(values))
        with others_needed():
            self._dist.broadcast(tensor, source, self.carrier)
        return as_numpy(tensor)

    def _reduced(self, values: np.ndarray, operation: Any) -> np.ndarray:
        import torch

        tensor = torch.from_numpy(np.array(values))
        with others_needed():
            self._dist.all_reduce(tensor, operation, self.carrier)
        return as_numpy(tensor)


@contextmanager
def raised_in_all(group: Processes) -> Iterator[None]:
    """A block of a process's own work: where it raises in one of them all raise, and none waits for the lost one for ever.

    The others raise ValueError with the number of that process and the message of its error.
    """
    if group.size == 1:
        yield
        return
    caught: Exception | None = None
    try:
        yield
    except Exception as error:
        caught = error
    failed = int(group.smallest(np.array([group.size if caught is None else group.rank]))[0])
    if failed == group.size:
        return
    text = (str(caught) or type(caught).__name__).encode(errors="backslashreplace").decode()  # a name may be no text
    said = broadcast_text(group, text, failed).encode(errors="ignore").decode()  # cut off inside a letter
    wait_for_all(group)  # none leaves before the others have heard of it
    if caught is not None:
        raise caught
    raise ValueError(f"process {failed} failed: {said}")


def broadcast_text(group: Processes, text: str, source: int = 0) -> str:
    """The text of process `source`, in all: what fits into 1024 bytes of it."""
    letters = np.zeros(MESSAGE, dtype=np.int64)
    if group.rank == source:
        encoded = text.encode(errors="surrogateescape")[:MESSAGE]  # the name of a file may be no text
        letters[: len(encoded)] = list(encoded)
    letters = group.broadcast(letters, source)
    return bytes(letters[letters > 0].tolist()).decode(errors="surrogateescape")


def check_alike(group: Processes, facts: Mapping[str, object]) -> None:
    """Raise ValueError, in every process, with the names of the facts that are not the same text in all of them."""
    told = np.array([zlib.crc32(repr(value).encode(errors="surrogateescape")) for value in facts.values()], dtype=np.int64)
    differing = group.smallest(told) != -group.smallest(-told)
    if differing.any():
        names = ", ".join(name for name, other in zip(facts, differing, strict=True) if other)
        raise ValueError(f"the processes are given different {names}: start all of them by the same command")


def wait_for_all(group: Processes) -> None:
    """Return when every process has come so far: one that leaves earlier may break the last message to another.

    At the end of the work, where a lost process takes nothing with it: that is no error.
    """
    if group.size > 1:
        with suppress(RuntimeError):
            group.sum(np.zeros(1))


def processes() -> Processes:
    """Those of torch's default group, or that torchrun, or whoever sets WORLD_SIZE, has started; this one alone without."""
    return TorchProcesses() if world_size() > 1 or _joined() else OneProcess()


def _joined() -> bool:
    """Whether torch has a default group of several processes, as those that torch.multiprocessing.spawn has started make."""
    dist: Any = sys.modules.get("torch.distributed")
    return dist is not None and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """The number of processes that WORLD_SIZE tells, 1 without it. Raises ValueError where it is no such number."""
    return _environment_number("WORLD_SIZE", 1, 10**9, "the number of processes")


def _join(dist: Any) -> None:
    """Make the default group, gloo's. When torchrun starts again what was lost, its store still has the addresses of the lost."""
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt == "0":
        dist.init_process_group("gloo")
        return
    store, rank, size = next(dist.rendezvous("env://"))
    dist.init_process_group("gloo", store=dist.PrefixStore(f"restart {attempt}", store), rank=rank, world_size=size)


def _check_environment() -> None:
    """Raise ValueError where RANK or MASTER_PORT is no number that torch can use: it would wait, or not name the variable."""
    rank = _environment_number("RANK", 0, 10**9, "the number of this process, from 0")
    if rank >= world_size():
        raise ValueError(f"RANK = {rank}, and WORLD_SIZE = {world_size()}: ranks run from 0 to {world_size() - 1}")
    _environment_number("MASTER_PORT", 0, 2**16 - 1, "the port of process 0")


def _environment_number(name: str, smallest: int, largest: int, meaning: str) -> int:
    text = os.environ.get(name, str(smallest))
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and smallest <= int(text) <= largest):
        raise ValueError(f"{name} = {text!r} in the environment: it is {meaning}, as torchrun sets it; unset it for one process")
    return int(text)
