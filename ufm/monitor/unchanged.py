"""Measuring without a trace: modes, random state and data order of the caller are afterwards what they were."""

import copy
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader


@contextmanager
def unchanged(model: nn.Module, *loaders: Iterable[Any]) -> Iterator[None]:
    """A block after which everything is as before, also after an error or an interrupt.

    That is: the train / eval flag of every module, requires_grad of every parameter, the random states of Python, numpy and torch
    (CPU and every CUDA device in use), and the generators of the loaders and of their samplers.
    """
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    generators = [(generator, generator.get_state()) for loader in loaders for generator in _generators(loader)]
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - the caller's, whoever draws from it
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, wanted in gradients:
            parameter.requires_grad_(wanted)
        for generator, state in generators:
            generator.set_state(state)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)


def batches_of(loader: Iterable[Any]) -> Iterator[Any]:
    """The batches of a loader. Workers that serve the caller's own loop are left to it: this one gets its own."""
    if isinstance(loader, DataLoader) and loader.persistent_workers:
        loader = copy.copy(loader)
        loader._iterator = None  # beginning again would take the caller's batches away in the middle of an epoch
    yield from loader


def _generators(loader: Iterable[Any]) -> list[torch.Generator]:
    """The distinct generators of a loader and of its samplers, however deep they are wrapped."""
    generators: dict[int, torch.Generator] = {}
    waiting: list[Any] = [loader]
    while waiting:
        holder = waiting.pop()
        generator = getattr(holder, "generator", None)
        if isinstance(generator, torch.Generator):
            generators[id(generator)] = generator
        waiting += [inner for name in ("batch_sampler", "sampler") if (inner := getattr(holder, name, None)) is not None]
    return list(generators.values())
