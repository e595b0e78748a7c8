"""The processes of a training run, which wait for each other's measuring."""

import os
from datetime import timedelta

import torch.distributed as dist
from accelerate import Accelerator

from ufm.distributed import OneProcess, Processes, TorchProcesses, world_size
from ufm.lost_process import others_needed

MEASURING_LIMIT = timedelta(hours=6)  # after which processes that wait for a measurement give up
RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK")  # where processes meet, and which of them this is


def processes_of(accelerator: Accelerator) -> Processes:
    """The processes of an Accelerator: one, or torch's group of several."""
    return TorchProcesses(MEASURING_LIMIT) if accelerator.num_processes > 1 else OneProcess()


def check_device_alike(device: str) -> dist.Store | None:
    """Raise ValueError, in every process, where one computes on another type of device; the rest may differ between machines.

    It is asked before torch makes their group, in which gloo on a CPU and NCCL on a GPU would wait for each other. Returns what
    keeps open, in process 0, the port at which they meet.
    """
    if world_size() == 1 or not set(RENDEZVOUS) <= os.environ.keys():
        return None
    with others_needed():
        port, rank, size = next(dist.rendezvous("env://", timeout=MEASURING_LIMIT))
        store = dist.PrefixStore(f"device {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", port)
        first = store.compare_set("first", "", device).decode()
        store.add("others", int(device != first))
        if store.add("told", 1) == size:
            store.set("all told", "")
        store.wait(["all told"], MEASURING_LIMIT)
        others = store.add("others", 0)
        if store.add("heard", 1) == size:
            store.set("all heard", "")
        if rank == 0:  # it may have the port
            store.wait(["all heard"], MEASURING_LIMIT)
    if others:
        raise ValueError(f"the processes are given different devices, this one {device}: start all of them by the same command")
    return port
