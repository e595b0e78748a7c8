"""A model that is as it was after the ledger has run it: modes, buffers, random generators, attributes."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode without gradients; afterwards every mode, buffer and random generator is as it was."""
    modes = {module: module.training for module in model.modules()}
    buffers = [(module, name, b, b.clone()) for module in modes for name, b in module._buffers.items() if b is not None]
    python, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        for module, name, buffer, value in buffers:  # a forward may count, in place or by another tensor
            module._buffers[name] = buffer
            if not torch.equal(buffer, value):  # what is written to without need spoils a backward pass that is under way
                with torch.no_grad():
                    buffer.copy_(value)
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)
        if devices:
            torch.cuda.set_rng_state_all(devices)


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """What a forward stores on its modules while it is traced is undone."""
    saved = {module: dict(module.__dict__) for module in model.modules()}
    try:
        yield
    finally:
        for module, attributes in saved.items():
            module.__dict__.clear()
            module.__dict__.update(attributes)
