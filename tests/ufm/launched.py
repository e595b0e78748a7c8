"""One of the processes that torchrun starts, on a CPU or on one card, and what it measures of its share: see test_launched."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from manifolds.class_centering import ClassLayout
from tests.ufm.monitor.processes import collapsed
from ufm.distributed import OneProcess, Processes, TorchProcesses
from ufm.features.sharded import factored_statistics
from ufm.features.statistics import StreamingStatistics
from ufm.monitor import NeuralCollapse, measure_network

ROOT = Path(__file__).parents[2]
CUT, LAM, LIMIT = 60, 1e-3, 300.0  # rows of process 0 of two; seconds
Report = dict[str, dict[str, Any]]


def measured(device: str, share: slice, group: Processes) -> Report:
    """The shared statistics, the metric and the network of a share of the data on a device, as numbers."""
    H, y, W, b = (x.to(device) for x in collapsed())
    mine, of_mine = H[share], y[share]
    stats = StreamingStatistics(5).update(mine, of_mine).merge_over(group, W).compute()
    layout = ClassLayout(tuple(torch.bincount(y).tolist()))
    blocks = [(h.cpu().numpy(), t.cpu().numpy()) for h, t in zip(mine.split(11), of_mine.split(11), strict=True)]
    factored = factored_statistics(lambda: blocks, layout, H.shape[1], np.finfo(np.float64).eps, group)
    metric = NeuralCollapse(5, lam=LAM).to(device)
    metric.update(mine, of_mine, classifier=(W, b))
    head = torch.nn.Linear(8, 5, dtype=torch.float64, device=device)
    head.load_state_dict({"weight": W, "bias": b})
    net = torch.nn.Sequential(torch.nn.Identity(), head)
    network = measure_network(net, [(mine, of_mine)], "1", LAM, [(mine + 0.1, of_mine)], group=group)
    for where in (stats.sigma_w, metric.scatter):
        assert where.device.type == torch.device(device).type, where.device
    return {
        "statistics": {"means": stats.means.tolist(), "sigma_w": stats.sigma_w.tolist()},
        "sharded": {"means": factored.centred_means.tolist(), "sigma_w": (factored.root @ factored.root.T).tolist()},
        "metric": metric.compute(),
        "network": {**network.scalars, "omega": network.snr.omega.tolist()},
    }


def launch(python: str, processes: int, module: str, *arguments: str) -> None:
    """Run a module by an interpreter in so many processes under torchrun. Fails where one of them does."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    call = [python, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m", module]
    environment |= {"OMP_NUM_THREADS": "1", "PYTHON_EXEC": python}
    done = subprocess.run(
        [*call, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]


def main(device: str, backend: str, out: str) -> None:
    """Join, measure a share, and write it to OUT-RANK.json, with the backends of the group that carries arrays of a CPU."""
    if device == "cuda":
        torch.cuda.set_device(0)
    dist.init_process_group(backend)
    group = TorchProcesses()
    share = slice(None) if group.size == 1 else slice(0, CUT) if group.rank == 0 else slice(CUT, None)
    report: dict[str, Any] = dict(measured(device, share, group))
    # at one process the statistics have nothing to merge: what carries them is asked by itself
    ranks = np.arange(3) + group.rank
    report["carried"] = [
        group.sum(ranks).tolist(),
        group.smallest(ranks).tolist(),
        group.combined(ranks.astype(float), np.add).tolist(),
        group.broadcast(ranks, 0).tolist(),
    ]
    there = torch.ones(2, device=device)
    dist.all_reduce(there)  # by the default group, on the device
    report["reduced"] = there.tolist()
    Path(f"{out}-{group.rank}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


def expected() -> Report:
    """What one process on a CPU measures of everything."""
    return measured("cpu", slice(None), OneProcess())


if __name__ == "__main__":
    main(*sys.argv[1:])
