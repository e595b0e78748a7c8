"""Whether torch follows what is computed of a tensor: then it may not leave torch, nor be written in place."""

import torch
from torch._C._functorch import maybe_current_level
from torch._functorch import eager_transforms
from torch.autograd import forward_ad
from torch.compiler import is_compiling


def are_untracked(tensors: tuple[torch.Tensor, ...]) -> bool:
    """Whether torch records, traces and maps nothing of these now: neither backwards, forwards, nor in torch.func or compile."""
    if is_compiling() or forward_ad._current_level >= 0 or maybe_current_level() is not None:
        return False
    return not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))


def nested_forward_orders() -> int:
    """Where torch.func.jvp is inside another one: a bound on the order of all derivatives under way, less 1; else 0.

    Two backward passes outside torch.func are counted in.
    """
    return (maybe_current_level() or 0) + 1 if eager_transforms.JVP_NESTING > 1 else 0
