"""One of several gloo processes that measure the shares of one data set: run by test_processes."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ufm.monitor import NeuralCollapse, watch

KINDS = ("classes", "seen", "regression", "empty")


def collapsed(regression: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features with tr Sigma_W / tr Sigma_B = 1e-10, or targets; a classifier that mostly errs."""
    rng = np.random.default_rng(3)
    labels = rng.permutation(np.repeat(np.arange(5), (40, 31, 54, 57, 35)))
    means = 20 + rng.standard_normal((5, 8))
    features = means[labels] + 1e-5 * rng.standard_normal((len(labels), 8))
    W, b = rng.standard_normal((5, 8)), rng.standard_normal(5)
    targets: Any = rng.standard_normal((len(labels), 5)) + labels[:, None] if regression else labels
    return tuple(torch.from_numpy(x) for x in (features, targets, W, b))  # type: ignore[return-value]


def measured(kind: str, share: slice) -> NeuralCollapse:
    """A metric that has seen a share of the data."""
    H, y, W, b = collapsed(kind == "regression")
    metric = (
        NeuralCollapse(targets="regression")
        if kind == "regression"
        else NeuralCollapse(5, lam=1e-3, classes="seen" if kind == "seen" else "all")
    )
    for h, t in zip(H[share].split(11), y[share].split(11), strict=True):
        metric.update(h, t, classifier=(W, b))
    return metric


def measured_alone() -> dict[str, float]:
    """What one process measures of the first 120 examples while the others do something else."""
    H, y, W, b = collapsed()
    head = torch.nn.Linear(8, 5).double()
    head.load_state_dict({"weight": W, "bias": b})
    return watch(torch.nn.Sequential(head), "0", lam=1e-3, sync_on_compute=False).measure([(H[:120], y[:120])])


if __name__ == "__main__":
    rank, world = int(sys.argv[1]), int(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=world)
    rows = {}
    for kind in KINDS:
        # unequal shares; with "empty" the last process has no example at all
        cut = 217 if kind == "empty" else 60
        metric = measured(kind, slice(0, cut) if rank == 0 else slice(cut, 217))
        rows[kind] = metric.compute()
        features, labels, *_ = collapsed(kind == "regression")
        metric.update(features[:0], labels[:0])  # forgets what was computed, and goes on
        assert metric.compute() == rows[kind], "the second compute gives other numbers than the first"
    if rank == 0:
        Path(f"{sys.argv[4]}-alone.json").write_text(json.dumps(measured_alone()))
    Path(f"{sys.argv[4]}-{rank}.json").write_text(json.dumps(rows))
    dist.destroy_process_group()
