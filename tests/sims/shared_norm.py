"""One of several gloo processes that normalise shares of one batch, on the device DEVICE: run by test_shared_statistics."""

import os
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from sims.training.shared_statistics import synchronized

DTYPES = ("float32", "float64")
# shape of x, rows of process 0, options of the normalisation
CASES: dict[str, tuple[tuple[int, ...], int, dict[str, Any]]] = {
    "vectors": ((11, 6), 4, {}),
    "images": ((7, 3, 4, 5), 5, {"momentum": None}),
    "far": ((9, 4), 3, {"momentum": 0.3}),
    "plain": ((8, 5), 1, {"affine": False, "track_running_stats": False}),
    "channel": ((6, 1, 3, 3), 2, {}),
    "nothing": ((6, 5), 0, {}),
}


def passed(name: str, dtype: str, share: slice, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Two passes forwards and backwards of the share of a batch: y, dL/dx, dL/d parameters of the last, and the buffers."""
    shape, _, options = CASES[name]
    generator, kind = torch.Generator().manual_seed(len(name)), getattr(torch, dtype)
    made = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    norm = made(shape[1], dtype=kind, **options)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    norm = synchronized(norm).to(device)
    for _ in range(2):
        everything = torch.randn(shape, generator=generator, dtype=torch.float64)
        everything += 100.0 if (name, dtype) == ("far", "float64") else 0.0  # float32 holds no 1e-6 of deviations from there
        x = everything.to(device, kind)[share].requires_grad_()
        weights = torch.randn(shape, generator=generator, dtype=torch.float64).to(device, kind)[share]
        norm.zero_grad()
        y = norm(x)
        (weights * y.square() + y.sin()).sum().backward()
    assert x.grad is not None
    result = {"y": y.detach(), "dx": x.grad, **dict(norm.named_buffers())}
    result |= {f"d_{name}": parameter.grad for name, parameter in norm.named_parameters() if parameter.grad is not None}
    return {name: value.cpu() for name, value in result.items()}


if __name__ == "__main__":
    rank, world, device = int(sys.argv[1]), int(sys.argv[2]), os.environ.get("DEVICE", "cpu")
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=world)
    report: dict[str, Any] = {}
    for name, (_, cut, _) in CASES.items():
        for dtype in DTYPES:
            report[f"{name} {dtype}"] = passed(name, dtype, slice(0, cut) if rank == 0 else slice(cut, None), device)
    try:
        synchronized(nn.BatchNorm1d(4)).to(device)(torch.zeros(1 - rank, 4, device=device))
    except ValueError as error:
        report["single"] = str(error)
    torch.save(report, f"{sys.argv[4]}-{rank}.pt")
    dist.destroy_process_group()
