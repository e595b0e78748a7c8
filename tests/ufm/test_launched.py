"""Processes that torchrun starts measure together what one does: on CPUs over gloo, on a card over NCCL or gloo."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.fresh import FreshProcesses
from tests.ufm.launched import expected, launch
from ufm.distributed import TorchProcesses
from ufm.files.checkpoint_writer import save_rows
from ufm.flow.command import main

CARD = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"))
JOBS = [
    pytest.param("cpu", "gloo", 2, id="gloo-2"),
    pytest.param("cuda", "nccl", 1, id="card-nccl", marks=CARD),
    pytest.param("cuda", "cuda:nccl", 1, id="card-nccl-named", marks=CARD),
    pytest.param("cuda", "cpu:gloo,cuda:nccl", 1, id="card-both", marks=CARD),
    pytest.param("cuda", "gloo", 2, id="card-gloo-2", marks=CARD),
]


@pytest.mark.parametrize(("device", "backend", "processes"), JOBS)
def test_they_measure_what_one_process_on_a_cpu_does(
    device: str, backend: str, processes: int, tmp_path: Path, fresh: FreshProcesses
) -> None:
    launch(
        fresh.python if device == "cpu" else sys.executable,
        processes,
        "tests.ufm.launched",
        device,
        backend,
        str(tmp_path / "out"),
    )
    reports = [json.loads((tmp_path / f"out-{rank}.json").read_text()) for rank in range(processes)]
    whole = expected()
    assert whole["network"]["nc1"] < 1e-9  # a sum of squares would have no digit of it
    ranks = np.arange(3)
    carried = [ranks * processes + sum(range(processes)), ranks, ranks * processes + sum(range(processes)), ranks]
    for report in reports:
        assert report.pop("carried") == [values.tolist() for values in carried]
        assert report.pop("reduced") == [processes] * 2
        assert report == reports[0], "the processes have different bits"
        assert report.keys() == whole.keys()
        for part, values in whole.items():
            close(part, report[part], values)


def test_the_command_on_a_checkpoint_is_that_of_one_process(tmp_path: Path, fresh: FreshProcesses) -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 3, 90)
    save_rows(tmp_path / "saved", rng.standard_normal((90, 5)) + 0.2 * labels[:, None], labels)
    call = ["--features", str(tmp_path / "saved"), "--quiet", "--points", "20", "--out"]
    assert main([*call, str(tmp_path / "one.npz")]) == 0
    launch(fresh.python, 2, "ufm.flow", *call, str(tmp_path / "two.npz"))
    one, two = (dict(np.load(tmp_path / f"{name}.npz")) for name in ("one", "two"))
    assert one.keys() == two.keys()
    np.testing.assert_allclose(two["omega"], one["omega"], rtol=1e-12)


def close(part: str, got: dict[str, Any], values: dict[str, Any]) -> None:
    """Equal to 1e-12 of each scalar and of the largest entry of each array."""
    assert got.keys() == values.keys()
    for name, value in values.items():
        scale = np.abs(value).max() if np.size(value) > 1 else abs(value)
        assert np.isfinite(scale), (part, name)
        np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-12 * scale + 1e-15, err_msg=f"{part} {name}")


@pytest.mark.parametrize(
    ("backends", "beside"),
    [("cpu:gloo,cuda:gloo", False), ("cuda:nccl", True), ("cpu:gloo,cuda:nccl", False), ("xpu:xccl", True)],
)
def test_gloo_carries_arrays_where_the_default_group_cannot(backends: str, beside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the default group is called: one that was started for CUDA alone carries no array of a CPU."""
    made: list[Any] = []
    stand_in = {
        "is_initialized": lambda: True,
        "get_backend": lambda: "undefined",
        "get_backend_config": lambda: backends,
        "get_rank": lambda: 0,
        "get_world_size": lambda: 1,
        "new_group": lambda **options: made.append(options) or "beside",
    }
    for name, function in stand_in.items():
        monkeypatch.setattr(dist, name, function)
    assert TorchProcesses().carrier == ("beside" if beside else None)
    assert [options["backend"] for options in made] == ["gloo"] * beside
