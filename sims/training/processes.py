"""The processes of a training run, which wait for each other's measuring."""

from datetime import timedelta

from accelerate import Accelerator

from ufm.distributed import OneProcess, Processes, TorchProcesses

MEASURING_LIMIT = timedelta(hours=6)  # after which processes that wait for a measurement give up


def processes_of(accelerator: Accelerator) -> Processes:
    """The processes of an Accelerator: one, or torch's group of several."""
    return TorchProcesses(MEASURING_LIMIT) if accelerator.num_processes > 1 else OneProcess()
