"""Longer checks of the training, on demand: several processes, and a run to collapse."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sims import train as command
from sims.training.config import protocol
from sims.training.record import Record

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes_train_the_network_of_one(tmp_path: Path) -> None:
    small = ["--epochs", "3", "--per-class", "31", "--test-per-class", "6", "--width", "0.05", "--robustness", "0"]
    # without batch normalisation, whose statistics are those of each process's share
    options = [*small, "--no-batch-norm", "--lr", "0.1", "--quiet", "--cpu"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "sims.train"]
    subprocess.run([*launch, *options, "--out", str(tmp_path / "two")], cwd=ROOT, check=True)
    subprocess.run([sys.executable, "-m", "sims.train", *options, "--out", str(tmp_path / "one")], cwd=ROOT, check=True)
    sessions = (json.loads((tmp_path / name / "provenance.json").read_text()) for name in ("one", "two"))
    assert [[session["processes"] for session in each] for each in sessions] == [[1], [2]]
    one, two = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["model"] for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_embedded_digits_collapse(tmp_path: Path) -> None:
    record: Record = command.train(protocol("digits", "mlp", "mse"), tmp_path)
    a = record.arrays
    assert record.zero_error_epoch is not None
    assert a["train_error"][-1] == 0
    at_zero = int(np.flatnonzero(record.epochs == record.zero_error_epoch)[0])
    for name in ("nc1", "nc2_equinorm", "nc2_equiangular", "nc2_maxangle", "nc3"):
        assert a[name][-1] < a[name][at_zero] / 2, name
    assert a["nc4"][-1] == 0 < a["nc4"][at_zero]
    np.testing.assert_allclose(a["loss_nc1"] + a["loss_nc23"] + a["loss_perp"], a["loss"], rtol=1e-10)
