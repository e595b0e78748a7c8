"""A network of the study as a task of `sims.sweeps`: trained, measured and stored by whichever process has it."""

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from sims.ledgers.gaussians import GaussianCell, run_gaussian
from sims.ledgers.training import NetworkCell, run_cell
from sims.training.data import Data, load
from sims.training.readers import DataChoice
from sims.training.session import set_threads
from ufm.files.json_objects import JsonObject, read_json
from ufm.files.store import provenance, write_text
from ufm.files.write_lock import write_lock


@dataclass(frozen=True)
class NetworkTask:
    """A network, its data, where it is stored, and how it is computed; plain values, that any process can be sent.

    choice       the data, which every process reads once; None where the network makes its own
    fingerprint  of the data, the same in every process
    """

    cell: NetworkCell | GaussianCell
    choice: DataChoice | None
    fingerprint: str | None
    path: Path
    device: str = "cpu"
    threads: int = 1

    @property
    def identity(self) -> JsonObject:
        """What a stored network must agree in to be this one."""
        return {"cell": asdict(self.cell), "data": self.fingerprint}

    def stored(self) -> JsonObject | None:
        """The network as it is stored, None where it is not. Raises ValueError for a file of another one."""
        if not self.path.exists():
            return None
        kept = read_json(self.path)
        differing = [key for key, value in self.identity.items() if kept.get(key) != value]
        if differing:
            raise ValueError(f"{self.path} was made with another {differing[0]}: choose another folder")
        return kept


def run_task(task: NetworkTask) -> None:
    """Train, measure and store a network: the same bits in every process, as the number of threads is the same (CPU).

    Nothing is done where it is stored by now. Raises ValueError where another command computes it.
    """
    set_threads(task.threads)
    with write_lock(task.path):
        if task.stored() is None:
            write_text(task.path, json.dumps(_computed(task), allow_nan=False) + "\n")


def _computed(task: NetworkTask) -> JsonObject:
    kept: JsonObject = task.identity | {"device": task.device, "provenance": provenance()}
    if isinstance(task.cell, GaussianCell):
        kept["ledgers"] = list(run_gaussian(task.cell))
    else:
        assert task.choice is not None
        data = _data_of_process(task.choice)
        if data.fingerprint != task.fingerprint:
            raise ValueError("the data are other ones in this process: give every worker the same files")
        kept["dataset"] = task.choice.dataset
        kept["ledgers"] = list(run_cell(task.cell, data, device=task.device))
    return kept


@lru_cache(maxsize=1)
def _data_of_process(choice: DataChoice) -> Data:
    return load(choice)
