"""Measuring without a trace: modes, random state and data order of the caller are afterwards what they were."""

import copy
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from ufm.monitor.batches import BatchT
from ufm.monitor.layers import evaluation_mode

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
# attributes that lead from a loader to what draws
HOLDERS = (
    *("batch_sampler", "sampler", "dataset", "datasets", "data_source", "collate_fn"),
    *("transform", "transforms", "target_transform", "augment", "augmentation"),
)


@contextmanager
def unchanged(model: nn.Module, *loaders: Iterable[object]) -> Iterator[None]:
    """A block after which everything is as before, also after an error or an interrupt.

    That is: the train / eval flag of every module, requires_grad of every parameter, the random states of Python, numpy and torch
    (CPU and every CUDA device in use), and those of the generators that lie in attributes of the loaders, their samplers, data
    sets, transforms and collate functions. Inside, every module is in evaluation mode, and compiled networks run as they are
    written, since a compiled one that ran before calls no hooks.
    """
    gradients = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with ExitStack() as stack:  # which undoes whatever can be undone, though one of them raises
        for parameter, wanted in gradients:
            stack.callback(_restore_gradient, parameter, wanted)
        for loader in loaders:
            for restore in _restorers(loader):
                stack.callback(restore)
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002 - the caller's, whoever draws from it
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            stack.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
        stack.enter_context(evaluation_mode(model))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def _restore_gradient(parameter: nn.Parameter, wanted: bool) -> None:
    if parameter.requires_grad != wanted:  # a tensor of inference mode refuses to be told what it is
        parameter.requires_grad_(wanted)


def batches_of(loader: Iterable[BatchT]) -> Iterator[BatchT]:
    """The batches of a loader. Workers that serve the caller's own loop are left to it: this one gets its own."""
    if isinstance(loader, DataLoader) and loader.persistent_workers:
        loader = copy.copy(loader)
        loader._iterator = None  # beginning again would take the caller's batches away in the middle of an epoch
    yield from loader


def _restorers(loader: Iterable[object]) -> list[Callable[[], object]]:
    """What puts every generator that a loader draws from back into its present state, however deep it is wrapped."""
    restorers: list[Callable[[], object]] = []
    waiting: list[object] = [loader]
    seen: dict[int, object] = {}  # kept, so that no number is given twice
    while waiting:
        holder = waiting.pop()
        if id(holder) in seen:
            continue
        seen[id(holder)] = holder
        restore = _restorer(holder)
        if restore is not None:
            restorers.append(restore)
            continue
        inside: dict[str, object] = getattr(holder, "__dict__", {})
        waiting += [value for name, value in inside.items() if name in HOLDERS or isinstance(value, GENERATORS)]
        if isinstance(holder, (list, tuple)):
            waiting += holder
    return restorers


def _restorer(generator: object) -> Callable[[], object] | None:
    if isinstance(generator, torch.Generator):
        return partial(generator.set_state, generator.get_state())
    if isinstance(generator, random.Random):
        return partial(generator.setstate, generator.getstate())
    if isinstance(generator, np.random.RandomState):
        return partial(generator.set_state, generator.get_state())
    if isinstance(generator, np.random.Generator):
        return partial(setattr, generator.bit_generator, "state", generator.bit_generator.state)
    return None
