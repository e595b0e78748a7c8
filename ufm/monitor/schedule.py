"""What the callbacks of every training loop share: when to measure, on which examples, and where the measures go."""

import copy
import random
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from ufm.monitor import Watched
from ufm.monitor.batches import BatchT
from ufm.monitor.logs import CsvLog, Log, RunLog, whole

# the workers and the memory of a loader, which its pass in order has too
SETTINGS_KEPT = ("collate_fn", "num_workers", "worker_init_fn", "pin_memory", "timeout", "multiprocessing_context")


@dataclass(frozen=True)
class Schedule:
    """Measure every so many epochs, or at the epochs named (counted 1, 2, ...)."""

    every: int = 1
    epochs: Iterable[int] | None = None

    def __post_init__(self) -> None:
        if whole(self.every) < 1:
            raise ValueError(f"every = {self.every}: it must be at least 1")
        if self.epochs is None:
            return
        if not isinstance(self.epochs, Iterable):
            raise ValueError(
                f"epochs = {self.epochs!r}: they are a list, as epochs=[{self.epochs!r}]; every=2 is every second one"
            )
        epochs = tuple(whole(epoch) for epoch in self.epochs)
        if not epochs or min(epochs) < 1:
            raise ValueError(f"epochs = {epochs}: they are counted from 1")
        object.__setattr__(self, "epochs", epochs)

    def __contains__(self, epoch: int) -> bool:
        return epoch % self.every == 0 if self.epochs is None else epoch in self.epochs


def in_order(loader: Iterable[BatchT]) -> Iterable[BatchT]:
    """The examples that a loader draws from, each once and in order, this process's share; nothing of the loader is used up.

    A loader over an iterable dataset, one that makes its batches in a way of its own, or no DataLoader, is returned as it is.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or _own_batches(loader):
        return loader
    numbers = _drawn_from(loader)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)
    # without a batch sampler the dataset holds whole batches
    batch = loader.batch_size or (
        None if loader.batch_sampler is None else getattr(loader.batch_sampler, "batch_size", None) or 1
    )
    kept = {name: getattr(loader, name) for name in SETTINGS_KEPT}
    return DataLoader(Subset(loader.dataset, numbers[rank::world]), batch_size=batch, **kept)


def _own_batches(loader: DataLoader[Any]) -> bool:
    """Whether the batches are not what its dataset, samplers and `collate_fn` make them: another `__iter__`, lists of numbers."""
    own = type(loader).__iter__ is not DataLoader.__iter__ and not type(loader).__module__.startswith("accelerate.")
    return own or (loader.batch_sampler is None and isinstance(loader.sampler, BatchSampler))


def _drawn_from(loader: DataLoader[Any]) -> Sequence[Any]:
    """The numbers, or keys, of the examples that a loader can draw.

    Those of samplers other than torch's are what a copy of them draws once, in every process together.
    """
    batches: Any = loader.batch_sampler
    while type(batches) is not BatchSampler and hasattr(batches, "batch_sampler"):  # accelerate's wrappers
        batches = batches.batch_sampler
    sampler: Any = loader.sampler if batches is None else batches.sampler if type(batches) is BatchSampler else batches
    if isinstance(sampler, SubsetRandomSampler):
        return [int(k) for k in sampler.indices]
    if isinstance(sampler, WeightedRandomSampler):
        return torch.nonzero(sampler.weights > 0).flatten().tolist()
    if isinstance(sampler, SequentialSampler | RandomSampler):
        return range(len(sampler.data_source))
    if type(sampler) is DistributedSampler:
        return range(len(sampler.dataset))  # type: ignore[arg-type]
    return _once(sampler, loader.dataset)


def _once(sampler: Iterable[Any], dataset: object) -> list[Any]:
    """What a sampler draws, each once; numbers in ascending order. Its own state and the random states stay as they are."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - the caller's
    try:
        drawn = list(copy.deepcopy(sampler, {id(dataset): dataset}))
    except TypeError as error:
        raise ValueError(
            f"{type(sampler).__name__} cannot be copied ({error}): give loader=, whose examples are measured"
        ) from error
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
    flat: list[Any] = []
    for one in drawn:  # a number, or those of a batch
        flat.extend(one if isinstance(one, Sequence) and not isinstance(one, str) else [one])
    if dist.is_available() and dist.is_initialized():
        shares: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(shares, flat)
        flat = [k for share in shares for k in share]
    known = list(dict.fromkeys(int(k) if isinstance(k, np.integer | torch.Tensor) else k for k in flat))
    return sorted(known) if all(isinstance(k, int) for k in known) else known


def own_logs(logs: Sequence[Log], callback: object) -> Sequence[Log]:
    """The logs of a callback. Raises ValueError where another one writes to the same file: it would replace its epochs."""
    for log in logs:
        if isinstance(log, CsvLog | RunLog):
            log.own.claim(callback)
    return logs


def log_all(logs: Sequence[Log], epoch: int, watched: Watched, values: dict[str, float]) -> None:
    """Hand the measures of an epoch to every log; one that cannot take them says so in a warning, and the training goes on."""
    measurement = watched.known_measurement
    for log in logs:
        try:
            log(epoch, values, measurement)
        except (ValueError, OSError) as error:
            missing = next((why for name, why in watched.undefined.items() if name == "nc1"), "")
            reason = missing if measurement is None and missing else error
            warnings.warn(f"epoch {epoch} is not in {_name(log)}: {reason}", stacklevel=2)


def _name(log: Log) -> str:
    place = getattr(log, "path", None) or getattr(log, "folder", None)
    return type(log).__name__ if place is None else str(place)
