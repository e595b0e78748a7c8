"""Whether an operation is affine: by its definition, or by what it does to the means of pairs of examples."""

import torch
from torch import Tensor, nn

AFFINE = frozenset((nn.Identity, nn.Flatten, nn.Unflatten, nn.Linear, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
AFFINE |= {nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d}
AFFINE |= {nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d}
BATCH_NORMS = frozenset((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d))


def affine_by_definition(module: nn.Module) -> bool:
    """A layer of torch itself, in evaluation mode, without hooks or another forward, that is an affine map whatever the data."""
    if has_hooks(module) or "forward" in vars(module):
        return False
    return type(module) in AFFINE or (type(module) in BATCH_NORMS and module.running_mean is not None)


def has_hooks(module: nn.Module) -> bool:
    """Whether forward hooks may change what the module does."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def agree(a: Tensor, b: Tensor) -> bool:
    """Whether a and b have one shape, and differ by sqrt(eps) of a feature's largest number at most, and eps of all features'.

    By feature, since a nonlinearity of small features is small beside a large one.
    """
    if a.shape != b.shape or not a.numel():
        return a.shape == b.shape
    eps, largest = torch.finfo(a.dtype).eps, a.abs().amax(0)
    return bool(((a - b).abs() <= eps**0.5 * largest + eps * largest.max()).all())
