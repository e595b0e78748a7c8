"""Statistics of batch normalisation that the processes which train one network share, on gloo (CPU) as on NCCL (GPU).

torch's SyncBatchNorm is for GPUs alone; the one here has the names of torch's BatchNorm for parameters and buffers, and its
checkpoints.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


class SynchronizedBatchNorm(_BatchNorm):
    """y = weight (x - mean) / sqrt(var + eps) + bias, moments of each channel over the examples of all processes.

    x is (b, C) or (b, C, ...), b may differ between processes and be 0; all of them go through it in the same order, forwards and
    backwards. Running statistics, evaluation mode, and one process: as torch's (Ioffe & Szegedy 2015). Raises ValueError, in
    every process, where all together have one value a channel.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"batch normalisation takes x of (b, C) or (b, C, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise x, in training mode by the batch of all processes."""
        processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if processes == 1 or not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        n, mean, var = _moments_over_processes(input.detach(), processes)
        if n < 2:
            raise ValueError(f"{n} values a channel in all processes: training needs more than 1")
        self._take_in(n, mean, var)
        return _NormalizedTogether.apply(input, self.weight, self.bias, mean, var, n, self.eps)

    @torch.no_grad()
    def _take_in(self, n: int, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics: the mean, and the unbiased variance."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_((var * n / (n - 1)).to(self.running_var.dtype), share)


TORCH_NORMS = (SynchronizedBatchNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def synchronized(model: nn.Module) -> nn.Module:
    """The same model, its batch normalisations over all processes: parameters, buffers and hooks stay.

    Raises ValueError, before it changes anything, for one that is not of torch's own classes, of which it would lose something.
    """
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    for name, norm in norms.items():
        of_its_own = [what for what in ("forward", "process_group") if vars(norm).get(what) is not None]
        if type(norm) not in TORCH_NORMS or of_its_own:
            kind = " with a ".join([type(norm).__name__, *of_its_own])
            raise ValueError(f"{name} is a {kind}: torch's own BatchNorm1d, 2d and 3d alone can be synchronized")
    for norm in norms.values():
        norm.__class__ = SynchronizedBatchNorm  # a new object would have none of the hooks, nor those who hold the old one
    return model


def share_running_statistics(model: nn.Module) -> None:
    """Give all processes the buffers of process 0."""
    for buffer in model.buffers():
        dist.broadcast(buffer, 0)


def _moments_over_processes(x: Tensor, processes: int) -> tuple[int, Tensor, Tensor]:
    """Examples, mean and variance of every channel over all processes, float64, the same bits in all. One message of 2 C + 1.

    Each process's centred squares are merged by the formulas of Chan, Golub & LeVeque (1983): nothing cancels.
    """
    others, mine = [0, *range(2, x.ndim)], x.numel() // x.shape[1]
    wide = x.float() if x.dtype.itemsize < 4 else x
    own = wide.new_zeros(2 * x.shape[1] + 1, dtype=torch.float64)
    if mine:
        var, mean = torch.var_mean(wide, others, correction=0)
        own[0], own[1:] = mine, torch.cat([mean, var])
    told = [torch.empty_like(own) for _ in range(processes)]
    dist.all_gather(told, own)
    counts, means, variances = torch.stack(told).split([1, x.shape[1], x.shape[1]], 1)
    weights = counts[:, 0] / counts.sum()
    mean = weights @ means
    return int(counts.sum()), mean, weights @ (variances + (means - mean).square())


class _NormalizedTogether(torch.autograd.Function):
    """The normalisation by given moments of all n values, and its derivative, in which every x moves the moments of all."""

    @staticmethod
    def forward(  # type: ignore[bad-override]  # torch declares forward(*args, **kwargs)
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, n: int, eps: float
    ) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        mean, var = mean.to(dtype), var.to(dtype)
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt())
        ctx.n = n
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[bad-override]
        """dL/dx = weight (g - Ave g - xhat Ave(g xhat)) / sqrt(var + eps), g = dL/dy, xhat = (x - mean) / sqrt(var + eps)."""
        x, weight, mean, scale = ctx.saved_tensors
        others, shape = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
        g = grad_outputs[0].to(mean.dtype)
        xhat = (x.to(mean.dtype) - mean.view(shape)) * scale.view(shape)
        of_bias, of_weight = g.sum(others), (g * xhat).sum(others)
        averages = torch.stack([of_bias, of_weight]).double()
        dist.all_reduce(averages)
        of_all, along = ((part / ctx.n).to(mean.dtype).view(shape) for part in averages)
        factor = scale if weight is None else scale * weight.to(mean.dtype)
        of_x = (factor.view(shape) * (g - of_all - xhat * along)).to(x.dtype)
        wanted = zip(ctx.needs_input_grad[1:3], (of_weight, of_bias), strict=True)
        return of_x, *(value.to(weight.dtype) if needed else None for needed, value in wanted), None, None, None, None
