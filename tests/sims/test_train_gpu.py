"""Training on one CUDA device under torchrun, which trains over NCCL: the run of one process without a launcher; on demand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.sims.test_train_slow import LAUNCH, SMALL
from ufm.files.store import load_arrays

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("norm", ["--no-sync-batch-norm", "--sync-batch-norm"])
def test_torchrun_on_one_card_trains_and_measures_as_no_launcher(norm: str, tmp_path: Path) -> None:
    options = [option for option in SMALL if option != "--cpu"]
    calls = {"plain": [sys.executable, "-m", "sims.train"], "launched": ["1" if word == "2" else word for word in LAUNCH]}
    environment = {**os.environ, "NCCL_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    for name, call in calls.items():
        run = [*call, *options, norm, "--lr", "0.05", "--save-features", "3", "--out", str(tmp_path / name)]
        done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        session = json.loads((tmp_path / name / "provenance.json").read_text())[0]
        assert session["processes"] == 1
    one, other = (load_arrays(tmp_path / name / "trajectory.npz") for name in calls)
    assert one.keys() == other.keys()
    for key in ("loss", "nc1", "nc3", "omega", "test_nc1"):
        np.testing.assert_allclose(other[key], one[key], rtol=1e-4, err_msg=key)
    features = (load_arrays(tmp_path / name / "features-0003.npz")["features"] for name in calls)
    np.testing.assert_allclose(*features, rtol=1e-4, atol=1e-5)
