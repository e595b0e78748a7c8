"""What the callbacks of every training loop share: when to measure, on which examples, and where the measures go."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch.utils.data import DataLoader, IterableDataset, Subset, SubsetRandomSampler

from ufm.monitor import Watched
from ufm.monitor.logs import Log


@dataclass(frozen=True)
class Schedule:
    """Measure every so many epochs, or at the epochs named (counted 1, 2, ...)."""

    every: int = 1
    epochs: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every = {self.every}: it must be at least 1")

    def __contains__(self, epoch: int) -> bool:
        return epoch % self.every == 0 if self.epochs is None else epoch in self.epochs


def in_order(loader: Iterable[Any]) -> Iterable[Any]:
    """The examples that a loader draws from, each once and in order, this process's share; nothing of the loader is used up.

    A loader over an iterable dataset, or no DataLoader, is returned as it is.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return loader
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    size: Any = loader.dataset
    numbers = [int(k) for k in sampler.indices] if isinstance(sampler, SubsetRandomSampler) else range(len(size))
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)
    # without a batch sampler the dataset holds whole batches
    batch = loader.batch_size or (None if loader.batch_sampler is None else getattr(loader.batch_sampler, "batch_size", 1))
    return DataLoader(Subset(loader.dataset, numbers[rank::world]), batch_size=batch, collate_fn=loader.collate_fn)


def log_all(logs: Sequence[Log], epoch: int, watched: Watched, values: dict[str, float]) -> None:
    """Hand the measures of an epoch to every log."""
    for log in logs:
        log(epoch, values, watched.known_measurement)
