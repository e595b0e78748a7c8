"""The examples of a split on their device, and the batches of an epoch."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sims.training.data import Normalizer
from sims.training.readers import Split

EVALUATION_BATCH = 256


@dataclass(frozen=True, eq=False)
class Examples:
    """A split on its device, bytes until a batch is asked for."""

    images: Tensor
    labels: Tensor
    normalizer: Normalizer

    @classmethod
    def of(cls, split: Split, normalizer: Normalizer, device: torch.device) -> "Examples":
        """The split moved to a device."""
        images, labels = torch.from_numpy(split.images).to(device), torch.from_numpy(split.labels).to(device)
        return cls(images, labels, normalizer.to(device))

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Network inputs and labels of some examples."""
        return self.normalizer(self.images[indices]), self.labels[indices]

    def in_order(self, rank: int = 0, size: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Everything once, for measuring; or the share of process `rank` of `size`: whole batches, each as it is for one."""
        starts = np.arange(0, len(self.labels), EVALUATION_BATCH)
        for start in np.array_split(starts, size)[rank].tolist():
            window = slice(start, start + EVALUATION_BATCH)
            yield self.normalizer(self.images[window]), self.labels[window]


def epoch_batches(
    n: int, batch_size: int, seed: int, epoch: int, processes: int = 1, drop_last: bool = False
) -> list[np.ndarray]:
    """The shuffled batches of an epoch, a function of seed and epoch. A last one of under two examples a process is left out.

    (Batch normalisation cannot train on one example.) With `drop_last` so is any short one that is
    not the only one.
    """
    order = np.random.default_rng((seed, epoch)).permutation(n)
    batches = [order[start : start + batch_size] for start in range(0, n, batch_size)]
    least = max(min(batch_size, n) if drop_last else 0, 2 * processes)
    return [batch for batch in batches if len(batch) >= least]
