"""One thread in every test of an experiment, and a finished run."""

from pathlib import Path

import pytest
import torch

from sims import train as command
from tests.sims.runs import tiny


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "finished"
    torch.set_num_threads(1)
    command.train(tiny(save_features=(2, 4)), path)
    return path
