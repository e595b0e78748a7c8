"""A classifier whose weight lies in pieces in several processes: refused, since every decision needs all of it."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch import Tensor

SHARDED = (
    "the weight of the classifier is sharded over processes (FSDP, tensor parallelism, ZeRO), and every prediction needs the "
    "whole weight: leave the last layer out of the sharding (ignored_params of fully_shard, ignored_modules of "
    "FullyShardedDataParallel), or give the features to NeuralCollapse.update with classifier=(W, b), both gathered once a "
    "pass by all processes, as W = layer.weight.full_tensor()"
)


class ShardedWeights(ValueError):
    """The classifier is not whole in this process."""


def check_unsharded(W: Tensor, of_layer: bool = False) -> None:
    """Raise ShardedWeights for a DTensor, and of a layer for floats that are no matrix: a flat or an empty piece of one."""
    if hasattr(W, "full_tensor") or (of_layer and W.is_floating_point() and W.ndim != 2):
        raise ShardedWeights(SHARDED)


@contextmanager
def no_end_by_sharding(stop: Callable[[], None]) -> Iterator[None]:
    """A block of a callback: where the classifier is sharded, `stop` is called and process 0 warns; the training goes on."""
    try:
        yield
    except ShardedWeights as error:  # in every process, so that none waits for the others
        stop()
        if not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0:
            warnings.warn(f"nothing is measured in this training: {error}", stacklevel=4)
