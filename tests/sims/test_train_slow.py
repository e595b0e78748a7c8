"""Longer checks of the training, on demand: several processes, and a run to collapse."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sims import train as command
from sims.training.data import load
from sims.training.examples import Examples
from sims.training.folder import load_run
from sims.training.loop import network
from sims.training.nets import CLASSIFIER
from sims.training.protocol import protocol
from sims.training.session import PROCESS_COUNTS
from tests.sims.runs import assert_same_bits
from ufm.files.store import load_arrays
from ufm.monitor.network import measure_network
from ufm.monitor.record import Record

ROOT = Path(__file__).parents[2]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "sims.train"]
SMALL = [
    "--epochs",
    "3",
    "--per-class",
    "31",
    "--test-per-class",
    "6",
    "--width",
    "0.05",
    "--robustness",
    "0",
    "--quiet",
    "--cpu",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "norm",
    [
        ["--no-batch-norm", "--lr", "0.1"],  # without, its statistics are those of each process's share
        ["--sync-batch-norm", "--lr", "0.05"],
        ["--sync-batch-norm", "--lr", "0.05", "--net", "densenet40", "--memory-efficient", "--epochs", "1", "--measured", "1"],
    ],
)
def test_two_processes_train_the_network_of_one(norm: list[str], tmp_path: Path) -> None:
    options = [*SMALL, *norm]
    subprocess.run([*LAUNCH, *options, "--out", str(tmp_path / "two")], cwd=ROOT, check=True)
    subprocess.run([sys.executable, "-m", "sims.train", *options, "--out", str(tmp_path / "one")], cwd=ROOT, check=True)
    sessions = (json.loads((tmp_path / name / "provenance.json").read_text()) for name in ("one", "two"))
    assert [[session["processes"] for session in each] for each in sessions] == [[1], [2]]
    one, two = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["model"] for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--out", "finished"], "the processes are given different out: start all of them by the same command"),
        (["--lr", "0.2", "--batch-size", "9"], "the processes are given different lr, batch_size: start all"),
        (["--out", "elsewhere/run"], "elsewhere/run is not the folder that process 0 writes into: give all processes"),
        (["--hub", "nowhere"], "nowhere"),
    ],
)
def test_processes_of_different_options_are_refused_before_they_train(more: list[str], said: str, tmp_path: Path) -> None:
    """Each would train with its own, and they would wait for each other or store a mixture."""
    if "finished" in more:
        call = [sys.executable, "-m", "sims.train", *SMALL, "--out", "finished"]
        subprocess.run(call, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": "2"}
    where |= {"GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "sims.train", *SMALL, "--out", "run", *own],
            cwd=tmp_path,
            env={**os.environ, **where, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, own in enumerate(([], more))
    ]
    told = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [2, 2], told
    for text in told:
        assert text.startswith("sims.train: error: "), text
        assert said in text
        assert text.count("\n") == 1
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
def test_two_processes_resume_to_the_same_bits_and_one_of_them_speaks(tmp_path: Path) -> None:
    options = [option for option in SMALL if option != "--quiet"]
    call = [*LAUNCH, *options, "--save-features", "2", "--out"]
    in_the_way = tmp_path / "parts" / "features-0002.npz"
    in_the_way.mkdir(parents=True)
    assert subprocess.run([*call, str(tmp_path / "parts")], cwd=ROOT, check=False).returncode != 0
    in_the_way.rmdir()
    for name in ("whole", "parts"):
        done = subprocess.run([*call, str(tmp_path / name)], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        assert done.stdout.count("zero training error") == 1
    assert len(json.loads((tmp_path / "parts" / "provenance.json").read_text())) == 2
    assert_same_bits(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--save-features", "2"], "cannot write"),  # only process 0 stores
        (["--no-batch-norm", "--lr", "1e30"], "diverged in epoch 1"),
    ],
)
def test_an_error_of_one_process_ends_both(options: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "features-0002.npz").mkdir()  # in the way of the file
    began = time.monotonic()
    done = subprocess.run(
        [*LAUNCH, *SMALL, *options, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("sims.train: error: ")]
    assert said
    assert all(words in line for line in said)
    assert time.monotonic() - began < 120  # nobody waits for the end of the world


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


@pytest.mark.slow
def test_accelerate_launch_on_a_cpu_does_not_train_in_one_process_of_two(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m", "sims.train"]
    environment = {name: value for name, value in os.environ.items() if name not in (*PROCESS_COUNTS, "MASTER_PORT")}
    environment |= {"HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}  # no configuration file of a user's
    call = [*launch, *SMALL, "--out", str(tmp_path / "run")]
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "accelerate launch was asked for several processes and has started one" in done.stderr
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.slow
def test_a_number_of_processes_that_do_not_train_together_is_refused(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK")}
    call = [sys.executable, "-m", "sims.train", *[o for o in SMALL if o != "--cpu"], "--out", str(tmp_path / "run")]
    environment |= {"WORLD_SIZE": "2"}
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "WORLD_SIZE = 2 in the environment, and 1 of them trains here" in done.stderr
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("net", ["mlp", "resnet18"])
def test_what_two_processes_measure_is_the_network_of_the_checkpoint(net: str, tmp_path: Path) -> None:
    """With batch normalisation, whose running statistics differ between the processes until they are shared."""
    options = [*SMALL, "--net", net, "--epochs", "1", "--measured", "1", "--lr", "0.05", "--save-features", "1"]
    options[options.index("31")] = "60"  # 600 examples: three batches to measure, two of them process 0's
    subprocess.run([*LAUNCH, *options, "--out", str(tmp_path)], cwd=ROOT, check=True)
    config, record = load_run(tmp_path)
    data = load(config.data)
    model = network(config, data)
    model.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["model"])
    train, test = (Examples.of(split, data.normalizer, torch.device("cpu")).in_order() for split in (data.train, data.test))
    kept: list[np.ndarray] = []
    torch.set_num_threads(1)
    one = measure_network(
        model, train, CLASSIFIER, float(record.arrays["lambda"]), test, lambda *arrays: kept.extend(map(np.array, arrays))
    )
    stored = load_arrays(tmp_path / "features-0001.npz")
    np.testing.assert_array_equal(stored["labels"], kept[1])
    np.testing.assert_allclose(stored["features"], kept[0], rtol=1e-5, atol=1e-6)
    for name in ("nc1", "nc2_equinorm", "nc3", "nc4", "loss", "train_error", "test_error", "test_nc1"):
        assert record.arrays[name][-1] == pytest.approx(one.scalars[name], rel=1e-10), name
