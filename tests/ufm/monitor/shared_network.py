"""One of several gloo processes that measure the shares of one data set by one network: run by test_shared_network."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.utils import prune

from tests.ufm.monitor.processes import collapsed
from ufm.distributed import Processes, TorchProcesses
from ufm.monitor import measure_network

CUTS = {"unequal": 60, "everything": 217, "nothing": 0}  # rows of process 0, of 217
LAM = 1e-3
Report = tuple[dict[str, float], dict[str, Any]]


def network(pruned: bool = False) -> nn.Sequential:
    """A classifier of the features themselves, in float64; a pruned one has the weights of before until a forward pass."""
    _, _, W, b = collapsed()
    head = nn.Linear(8, 5).double()
    with torch.no_grad():
        (prune.identity(head, "weight").weight_orig if pruned else head.weight).copy_(W)
        head.bias.copy_(b)
    return nn.Sequential(nn.Identity(), head)


def measured(share: slice, group: Processes | None = None, spoil: bool = False, pruned: bool = False) -> Report:
    """The scalars of a share of the data, the rest of the measurement, and what `keep` was given."""
    features, labels, *_ = collapsed()
    if spoil:
        features[share][-1] = torch.nan
    kept: dict[str, Any] = {}
    loaders = [list(zip(H[share].split(11), labels[share].split(11), strict=True)) for H in (features, features + 0.1)]
    result = measure_network(
        network(pruned), loaders[0], "1", LAM, loaders[1], lambda H, y: kept.update(H=H.tolist(), y=y.tolist()), group=group
    )
    assert result.test_snr is not None
    more = {"omega": result.snr.omega, "test_omega": result.test_snr.omega, "counts": result.counts, "kept": kept}
    return result.scalars, {name: np.asarray(value).tolist() if name != "kept" else value for name, value in more.items()}


if __name__ == "__main__":
    rank, world = int(sys.argv[1]), int(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=world)
    group, rows = TorchProcesses(), {}
    for name, cut in CUTS.items():
        rows[name] = measured(slice(0, cut) if rank == 0 else slice(cut, 217), group)
    try:
        measured(slice(0, 60) if rank == 0 else slice(60, 217), group, spoil=rank == 1)
    except ValueError as error:
        rows["spoiled"] = str(error)
    rows["pruned"] = measured(slice(0, 0) if rank == 0 else slice(0, 217), group, pruned=True)
    rows["after"] = measured(slice(0, 60) if rank == 0 else slice(60, 217), group)
    Path(f"{sys.argv[4]}-{rank}.json").write_text(json.dumps(rows))
    dist.destroy_process_group()
